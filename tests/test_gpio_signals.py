"""What the digital outputs say: every rule of `Signals`, with time as an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.sink.gpio.signals import SAFE, Levels, Signals
from line_worker.verdicts import StationState, StopCause

PASS_S, GAP_S, BEAT_S = 0.05, 0.01, 0.1


def signals(reject_s: float = 0.0, *, state: int = StationState.RUNNING, stop: int = 0, beat: int = 1) -> Signals:
    found = Signals(PASS_S, reject_s, GAP_S, BEAT_S)
    found.beat(1, beat, state, stop, 10.0)
    return found


def test_before_anything_is_known_everything_rejects() -> None:
    assert Signals(PASS_S, 0.0, GAP_S, BEAT_S).levels(10.0) == SAFE


def test_a_pass_is_a_pulse_and_everything_else_a_reject() -> None:
    found = signals()
    assert found.levels(10.0)[:2] == (False, True)
    found.take(True, 0.2, 10.0)
    assert found.levels(10.0)[:2] == found.levels(10.049)[:2] == (True, False)
    assert found.levels(10.05)[:2] == (False, True)
    found.take(False, 0.2, 10.1)
    assert found.levels(10.1)[:2] == (False, True)


def test_a_reject_is_a_pulse_where_that_is_wanted() -> None:
    found = signals(0.03)
    assert found.levels(10.0)[:2] == (False, False)
    found.take(False, 0.2, 10.0)
    assert found.levels(10.02)[:2] == (False, True)
    assert found.levels(10.03)[:2] == (False, False)
    assert found.levels(11.0).reject, "the hub is silent"


def test_the_newest_part_owns_the_lines_and_every_pulse_has_an_edge() -> None:
    found = signals()
    found.take(True, 0.2, 10.0)
    found.take(True, 0.2, 10.02)
    assert not found.levels(10.02).passed, "a gap before the next pulse"
    assert found.levels(10.03).passed
    found.take(False, 0.2, 10.04)
    assert not found.levels(10.04).passed
    assert not found.levels(10.05).passed


def test_a_pass_that_cannot_begin_in_time_is_a_reject() -> None:
    found = signals()
    found.take(True, -0.001, 10.0)
    assert not found.levels(10.0).passed
    found.take(True, 0.2, 10.1)
    found.take(True, 0.005, 10.12)  # the gap takes longer
    assert not found.levels(10.13).passed


@pytest.mark.parametrize("state", [state for state in StationState if state is not StationState.RUNNING])
def test_nothing_passes_unless_the_station_runs(state: StationState) -> None:
    found = signals(state=state)
    found.take(True, 0.2, 10.0)
    assert found.levels(10.01)[:2] == (False, True)
    assert found.levels(10.01).stop
    running = signals()
    running.take(True, 0.2, 10.0)
    assert running.levels(10.01).passed
    running.beat(1, 2, state, 0, 10.02)
    assert not running.levels(10.02).passed
    running.beat(1, 3, StationState.RUNNING, 0, 10.03)
    assert not running.levels(10.03).passed, "it does not come back"


def test_nothing_passes_once_the_hub_is_silent() -> None:
    found = Signals(5.0, 0.0, GAP_S, BEAT_S)
    found.beat(1, 1, StationState.RUNNING, 0, 10.0)
    found.take(True, 9.0, 10.5)
    found.beat(1, 1, StationState.RUNNING, 0, 10.9)  # the same beat is no sign of life
    assert found.levels(10.99).passed
    assert found.levels(11.0) == Levels(False, True, True, True)
    found.beat(1, 2, StationState.RUNNING, 0, 11.1)
    assert not found.levels(11.1).passed


def test_the_heartbeat_changes_with_the_hubs_beats_and_never_by_itself() -> None:
    found = Signals(PASS_S, 0.0, GAP_S, 0.125)
    shown = []
    for step in range(100):
        now = 10.0 + step / 64
        if step < 50:
            found.beat(1, 2 + step, StationState.RUNNING, 0, now)
        shown.append(found.levels(now).heartbeat)
    changes = [step for step in range(1, 100) if shown[step] != shown[step - 1]]
    assert changes == [8, 16, 24, 32, 40, 48, 56]


def test_stop_follows_the_hub() -> None:
    assert not signals().levels(10.0).stop
    assert signals(stop=StopCause.REJECT_RATE).levels(10.0).stop


def test_it_knows_when_it_will_change() -> None:
    found = signals()
    found.levels(10.0)
    assert found.next_at(10.0) == 11.0
    found.take(True, 0.2, 10.0)
    assert found.next_at(10.0) == pytest.approx(10.05)
    found.beat(1, 2, StationState.RUNNING, 0, 10.06)
    assert found.next_at(10.06) == pytest.approx(10.1)
    assert Signals(PASS_S, 0.0, GAP_S, BEAT_S).next_at(0.0) == float("inf")


steps = st.lists(
    st.tuples(
        st.sampled_from(["pass", "fail", "beat", "stale", "wait"]), st.floats(0, 1.5), st.sampled_from(StationState)
    ),
    max_size=60,
)


@given(steps)
def test_pass_is_on_only_for_a_pass_of_a_running_station(events: list[tuple[str, float, StationState]]) -> None:
    found, now, beat, state, heard, newest = Signals(PASS_S, 0.0, GAP_S, BEAT_S), 0.0, 0, None, float("-inf"), None
    for what, wait_s, told in events:
        now += wait_s
        if what == "beat":
            beat, state, heard = beat + 1, told, now
            found.beat(1, beat, told, 0, now)
        elif what == "stale":
            found.beat(1, beat, told, 0, now) if beat else None
        elif what in ("pass", "fail"):
            newest = (what, now)
            found.take(what == "pass", 0.2, now)
        levels = found.levels(now)
        assert levels.reject is not levels.passed
        if levels.passed:
            assert state is StationState.RUNNING
            assert now - heard < 1.0
            assert newest is not None
            assert newest[0] == "pass"
            assert now - newest[1] < PASS_S + GAP_S
