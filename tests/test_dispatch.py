"""Dispatch and the station's state: who gets what, who is expelled, when parts may pass."""

from __future__ import annotations

import dataclasses

import pytest

from line_worker.hub.dispatch import Dispatcher, Seat
from line_worker.hub.ledger import Ledger
from line_worker.hub.part import CameraRules
from line_worker.hub.station import FAULT_AFTER_S, Facts, Station
from line_worker.verdicts import StationState
from line_worker.wire.messages import Frame, FrameKey


def _ledger(deadlines_ms: list[float]) -> Ledger:
    ledger = Ledger("line", {"camera": CameraRules(60.0, 99, 1000)})
    ledger.open_epoch("camera", 1)
    for seq, deadline_ms in enumerate(deadlines_ms):
        key = FrameKey("line", "camera", 1, seq)
        ledger.announce(Frame(key, 0.0, deadline_ms, (4, 5), "uint8", "gray", 1, "ring", "r"), b"", 0.0)
    return ledger


def _dispatcher(*credits: int) -> Dispatcher:
    dispatcher = Dispatcher()
    for number, credit in enumerate(credits):
        dispatcher.join(Seat(b"p%d" % number, f"w{number}", number, credit, 0.4, "cpu", 0.0))
    return dispatcher


def test_the_earliest_deadline_goes_first() -> None:
    given = [part.key.seq for _, part, _ in _dispatcher(3).assign(_ledger([500, 100, 300]))]
    assert given == [1, 2, 0]


def test_credits_bound_what_a_worker_holds_and_the_freest_gets_the_next() -> None:
    dispatcher, ledger = _dispatcher(1, 3), _ledger([100] * 9)
    assert [seat.session for seat, _, _ in dispatcher.assign(ledger)] == [1, 1, 0, 1]
    assert list(dispatcher.assign(ledger)) == []
    lease = next(iter(dispatcher.seats[0].holds))
    dispatcher.seats[0].answered(lease)
    assert [seat.session for seat, _, _ in dispatcher.assign(ledger)] == [0]


def test_a_suspect_is_retried_alone() -> None:
    dispatcher, ledger = _dispatcher(4, 4), _ledger([100, 100, 100])
    [*_] = dispatcher.assign(ledger)
    for session in (0, 1):
        dispatcher.leave(session)
        ledger.lose(session, 0.1)
    dispatcher.join(Seat(b"p9", "w9", 9, 4, 0.4, "cpu", 0.0))
    assert len(list(dispatcher.assign(ledger))) == 1, "three suspects, one worker: one at a time"
    seat = dispatcher.seats[9]
    seat.answered(next(iter(seat.holds)))
    assert seat.free == 4


def test_a_worker_without_progress_is_named_and_a_stranger_is_not_known() -> None:
    dispatcher = _dispatcher(1, 1)
    assert dispatcher.progress(b"p0", 0, 1.0) is dispatcher.seats[0]
    assert dispatcher.progress(b"p1", 0, 1.0) is None, "another peer under its session"
    assert dispatcher.progress(b"p7", 7, 1.0) is None
    assert [seat.session for seat in dispatcher.stalled(1.1)] == [1]


# ---- the station -----------------------------------------------------------------------------------------------------

WELL = Facts(False, 1, 1, "", (), ())


def _after(*history: tuple[float, Facts]) -> Station:
    station = Station()
    for now, facts in history:
        station.update(facts, now)
    return station


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, StationState.RUNNING),
        ({"sources": 0}, StationState.READY),
        ({"bad_sources": ("camera top: unplugged",)}, StationState.READY),
        ({"workers": 0}, StationState.DEGRADED),
        ({"bad_sinks": ("sink plc: is not connected",)}, StationState.DEGRADED),
        ({"journal_error": "disk full"}, StationState.FAULT),
        ({"stopping": True}, StationState.STOPPED),
    ],
)
def test_what_becomes_of_a_running_station(change: dict[str, object], state: StationState) -> None:
    station = _after((0.0, WELL), (1.0, dataclasses.replace(WELL, **change)))  # type: ignore[arg-type]
    assert station.state is state
    assert station.may_pass is (state is StationState.RUNNING)
    assert bool(station.cause) is (state is not StationState.RUNNING)


def test_it_is_in_selftest_until_a_worker_and_the_sinks_are_there() -> None:
    nobody = dataclasses.replace(WELL, workers=0, sources=0)
    station = _after((0.0, nobody), (60.0, nobody))
    assert station.state is StationState.SELFTEST
    station.update(WELL, 61.0)
    assert station.state is StationState.RUNNING


def test_a_durable_sink_must_be_there_at_the_start_and_may_be_away_later() -> None:
    alone = dataclasses.replace(WELL, missing_sinks=("sink log: is not connected",))
    station = _after((0.0, alone))
    assert (station.state, station.cause) == (StationState.SELFTEST, "sink log: is not connected")
    station.update(WELL, 1.0)
    station.update(alone, 2.0)
    assert station.state is StationState.RUNNING


def test_trouble_that_lasts_is_a_fault_and_heals_by_itself() -> None:
    alone = dataclasses.replace(WELL, workers=0)
    station = _after((0.0, WELL), (1.0, alone), (1.0 + FAULT_AFTER_S, alone))
    assert station.state is StationState.FAULT
    assert station.update(WELL, 20.0)
    assert station.state is StationState.RUNNING
    station.update(alone, 30.0)
    assert station.state is StationState.DEGRADED, "the next trouble has five seconds of its own"
