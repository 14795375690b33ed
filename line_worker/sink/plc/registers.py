"""The PLC's registers: ONE table, from which encoding, decoding, what is printed (`printed.py`) and the twin derive.

Five blocks of 16-bit Modbus holding registers, each a dataclass whose fields are the table's rows:

    Station   offset  0    to the PLC     how the station is
    Result    offset 10    to the PLC     the oldest result that the PLC has not acknowledged
    Stop      offset 48    to the PLC     whether the line should stand still
    Active    offset 49    to the PLC     the recipe that inspects
    Plc       offset 64    from the PLC   heartbeat, synchronisation, acknowledgement, triggers, the recipe it wants

Numbers of two registers have the high word first; text has the first character in the high byte and ends in zeros.
Read all four to the PLC in one request: then a result is never seen half-written.
"""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple, TypeVar

from line_worker.verdicts import Reason, RecipeState, StationState, StopCause
from line_worker.wire.messages import Outcome

MAP_VERSION = 3
BLOCK = TypeVar("BLOCK", bound="Station | Result | Stop | Active | Plc")


class Code(IntEnum):
    """What stands in `verdict`. Any two differ in eight bits, and so does each from the others' complements."""

    PASS = 0x5AA5
    FAIL = 0x3CC3
    NO_DECISION = 0x0FF0


class Fault(IntEnum):
    """Why the handshake has stopped until the PLC synchronises again."""

    NONE = 0
    OVERFLOW = 1  # more results than the queue holds were not acknowledged
    WRONG_ACK = 2  # the PLC acknowledged a sequence number that was not on show


class Row(NamedTuple):
    """One row of the table; `offset` and `width` count registers from the configured base address."""

    name: str
    offset: int
    width: int
    kind: str
    direction: str
    meaning: str


def _row(offset: int, kind: str, meaning: str, default: Any = 0) -> Any:
    return dataclasses.field(default=default, metadata={"row": (offset, kind, meaning)})


CODES: dict[str, type[IntEnum]] = {
    "verdict": Code,
    "state": StationState,
    "fault": Fault,
    "reason16": Reason,
    "stop_line": StopCause,
    "recipe_state": RecipeState,
}
_TO, _FROM = "to PLC", "from PLC"
_FORMATS = {"u16": ("H", 1), "u32": ("I", 2), "f32": ("f", 2), "text16": ("16s", 8), "text32": ("32s", 16)}


@dataclass(frozen=True, slots=True)
class Station:
    """How the station is; changes at any time."""

    map_version: int = _row(0, "u16", "version of this table", MAP_VERSION)
    heartbeat: int = _row(1, "u16", "+1 at least every 100 ms while decisions are made; frozen for a second: reject")
    alive: int = _row(2, "u16", "1 while the heartbeat is driven, 0 once it has stood still for a second")
    state: int = _row(3, "u16", "state of the station, see below; FAULT also while `fault` is not 0")
    fault: int = _row(4, "u16", "why the handshake has stopped, see below")
    sync: int = _row(5, "u16", "copy it to `sync_echo` to (re)start; a new number after a start or a fault")
    queued: int = _row(6, "u16", "results that wait for acknowledgement; one too many is fault OVERFLOW")
    expired: int = _row(7, "u16", "results dropped since the start because their time was over (wraps)")
    workers: int = _row(8, "u16", "workers that are ready")
    open_parts: int = _row(9, "u16", "parts that are being decided")


@dataclass(frozen=True, slots=True)
class Result:
    """The result on show; it changes only together with `toggle`, except that a PASS may be withdrawn."""

    seq: int = _row(10, "u32", "number of the part since the camera's start, from 0 (low 32 bits)")
    epoch16: int = _row(12, "u16", "low 16 bits of the number of the camera's start")
    verdict: int = _row(13, "u16", "0x5AA5 = PASS; anything else rejects", Code.NO_DECISION)
    complement: int = _row(14, "u16", "the verdict with all bits inverted; otherwise reject", 0xFFFF ^ Code.NO_DECISION)
    reason16: int = _row(15, "u16", "reason, see below", Reason.NOT_RUNNING)
    score: float = _row(16, "f32", "anomaly score, 0 without one", 0.0)
    threshold: float = _row(18, "f32", "the score above which a part fails, 0 without one", 0.0)
    bundle16: int = _row(20, "u16", "first four hexadecimal digits of the bundle's sha256")
    trigger: int = _row(21, "u32", "the camera's trigger count for this part, 0 if it has none")
    camera: str = _row(23, "text16", "name of the camera, first 16 characters", "")
    part_id: str = _row(31, "text32", "the part's id, first 32 characters", "")
    toggle: int = _row(47, "u16", "another number with every result, never 0 for a result")


@dataclass(frozen=True, slots=True)
class Stop:
    """Whether the line should stand still; changes at any time."""

    stop_line: int = _row(48, "u16", "not 0: stop the line until the operator has re-armed it, see below")


@dataclass(frozen=True, slots=True)
class Active:
    """The recipe that inspects; changes between two parts."""

    recipe: int = _row(49, "u16", "number of the recipe that inspects, 0 when it has none")
    recipe_state: int = _row(50, "u16", "what became of `recipe_wanted`, see below")


