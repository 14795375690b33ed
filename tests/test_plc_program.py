"""The simulated PLC's program: it rejects by default, and accepts only what is whole, fresh, new and in time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from line_worker.sink.plc.program import BOOKED_GAP, STATION_SILENT_S, PlcProgram
from line_worker.sink.plc.registers import MAP_VERSION, Active, Code, Fault, Plc, Result, Station, Stop, encode


class Rig:
    """A program that has synchronised with a healthy station."""

    def __init__(self, window_s: float = 0.2) -> None:
        self.program = PlcProgram(window_s)
        self.now, self.station, self.result, self.stop = 10.0, Station(sync=33), Result(toggle=8), Stop()
        self.plc = self.scan()
        self.plc = self.scan(0.05)

    def scan(self, seconds: float = 0.01, *, beat: bool = True) -> Plc:
        self.now += seconds
        if beat:
            self.station = replace(self.station, heartbeat=self.station.heartbeat + 1)
        self.plc = self.program.scan(
            encode(self.station) + encode(self.result) + encode(self.stop) + encode(Active()), self.now
        )
        return self.plc

    def show(self, seq: int, code: int = Code.PASS, **changes: int) -> str:
        """Show a result, scan once; returns why it was accepted or not."""
        values = {"complement": 0xFFFF ^ code, "toggle": self.result.toggle + 1} | changes
        self.result = replace(self.result, seq=seq, verdict=code, camera="top", **values)
        self.scan()
        return self.last

    @property
    def last(self) -> str:
        return self.program.booked[-1].why

    @property
    def whys(self) -> list[str]:
        return [booking.why for booking in self.program.booked]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_a_pass_is_accepted_and_acknowledged(rig: Rig) -> None:
    assert rig.show(0) == "PASS"
    assert (rig.plc.ack_seq, rig.plc.ack_toggle, rig.plc.sync_echo) == (0, 9, 33)
    (booking,) = rig.program.booked
    assert booking.accepted
    assert (booking.camera, booking.verdict, rig.program.received, rig.program.accepted) == ("top", "PASS", 1, 1)


def test_what_stood_there_before_it_synchronised_is_not_taken(rig: Rig) -> None:
    assert not rig.program.booked
    rig.scan()
    assert not rig.program.booked


def test_the_line_is_stopped_once_for_each_cause_to_stop(rig: Rig) -> None:
    for code in (3, 3, 0, 5, 0):
        rig.stop = Stop(code)
        rig.scan()
        assert rig.program.stop_line == code
    assert rig.program.stops == 2
    assert rig.show(0) == "PASS", "what is on its way is decided all the same"


def test_a_result_is_taken_once(rig: Rig) -> None:
    rig.show(0)
    for _ in range(5):
        rig.scan()
    assert rig.whys == ["PASS"]


@pytest.mark.parametrize(
    ("code", "why"), [(Code.FAIL, "FAIL"), (Code.NO_DECISION, "NO_DECISION"), (0, "0x0000"), (0xFFFF, "0xFFFF")]
)
def test_anything_but_pass_rejects(rig: Rig, code: int, why: str) -> None:
    assert rig.show(0, code) == why
    assert rig.program.accepted == 0


def test_a_wrong_complement_rejects(rig: Rig) -> None:
    assert rig.show(0, complement=0xA55B) == "COMPLEMENT"


def test_a_frozen_heartbeat_rejects(rig: Rig) -> None:
    rig.scan(STATION_SILENT_S + 0.01, beat=False)
    rig.station = replace(rig.station, heartbeat=rig.station.heartbeat - 1)  # so that `show` does not move it
    assert rig.show(0) == "HEARTBEAT"


def test_a_fault_rejects(rig: Rig) -> None:
    rig.station = replace(rig.station, fault=Fault.WRONG_ACK)
    assert rig.show(0) == "FAULT"


@pytest.mark.parametrize("seq", [5, 4, 0])
def test_a_repeated_or_older_part_rejects(rig: Rig, seq: int) -> None:
    rig.show(5)
    assert rig.show(seq) == "SEQUENCE"


def test_a_new_start_of_the_camera_counts_from_zero(rig: Rig) -> None:
    rig.show(5)
    assert rig.show(0, epoch16=1) == "PASS"


def test_parts_without_a_result_are_rejected(rig: Rig) -> None:
    rig.show(5)
    rig.show(8)
    assert rig.whys == ["PASS", "MISSING", "MISSING", "PASS"]
    assert [booking.seq for booking in rig.program.booked] == [5, 6, 7, 8]
    assert rig.program.received == 2


def test_a_long_gap_is_booked_by_its_end_only(rig: Rig) -> None:
    rig.show(0)
    rig.show(5000)
    missing = [booking.seq for booking in rig.program.booked if booking.why == "MISSING"]
    assert missing == list(range(5000 - BOOKED_GAP, 5000))


def test_a_triggered_part_without_a_result_is_rejected_when_its_window_ends(rig: Rig) -> None:
    number = rig.program.trigger(rig.now)
    rig.scan(0.19)
    assert not rig.program.booked
    rig.scan(0.02)
    assert (rig.last, rig.program.booked[-1].trigger, rig.plc.triggers) == ("WINDOW", number, 1)


def test_a_pass_after_the_window_is_late(rig: Rig) -> None:
    number = rig.program.trigger(rig.now)
    rig.scan(0.21)
    assert rig.show(0, trigger=number) == "LATE"
    assert rig.whys == ["WINDOW", "LATE"]


def test_a_pass_within_the_window_closes_it(rig: Rig) -> None:
    number = rig.program.trigger(rig.now)
    rig.scan(0.1)
    assert rig.show(0, trigger=number) == "PASS"
    rig.scan(0.5)
    assert rig.whys == ["PASS"]


def test_a_new_sync_drops_what_is_open_and_what_is_shown(rig: Rig) -> None:
    rig.program.trigger(rig.now)
    rig.station = replace(rig.station, sync=34)
    rig.result = replace(rig.result, toggle=99, verdict=Code.PASS, complement=0xFFFF ^ Code.PASS)
    assert rig.scan().sync_echo == 34
    rig.scan(0.5)
    assert rig.whys == ["SYNC"]


def test_another_map_is_not_understood_so_nothing_is_accepted(rig: Rig) -> None:
    rig.station = replace(rig.station, map_version=MAP_VERSION + 1)
    rig.result = replace(rig.result, toggle=99, verdict=Code.PASS, complement=0xFFFF ^ Code.PASS)
    rig.scan()
    assert not rig.program.booked


def test_its_heartbeat_moves_every_tenth_of_a_second_with_or_without_the_station(rig: Rig) -> None:
    beats = [rig.program.idle(rig.now + tenth * 0.1001).plc_heartbeat for tenth in range(1, 11)]
    assert beats == list(range(beats[0], beats[0] + 10))
    assert rig.program.idle(rig.now + 1.05).plc_heartbeat == beats[-1]
