"""The program of a PLC that uses the registers as they are meant, without a PLC: time and registers are arguments.

It rejects by default. A part is accepted only for a result that is new (`toggle`), whose verdict is PASS beside its
complement, while the station's heartbeat moves and no fault is up, in sequence, and within the part's own window where
the PLC has triggered the part itself. Everything else is a reject, and so is a part for which nothing comes. Every
decision is booked. The line stands still while `stop_line` says so, which is counted; what comes meanwhile is
decided all the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from line_worker.sink.plc.registers import (
    ACTIVE_AT,
    MAP_VERSION,
    RESULT_AT,
    STOP_AT,
    TO_PLC,
    Active,
    Code,
    Fault,
    Plc,
    Result,
    Station,
    Stop,
    decode,
)

HEARTBEAT_S = 0.1  # between two of our own
STATION_SILENT_S = 1.0
BOOKED_GAP = 1000  # of a longer gap in the sequence only the end is booked part by part


@dataclass(frozen=True, slots=True)
class Booking:
    """One decision about one part. `received`: a result came for it; `at` is the PLC's own clock in seconds."""

    at: float
    accepted: bool
    why: str
    received: bool
    camera: str = ""
    epoch16: int = 0
    seq: int = -1
    trigger: int = 0
    part_id: str = ""
    verdict: str = ""
    reason16: int = 0
    score: float = 0.0
    bundle16: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the booking for a log."""
        return asdict(self)


class PlcProgram:
    """One PLC. `window_s`: how long a part that `trigger` announced waits for its result."""

    def __init__(self, window_s: float = 1.0) -> None:
        self._window_s = window_s
        self._plc = Plc()
        self._beat_at = float("-inf")
        self._station: Station | None = None
        self._station_at = float("-inf")
        self._toggle = 0  # of the last result that was taken
        self._last: dict[tuple[str, int], int] = {}  # (camera, epoch16) -> seq of the last result
        self._open: dict[int, float] = {}  # trigger -> when it came
        self.booked: deque[Booking] = deque()
        self.received = self.accepted = 0
        self.active = Active()  # the recipe that inspects
        self.stop_line = self.stops = 0  # why the line stands still, and how often it had to

    def trigger(self, now: float, part_id: str = "") -> int:
        """A part has come: open its window; returns its trigger count, from 1."""
        number = (self._plc.triggers + 1) & 0xFFFFFFFF
        self._plc = replace(self._plc, triggers=number, next_part=part_id)
        self._open[number] = now
        return number

    @property
    def triggers(self) -> int:
        """How many parts have come."""
        return self._plc.triggers

    @property
    def synchronised(self) -> bool:
        """Whether results may come."""
        return self._station is not None and self._station.sync != 0 and self._station.sync == self._plc.sync_echo

    def select(self, recipe: int) -> None:
        """The recipe of this number is to inspect."""
        self._plc = replace(self._plc, recipe_wanted=recipe)

    def scan(self, words: Sequence[int], now: float) -> Plc:
        """Take the registers `Station`, `Result`, `Stop` and `Active`, decide, and return what the PLC writes."""
        station, result = decode(Station, words[:RESULT_AT]), decode(Result, words[RESULT_AT:STOP_AT])
        if self._station is not None and station.heartbeat != self._station.heartbeat:
            self._station_at = now
        self._station = station
        if station.map_version == MAP_VERSION and station.sync:
            self.active = decode(Active, words[ACTIVE_AT : TO_PLC.stop])
            self._stand_still(decode(Stop, words[STOP_AT:ACTIVE_AT]).stop_line)
            if station.sync != self._plc.sync_echo:
                self._synchronise(station.sync, result.toggle, now)
            elif result.toggle != self._toggle:
                self._take(station, result, now)
        return self.idle(now)

    def idle(self, now: float) -> Plc:
        """Run the timers alone, when nothing was read; returns what the PLC writes."""
        for number in [n for n, at in self._open.items() if now - at > self._window_s]:
            del self._open[number]
            self._book(Booking(now, accepted=False, why="WINDOW", received=False, trigger=number))
        if now - self._beat_at >= HEARTBEAT_S:
            self._beat_at = now
            self._plc = replace(self._plc, plc_heartbeat=(self._plc.plc_heartbeat + 1) & 0xFFFF)
        return self._plc

    def _stand_still(self, cause: int) -> None:
        self.stops += bool(cause and not self.stop_line)
        self.stop_line = cause

    def _synchronise(self, sync: int, toggle: int, now: float) -> None:
        for number in list(self._open):
            self._book(Booking(now, accepted=False, why="SYNC", received=False, trigger=number))
        self._open.clear()
        self._toggle = toggle
        self._plc = replace(self._plc, sync_echo=sync)

    def _take(self, station: Station, result: Result, now: float) -> None:
        why = self._objection(station, result, now)
        self._book_gap(result, now)
        self._toggle = result.toggle
        self._last[result.camera, result.epoch16] = result.seq
        self._open.pop(result.trigger, None)
        self._plc = replace(self._plc, ack_seq=result.seq, ack_toggle=result.toggle)
        self._book(
            Booking(
                *(now, not why, why or "PASS", True, result.camera, result.epoch16, result.seq, result.trigger),
                *(result.part_id, _name(result.verdict), result.reason16, result.score, result.bundle16),
            )
        )

    def _objection(self, station: Station, result: Result, now: float) -> str:
        """Return why the part is rejected, or nothing."""
        if result.verdict ^ result.complement != 0xFFFF:
            return "COMPLEMENT"
        if now - self._station_at > STATION_SILENT_S:
            return "HEARTBEAT"
        if station.fault != Fault.NONE:
            return "FAULT"
        if result.seq <= self._last.get((result.camera, result.epoch16), -1):
            return "SEQUENCE"
        if 0 < result.trigger <= self._plc.triggers and result.trigger not in self._open:
            return "LATE"
        return "" if result.verdict == Code.PASS else _name(result.verdict)

    def _book_gap(self, result: Result, now: float) -> None:
        """Parts between the last result and this one got none: they are rejected."""
        last = self._last.get((result.camera, result.epoch16), result.seq - 1)
        for seq in range(max(last + 1, result.seq - BOOKED_GAP), result.seq):
            missing = Booking(now, False, "MISSING", False, result.camera, result.epoch16, seq)
            self._book(missing)

    def _book(self, booking: Booking) -> None:
        self.received += booking.received
        self.accepted += booking.accepted
        self.booked.append(booking)


def _name(verdict: int) -> str:
    return Code(verdict).name if verdict in {code.value for code in Code} else f"0x{verdict:04X}"
