"""Whether sinks for a PLC may be there: one port for two servers, two maps in one PLC, a replay that drives one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from line_worker.config_sinks import OpcUaSink, PlcSink

MAP_SIZE = 71  # registers of one map; the sink's own table is checked against this
_KINDS: dict[str, type[PlcSink | OpcUaSink]] = {"plc": PlcSink, "opcua": OpcUaSink}
_KEYS = ("host", "port", "mode", "unit", "base")


def clashes(sinks: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong between the PLC sinks among `sinks`, the tables of line.toml."""
    plcs = [_settings(sink) for sink in sinks if sink.get("kind") in _KINDS]
    return [problem for one, other in combinations(plcs, 2) for problem in _between(one, other)]


def driven_by_replay(cameras: list[dict[str, Any]], sinks: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong where a recording would move real parts: a replay never drives a PLC."""
    sources = [camera["source"] for camera in cameras if isinstance(camera.get("source"), dict)]
    if all(source.get("kind") != "replay" for source in sources):
        return []
    remedies = {"plc": ("simulate", False, "simulate = true"), "opcua": ("handshake", True, "handshake = false")}
    problems = []
    for sink in sinks:
        key, drives, remedy = remedies.get(str(sink.get("kind")), ("", None, ""))
        if key and sink.get(key, drives) is drives:
            name = sink.get("name", sink["kind"])
            problems.append(f"sinks: {name!r} drives a PLC, and a camera is a replay; take it out, or set {remedy}")
    return problems


def _settings(sink: dict[str, Any]) -> dict[str, Any]:
    fields = _KINDS[sink["kind"]].model_fields
    defaults = {"mode": "server"} | {key: fields[key].default for key in ("name", *_KEYS) if key in fields}
    return defaults | {key: sink[key] for key in ("name", *_KEYS) if key in sink}


def _between(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    names = f"{one['name']!r} and {other['name']!r}"
    place = f"{one['host']}:{one['port']}"
    if (one["host"], one["port"]) != (other["host"], other["port"]):
        return
    if "server" in (one["mode"], other["mode"]):
        yield f"sinks: {names} both use {place}, where only one server can listen; give one of them another port"
    elif one["unit"] == other["unit"] and _overlap(one["base"], other["base"]):
        yield (
            f"sinks: the register maps of {names} overlap in unit {one['unit']} of {place}: each takes {MAP_SIZE} "
            f"registers, from {one['base']} and from {other['base']}; move one base by {MAP_SIZE} or more"
        )


def _overlap(one: Any, other: Any) -> bool:
    return isinstance(one, int) and isinstance(other, int) and abs(one - other) < MAP_SIZE
