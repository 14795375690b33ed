"""Whether two sinks get into each other's way: one port for two servers, or two maps in one PLC's registers."""

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
