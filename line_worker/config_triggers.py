"""What of line.toml says when a camera takes its picture, and which pictures show the same part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat

from line_worker.config_rules import LineRules
from line_worker.config_section import Name, Section


class FreeTrigger(Section):
    """Every picture of the source is a part."""

    kind: Literal["free"] = "free"


class HardwareTrigger(Section):
    """A signal at an input of a GenICam camera, such as a light barrier at "Line0"."""

    kind: Literal["hardware"]
    line: str = Field(default="Line0", min_length=1, max_length=64)
    edge: Literal["rising", "falling"] = "rising"


class _Asked(Section):
    """A trigger that comes from outside of the camera: the first picture `delay_ms` after it shows the part.

    NO_DECISION(NO_FRAME) when it has not come `timeout_ms` after the trigger; left out: half the camera's deadline.
    """

    delay_ms: float = Field(default=0.0, ge=0, le=600_000)
    timeout_ms: PositiveFloat | None = None


class IntervalTrigger(_Asked):
    """A picture every so many milliseconds, however many the camera gives."""

    kind: Literal["interval"]
    every_ms: float = Field(ge=1, le=86_400_000)


class SinkTrigger(_Asked):
    """The other side of a sink says that a part has come: a PLC by its register `triggers`, a client by HTTP."""

    kind: Literal["sink"]
    sink: Name


Trigger = Annotated[
    FreeTrigger | HardwareTrigger | IntervalTrigger | SinkTrigger,
    Field(discriminator="kind"),
]


class Parts(Section):
    """Parts that several cameras look at: one verdict each, under this name, by the deadline.

    passes: how many of the cameras must say PASS. match: what tells that two pictures show the same part: "id", the
    part id or else the trigger's number; "time", that they were triggered `within_ms` of each other.
    """

    name: Name
    cameras: tuple[Name, ...] = Field(min_length=1, max_length=32)
    deadline_ms: float | None = Field(default=None, gt=0, le=600_000)  # left out: the longest of its cameras
    passes: Literal["all"] | Annotated[int, Field(ge=1, le=32)] = "all"
    match: Literal["id", "time"] = "id"
    within_ms: float = Field(default=20.0, gt=0, le=60_000)
    rules: LineRules = LineRules()  # of the parts; each camera has its own

    @property
    def needed(self) -> int:
        """How many cameras must say PASS."""
        return len(self.cameras) if self.passes == "all" else self.passes


class Recipe(Section):
    """A bundle that the PLC can choose by its number."""

    number: int = Field(ge=1, le=0xFFFF)
    bundle: Path


def trigger_problems(raw: dict[str, Any]) -> list[str]:
    """Return what is wrong between triggers, parts, recipes and the rest; what each key may be is not checked here."""
    cameras, sinks = _tables(raw, "cameras"), _tables(raw, "sinks")
    problems = [problem for camera in cameras for problem in _of_camera(camera, sinks)]
    names = [camera.get("name") for camera in cameras]
    for parts in _tables(raw, "parts"):
        problems += _of_parts(parts, [str(name) for name in names if name], cameras)
    shared = [name for parts in _tables(raw, "parts") for name in _names(parts.get("cameras"))]
    problems += [f"parts: camera {n!r} is named twice; a picture shows one part" for n in _twice(shared)]
    problems += [f"parts: the name {n!r} is used twice" for n in _twice(p.get("name") for p in _tables(raw, "parts"))]
    waited = {_table(camera, "trigger").get("sink") for camera in cameras}
    idle = [sink.get("name", "http") for sink in sinks if sink.get("kind") == "http"]
    problems += [
        f'sinks: no camera waits for {name!r}; give one trigger = {{ kind = "sink", sink = "{name}" }}'
        for name in idle
        if name not in waited
    ]
    problems += [f"recipes: number {n} is used twice" for n in _twice(r.get("number") for r in _tables(raw, "recipes"))]
    return problems


def _of_camera(camera: dict[str, Any], sinks: list[dict[str, Any]]) -> list[str]:
    trigger, source, name = camera.get("trigger"), camera.get("source"), camera.get("name")
    if not isinstance(trigger, dict) or not isinstance(source, dict):
        return []
    kind = trigger.get("kind")
    if kind == "hardware" and source.get("kind") not in WITH_INPUTS:
        kinds = " or ".join(WITH_INPUTS)
        return [f"cameras: {name!r} has no input for a hardware trigger; that needs a source of kind {kinds}"]
    if kind in ("sink", "interval") and source.get("kind") == "replay":
        return [f"cameras: {name!r} is a recording, which has its own triggers; take the trigger out"]
    if kind != "sink":
        return []
    firing = {sink.get("name", sink.get("kind")): sink.get("kind") for sink in sinks}
    wanted = trigger.get("sink")
    if wanted is None or firing.get(wanted) in FIRING:
        return []
    able = [str(sink) for sink, kind in firing.items() if kind in FIRING]
    there = f"it could be {', '.join(able)}" if able else f"none here can: {', '.join(FIRING)}"
    return [f"cameras: {name!r} waits for sink {wanted!r}, which triggers nothing; {there}"]


def _of_parts(parts: dict[str, Any], cameras: list[str], raw: list[dict[str, Any]]) -> list[str]:
    name, views = parts.get("name"), _names(parts.get("cameras"))
    problems = [
        f"parts: {name!r} names camera {view!r}; there are {', '.join(cameras)}"
        for view in views
        if view not in cameras
    ]
    problems += _unmatched(parts, raw)
    if name in cameras:
        problems.append(f"parts: {name!r} is a camera's name; parts need one of their own")
    passes = parts.get("passes")
    if isinstance(passes, int) and passes > len(views):
        problems.append(f"parts: {name!r} asks for {passes} PASS of {len(views)} cameras; no part could pass")
    return problems


WITH_INPUTS = ("genicam", "gige", "basler")  # kinds of sources whose cameras have inputs for a trigger


def _unmatched(parts: dict[str, Any], cameras: list[dict[str, Any]]) -> list[str]:
    """Return why the pictures of a part cannot be told to be its own."""
    views = [camera for camera in cameras if camera.get("name") in _names(parts.get("cameras"))]
    triggers = [_table(camera, "trigger") for camera in views]
    if parts.get("match", "id") == "time":
        within = parts.get("within_ms", Parts.model_fields["within_ms"].default)
        every = [t["every_ms"] for t in triggers if isinstance(t.get("every_ms"), (int, float))]
        if every and isinstance(within, (int, float)) and 2 * within >= min(every):
            return [
                f"parts: {parts.get('name')!r}: within_ms = {within} should be under half of every_ms = {min(every)}"
            ]
        return []
    sinks = {trigger.get("sink") for trigger in triggers}
    if len(sinks) == 1 and None not in sinks:
        return []
    nameless = [str(v.get("name")) for v in views if _table(v, "source").get("kind") not in NAMING]
    if not nameless:
        return []
    how = 'trigger all cameras by one sink, or set match = "time"'
    return [f"parts: {parts.get('name')!r}: pictures of {', '.join(nameless)} carry no id to match by; {how}"]


def _table(raw: dict[str, Any], key: str) -> dict[str, Any]:
    value = raw.get(key)
    return value if isinstance(value, dict) else {}


NAMING = ("folder", "synthetic", "replay")  # kinds of sources that know their parts' ids
FIRING = ("plc", "s7", "opcua", "opcua-client", "ethernet-ip", "http")  # kinds of sinks whose other side can trigger


def _tables(raw: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = raw.get(key)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, (list, tuple)) else []


def _names(value: Any) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, (list, tuple)) else []


def _twice(values: Any) -> list[Any]:
    found = [value for value in values if value is not None]
    return [value for value in dict.fromkeys(found) if found.count(value) > 1]
