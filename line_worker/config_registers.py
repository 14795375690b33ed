"""Whether sinks for a PLC may be there: one port for two servers, two maps in one PLC, a replay that drives one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from line_worker.config_plcs import PLCS, OpcUaSink, PlcSink, S7Sink

MAP_SIZE = 88  # registers of one map; the sink's own table is checked against this
_KINDS: dict[str, type[PlcSink | S7Sink | OpcUaSink]] = {"plc": PlcSink, "s7": S7Sink, "opcua": OpcUaSink}
_MODES = {"s7": "client", "opcua": "server"}
_SPACES = {"plc": ("unit",), "s7": ("rack", "slot", "db")}  # what tells two memories behind one address apart
_MEMORY = {"opcua-client": ("url", "nodes"), "ethernet-ip": ("host", "port", "slot", "to_plc")}  # for one sink alone
_STEPS = {"plc": (MAP_SIZE, "registers"), "s7": (2 * MAP_SIZE, "bytes")}
_KEYS = ("name", "host", "port", "mode", "base", *(key for space in _SPACES.values() for key in space))


def clashes(sinks: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong between the PLC sinks among `sinks`, the tables of line.toml."""
    plcs = [_settings(sink) for sink in sinks if sink.get("kind") in _KINDS and _has_place(sink)]
    return [problem for one, other in combinations(plcs, 2) for problem in _between(one, other)] + _shared(sinks)


def _shared(sinks: list[dict[str, Any]]) -> list[str]:
    problems = []
    for one, other in combinations([sink for sink in sinks if sink.get("kind") in _MEMORY], 2):
        keys = _MEMORY[one["kind"]]
        if one["kind"] == other["kind"] and all(_value(one, key) == _value(other, key) is not None for key in keys):
            names = f"{_value(one, 'name')!r} and {_value(other, 'name')!r}"
            where = ", ".join(f"{key} {_value(one, key)}" for key in keys)
            problems.append(f"sinks: {names} write to the same memory ({where}); give each its own")
    return problems


def _value(sink: dict[str, Any], key: str) -> Any:
    """Return what `sink` says of `key`, None where it says nothing and must."""
    field = PLCS[sink["kind"]].model_fields[key]
    return sink.get(key, None if field.is_required() else field.default)


def of_one_camera(names: list[str], parts: list[dict[str, Any]], sinks: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with digital outputs, which say PASS or REJECT and not of which part.

    `names` are the cameras', `parts` the tables of what several of them look at.
    """
    views = {camera for one in parts for camera in one.get("cameras", ())}
    whole = [str(one.get("name")) for one in parts]
    shown = whole + [name for name in names if name not in views]
    problems = []
    for sink in (sink for sink in sinks if sink.get("kind") == "gpio"):
        name, camera = sink.get("name", "gpio"), sink.get("camera", "")
        if camera and camera not in names + whole:
            problems.append(f"sinks: {name!r}: there is no camera {camera!r} (there are: {', '.join(names + whole)})")
        if not camera and len(shown) > 1:
            problems.append(f"sinks: {name!r}: its lines cannot tell the parts of several cameras apart; set camera")
    return problems


def driven_by_replay(cameras: list[dict[str, Any]], sinks: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong where a recording would move real parts: a replay never drives a PLC."""
    sources = [camera["source"] for camera in cameras if isinstance(camera.get("source"), dict)]
    if all(source.get("kind") != "replay" for source in sources):
        return []
    remedies: dict[str, tuple[str, bool | None, str]] = {
        "plc": ("simulate", False, ", or set simulate = true"),
        "opcua": ("handshake", True, ", or set handshake = false"),
    } | dict.fromkeys(("s7", "opcua-client", "ethernet-ip", "gpio"), ("", None, ""))
    problems = []
    for sink in sinks:
        if str(sink.get("kind")) not in remedies:
            continue
        key, drives, remedy = remedies[sink["kind"]]
        if sink.get(key, drives) is drives:
            name = sink.get("name", sink["kind"])
            problems.append(f"sinks: {name!r} drives a PLC, and a camera is a replay; take it out{remedy}")
    return problems


def _has_place(sink: dict[str, Any]) -> bool:
    """Whether the keys that a sink must give are there; what is missing is told elsewhere."""
    fields = _KINDS[sink["kind"]].model_fields
    return all(key in sink for key in _KEYS if key in fields and fields[key].is_required())


def _settings(sink: dict[str, Any]) -> dict[str, Any]:
    kind = sink["kind"]
    fields = _KINDS[kind].model_fields
    defaults = {"kind": kind, "mode": _MODES.get(kind)} | {key: fields[key].default for key in _KEYS if key in fields}
    return defaults | {key: sink[key] for key in _KEYS if key in sink}


def _between(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    names = f"{one['name']!r} and {other['name']!r}"
    place = f"{one['host']}:{one['port']}"
    if (one["host"], one["port"]) != (other["host"], other["port"]):
        return
    if "server" in (one["mode"], other["mode"]):
        yield f"sinks: {names} both use {place}, where only one server can listen; give one of them another port"
    elif one["kind"] == other["kind"] and _space(one) == _space(other) and _overlap(one, other):
        size, unit = _STEPS[one["kind"]]
        yield (
            f"sinks: the register maps of {names} overlap in {_space(one)} of {place}: each takes {size} "
            f"{unit}, from {one['base']} and from {other['base']}; move one base by {size} or more"
        )


def _space(sink: dict[str, Any]) -> str:
    return ", ".join(f"{key} {sink[key]}" for key in _SPACES[sink["kind"]])


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    bases = (one["base"], other["base"])
    return all(isinstance(base, int) for base in bases) and abs(bases[0] - bases[1]) < _STEPS[one["kind"]][0]