@dataclass(frozen=True, slots=True)
class Plc:
    """What the PLC tells; write it in one request, or `next_part` before `triggers` and `ack_toggle` last."""

    plc_heartbeat: int = _row(64, "u16", "any change, at least every second; without it nothing passes")
    sync_echo: int = _row(65, "u16", "copy of `sync` once the PLC has dropped all open results; 0 at its start")
    triggers: int = _row(66, "u32", "+1 with every part that comes, from 0: it triggers the cameras that wait for it")
    ack_seq: int = _row(68, "u32", "`seq` of the result that was taken")
    ack_toggle: int = _row(70, "u16", "its `toggle`: this acknowledges")
    next_part: str = _row(71, "text32", "id of the part that `triggers` counts, empty without one", "")
    recipe_wanted: int = _row(87, "u16", "number of the recipe that should inspect, 0 to leave it as it is")


Block = Station | Result | Stop | Active | Plc
_DIRECTIONS: dict[type[Block], str] = {Station: _TO, Result: _TO, Stop: _TO, Active: _TO, Plc: _FROM}


def _rows(block: type[Block]) -> list[Row]:
    found = []
    for field in dataclasses.fields(block):
        offset, kind, meaning = field.metadata["row"]
        found.append(Row(field.name, offset, _FORMATS[kind][1], kind, _DIRECTIONS[block], meaning))
    return found


TABLE: tuple[Row, ...] = tuple(row for block in _DIRECTIONS for row in _rows(block))
RESULT_AT, STOP_AT, ACTIVE_AT = 10, 48, 49
TO_PLC = range(51)
FROM_PLC = range(64, 88)
SIZE = FROM_PLC.stop  # registers 51 to 63 are reserved and read as 0


_Layout = tuple[struct.Struct, struct.Struct, tuple[str, ...]]


def _format(block: type[Block]) -> _Layout:
    """Return the layout of the block's bytes, the same bytes as registers, and the names of its fields."""
    rows = _rows(block)
    words = sum(row.width for row in rows)
    layout = struct.Struct(">" + "".join(_FORMATS[row.kind][0] for row in rows))
    return layout, struct.Struct(f">{words}H"), tuple(row.name for row in rows)


_LAYOUTS: dict[type, _Layout] = {block: _format(block) for block in _DIRECTIONS}


def encode(block: Block) -> list[int]:
    """Return the registers of `block`, from its first offset on."""
    layout, words, names = _LAYOUTS[type(block)]
    return list(words.unpack(layout.pack(*(_raw(getattr(block, name)) for name in names))))


def decode(block: type[BLOCK], words: Sequence[int]) -> BLOCK:
    """Return the `block` whose registers are `words`; ValueError when their number is wrong."""
    layout, packed, names = _LAYOUTS[block]
    if len(words) * 2 != layout.size:
        raise ValueError(f"{block.__name__} has {layout.size // 2} registers, not {len(words)}")
    values = layout.unpack(packed.pack(*words))
    return block(**{name: _text(value) for name, value in zip(names, values, strict=True)})


def to_plc(words: Sequence[int]) -> dict[str, Any]:
    """Return the rows to the PLC by name; `words` are the whole of `TO_PLC`."""
    blocks = (
        decode(Station, words[:RESULT_AT]),
        decode(Result, words[RESULT_AT:STOP_AT]),
        decode(Stop, words[STOP_AT:ACTIVE_AT]),
        decode(Active, words[ACTIVE_AT:]),
    )
    return {name: getattr(block, name) for block in blocks for name in block.__dataclass_fields__}


def _raw(value: Any) -> Any:
    return value.encode("ascii", "replace") if isinstance(value, str) else value


def _text(value: Any) -> Any:
    return value.rstrip(b"\0").decode("ascii", "replace") if isinstance(value, bytes) else value


def result_of(outcome: Outcome, toggle: int = 0) -> Result:
    """Return `outcome` as registers show it."""
    code = Code[outcome.verdict]
    return Result(
        seq=outcome.key.seq & 0xFFFFFFFF,
        epoch16=outcome.key.epoch & 0xFFFF,
        verdict=code,
        complement=0xFFFF ^ code,
        reason16=outcome.reason,
        score=_f32(outcome.score),
        threshold=_f32(outcome.threshold),
        bundle16=fingerprint16(outcome.bundle),
        trigger=outcome.trigger & 0xFFFFFFFF,
        camera=outcome.key.camera,
        part_id=outcome.part_id,
        toggle=toggle,
    )


def withdrawn(result: Result, reason: Reason) -> Result:
    """Return `result` as NO_DECISION for `reason`."""
    code = Code.NO_DECISION
    return dataclasses.replace(result, verdict=code, complement=0xFFFF ^ code, reason16=reason)


def fingerprint16(bundle: str) -> int:
    """Return the first four hexadecimal digits of a bundle's sha256; 0 without a bundle or for a stub."""
    try:
        return int(bundle[:4], 16)
    except ValueError:
        return 0


def _f32(value: float | None) -> float:
    """Return `value` within the range of a 32-bit float."""
    limit = 3.4e38
    return 0.0 if value is None or math.isnan(value) else min(max(value, -limit), limit)
