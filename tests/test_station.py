"""The station's state follows the facts; only RUNNING may pass parts."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from line_worker.hub.station import DARK_S, FAULT_AFTER_S, Facts, Station
from line_worker.verdicts import StationState as S

WELL = Facts(stopping=False, workers=1, sources=1, journal_error="", bad_sinks=(), bad_sources=())


class Clocked:
    def __init__(self) -> None:
        self.station, self.now = Station(), 0.0

    def see(self, after: float = 0.0, **facts: Any) -> S:
        self.now += after
        self.station.update(dataclasses.replace(WELL, **facts), self.now)
        return self.station.state


@pytest.fixture
def station() -> Clocked:
    return Clocked()


def test_from_self_test_to_running(station: Clocked) -> None:
    assert station.station.state is S.SELFTEST
    assert station.see(workers=0, sources=0) is S.SELFTEST
    assert station.see(100.0, workers=0) is S.SELFTEST, "no fault before it was ever well"
    assert station.see(bad_sinks=("sink plc: is not connected",)) is S.SELFTEST
    assert station.see(sources=0) is S.READY
    assert station.station.cause == "no source has announced itself"
    assert station.see(sources=0, gone_sources=("camera top: cannot be opened",)) is S.READY
    assert station.station.cause == "camera top: cannot be opened"
    assert station.see() is S.RUNNING
    assert station.station.cause == ""


def test_nothing_runs_before_every_camera_for_which_a_sink_triggers_is_there(station: Clocked) -> None:
    missing = ("camera top: is not connected",)
    assert station.see(missing_sources=missing) is S.READY, "a part that came now would be seen by nobody"
    assert station.station.cause == "camera top: is not connected"
    assert station.see() is S.RUNNING
    assert station.see(missing_sources=missing) is S.RUNNING, "each of its parts is NO_DECISION, the others go on"
    assert station.station.cause == "camera top: is not connected"
    assert station.see(sources=0, missing_sources=missing) is S.READY


@pytest.mark.parametrize("trouble", [{"workers": 0}, {"bad_sinks": ("sink plc: the PLC does not answer",)}])
def test_trouble_is_degraded_then_fault_and_heals_by_itself(station: Clocked, trouble: dict[str, Any]) -> None:
    station.see()
    assert station.see(1.0, **trouble) is S.DEGRADED
    assert station.station.cause in ("no worker is ready", "sink plc: the PLC does not answer")
    assert station.see(FAULT_AFTER_S - 0.1, **trouble) is S.DEGRADED
    assert station.see(0.1, **trouble) is S.FAULT
    assert station.see() is S.RUNNING
    assert station.see(1.0, **trouble) is S.DEGRADED, "the clock starts anew"


def test_a_journal_that_cannot_be_written_is_a_fault_at_once(station: Clocked) -> None:
    station.see()
    assert station.see(journal_error="disk full") is S.FAULT
    assert station.station.cause == "journal: disk full"
    assert station.see() is S.RUNNING


def test_a_frozen_camera_is_a_fault_at_once_and_heals_by_itself(station: Clocked) -> None:
    station.see()
    assert station.see(frozen=("camera top: gives the same picture",)) is S.FAULT
    assert station.station.cause == "camera top: gives the same picture"
    assert station.see() is S.RUNNING


def test_when_the_only_camera_goes_dark_its_last_parts_are_decided_and_then_nothing_is_ready(station: Clocked) -> None:
    station.see()
    dark = {"bad_sources": ("camera top: unplugged",)}
    assert station.see(**dark) is S.RUNNING
    assert station.see(DARK_S - 0.1, **dark) is S.RUNNING
    assert station.see(0.1, **dark) is S.DEGRADED
    assert station.station.cause == "camera top: unplugged"
    assert station.see(FAULT_AFTER_S, **dark) is S.FAULT
    assert station.see() is S.RUNNING
    assert station.see(**dark) is S.RUNNING, "the clock starts anew"


def test_a_camera_that_is_dark_from_the_start_is_still_in_self_test(station: Clocked) -> None:
    assert station.see(bad_sources=("camera top: not opened yet",)) is S.SELFTEST
    assert station.see() is S.RUNNING


def test_a_camera_without_frames_does_not_stop_the_others(station: Clocked) -> None:
    assert station.see(sources=2, bad_sources=("camera top: unplugged",)) is S.RUNNING
    assert station.station.cause == "camera top: unplugged"
    both = ("camera top: unplugged", "camera side: unplugged")
    assert station.see(sources=2, bad_sources=both) is S.RUNNING
    assert station.see(DARK_S, sources=2, bad_sources=both) is S.DEGRADED


def test_a_camera_that_is_not_heard_any_more_is_named_beside_the_others(station: Clocked) -> None:
    assert station.see(gone_sources=("camera side: cannot be opened",)) is S.RUNNING
    assert station.station.cause == "camera side: cannot be opened"


def test_a_durable_sink_must_be_there_at_the_start_and_may_be_away_later(station: Clocked) -> None:
    away = {"missing_sinks": ("sink log: is not connected",)}
    assert station.see(**away) is S.SELFTEST
    assert station.station.cause == "sink log: is not connected"
    assert station.see() is S.RUNNING
    assert station.see(**away) is S.RUNNING


def test_stopping_comes_before_everything(station: Clocked) -> None:
    assert station.see(stopping=True, journal_error="x", workers=0) is S.STOPPED


def test_a_change_is_reported_once() -> None:
    station = Station()
    assert station.update(WELL, 0.0)
    assert not station.update(WELL, 1.0)
    assert station.update(dataclasses.replace(WELL, workers=0), 2.0)


def test_only_a_station_without_any_trouble_may_pass() -> None:
    choices = itertools.product([False, True], [0, 1], [0, 1], ["", "x"], [(), ("s",)], [(), ("c",)])
    for facts in (Facts(*choice) for choice in choices):
        station = Station()
        station.update(WELL, 0.0)
        station.update(facts, 10.0)
        station.update(facts, 10.0 + DARK_S)
        assert station.may_pass is (facts == WELL), facts
