"""Which picture shows a part that was triggered from outside: pure, and in a source's runner."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.config import parse
from line_worker.errors import ConfigError
from line_worker.source import Captured
from line_worker.source.nodes import trigger_nodes
from line_worker.source.triggered import Fired, Interval, Triggers
from line_worker.verdicts import Reason

PIXELS: Any = object()


def shot(at: float, problem: Reason = Reason.NONE) -> Captured:
    return Captured(PIXELS, at, problem, "of the camera", 77)


def test_the_first_picture_after_the_trigger_is_the_parts() -> None:
    triggers = Triggers(0.0, 1.0, 4)
    assert triggers.match(shot(9.0)) is None, "nobody waits for it"
    triggers.fire(Fired(5, "A", 10.0))
    assert triggers.match(shot(9.999)) is None, "it was taken before the part came"
    assert triggers.match(shot(10.02)) == Captured(PIXELS, 10.0, Reason.NONE, "A", 5), "its time is the trigger's"
    assert triggers.match(shot(10.04)) is None


def test_a_part_is_seen_only_after_the_delay() -> None:
    triggers = Triggers(0.1, 1.0, 4)
    triggers.fire(Fired(5, "A", 10.0))
    assert (triggers.due(10.09), triggers.newly_due(10.09)) == (False, 0)
    assert triggers.match(shot(10.09)) is None
    assert (triggers.due(10.1), triggers.newly_due(10.1), triggers.newly_due(10.2)) == (True, 1, 0)
    assert triggers.match(shot(10.1)) is not None


def test_a_picture_with_a_problem_is_the_parts_all_the_same() -> None:
    triggers = Triggers(0.0, 1.0, 4)
    triggers.fire(Fired(5, "A", 10.0))
    found = triggers.match(shot(10.1, Reason.LENGTH))
    assert found is not None
    assert (found.problem, found.part_id) == (Reason.LENGTH, "A")


def test_a_part_without_a_picture_in_time_is_lost() -> None:
    triggers = Triggers(0.5, 1.0, 4)
    triggers.fire(Fired(5, "A", 10.0))
    assert triggers.lost(11.5) == []
    assert triggers.lost(11.6) == [Captured(None, 10.0, Reason.NO_FRAME, "A", 5)]
    assert triggers.match(shot(11.7)) is None, "what comes now is not that part any more"


def test_a_trigger_that_is_told_again_is_one_part() -> None:
    triggers = Triggers(0.0, 1.0, 4)
    triggers.fire(Fired(5, "A", 10.0))
    triggers.fire(Fired(5, "A", 10.0), missed=True)
    triggers.fire(Fired(6, "B", 10.0), missed=True)
    assert triggers.match(shot(10.1)) is not None
    assert [one.part_id for one in triggers.lost(20.0)] == ["B"]


def test_a_picture_shows_the_newest_part_in_place() -> None:
    triggers = Triggers(0.0, 1.0, 4)
    triggers.fire(Fired(1, "", 10.0))
    triggers.fire(Fired(2, "", 10.02))
    found = triggers.match(shot(10.025))
    assert found is not None
    assert (found.trigger, [one.trigger for one in triggers.lost(10.03)]) == (2, [1])


def test_each_shot_is_answered_by_its_own_picture() -> None:
    triggers = Triggers(0.0, 1.0, 4, each=True)
    for number in (1, 2):
        triggers.fire(Fired(number, "", 10.0 + number / 100))
    assert triggers.newly_due(10.05) == 2
    assert [found.trigger for at in (10.1, 10.11) if (found := triggers.match(shot(at)))] == [1, 2]
    triggers.fire(Fired(3, "", 11.0))
    assert triggers.newly_due(11.0) == 1
    assert [one.trigger for one in triggers.lost(12.5)] == [3]
    assert triggers.unanswered
    triggers.fire(Fired(4, "", 12.6))
    assert triggers.newly_due(12.6) == 1
    assert triggers.match(shot(12.61)) is None, "the answer to the third, too late"
    found = triggers.match(shot(12.62))
    assert found is not None
    assert found.trigger == 4
    triggers.begin_anew()
    assert not triggers.unanswered


def test_missed_parts_and_those_beyond_the_window_are_told_at_once() -> None:
    triggers = Triggers(0.0, 1.0, 2)
    triggers.fire(Fired(1, "", 10.0), missed=True)
    for number in range(2, 6):
        triggers.fire(Fired(number, "", 10.0))
    lost = [(captured.trigger, captured.problem) for captured in triggers.lost(10.0)]
    assert lost == [(1, Reason.NO_FRAME), (4, Reason.OVERLOAD), (5, Reason.OVERLOAD)]


@given(st.lists(st.tuples(st.sampled_from(["fire", "picture", "look"]), st.floats(0, 0.4)), max_size=80))
def test_every_trigger_is_one_part_in_its_order(steps: list[tuple[str, float]]) -> None:
    triggers, now, fired = Triggers(0.05, 0.5, 3), 0.0, 0
    seen: list[Captured] = []
    for what, later in steps:
        now += later
        if what == "fire":
            fired += 1
            triggers.fire(Fired(fired, "", now))
        elif what == "picture" and (found := triggers.match(shot(now))) is not None:
            seen.append(found)
        seen += triggers.lost(now)
    seen += triggers.lost(now + 1)
    assert sorted(captured.trigger for captured in seen) == list(range(1, fired + 1))
    pictures = [captured.trigger for captured in seen if captured.pixels is not None]
    assert pictures == sorted(pictures)


def test_an_interval_keeps_its_pace_and_makes_up_for_nothing() -> None:
    interval = Interval(0.1, 5.0)
    times = [5.0, 5.05, 5.13, 5.2, 5.75, 5.8, 5.85]
    found = [interval.take(now) for now in times]
    assert [(one.number, round(one.at, 6)) if one else None for one in found] == [
        (1, 5.0),
        None,
        (2, 5.1),
        (3, 5.2),
        (4, 5.75),
        (5, 5.8),
        None,
    ]


def line(camera: dict[str, Any], *sinks: dict[str, Any], **more: Any) -> dict[str, Any]:
    whole = {"name": "top", "deadline_ms": 500, "source": {"kind": "synthetic"}} | camera
    head = {"name": "l", "runtime": "run", "data": "data"}
    return {"line": head, "cameras": [whole], "workers": {"bundle": "stub"}, "sinks": list(sinks)} | more


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (line({"trigger": {"kind": "hardware"}}), "'top' has no input for a hardware trigger"),
        (
            line({"trigger": {"kind": "sink", "sink": "plc"}}),
            "waits for sink 'plc', which triggers nothing; none here can",
        ),
        (
            line({"trigger": {"kind": "sink", "sink": "log"}}, {"kind": "log", "path": "a"}, {"kind": "plc"}),
            "waits for sink 'log', which triggers nothing; it could be plc",
        ),
        (
            line({"trigger": {"kind": "interval", "every_ms": 50}, "source": {"kind": "replay", "path": "a"}}),
            "'top' is a recording, which has its own triggers",
        ),
        (line({"trigger": {"kind": "interval"}}), "cameras[1].trigger.every_ms: is missing and must be given"),
        (line({"trigger": {"kind": "sometimes"}}), "trigger.kind: 'sometimes' is unknown"),
        (
            line({}, {"kind": "http"}),
            "sinks: no camera waits for 'http'",
        ),
        (
            line({}, recipes=[{"number": 1, "bundle": "a"}, {"number": 1, "bundle": "b"}]),
            "recipes: number 1 is used twice",
        ),
    ],
)
def test_a_trigger_that_cannot_be_is_refused(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(raw)
    assert any(says in problem for problem in error.value.problems), error.value.problems


def test_a_hardware_trigger_sets_the_cameras_nodes() -> None:
    source = {"kind": "genicam", "producer": "a.cti"}
    config = parse(line({"source": source, "trigger": {"kind": "hardware", "line": "Line2", "edge": "falling"}}))
    assert trigger_nodes(config.cameras[0].trigger) == {
        "TriggerSelector": "FrameStart",
        "TriggerMode": "On",
        "TriggerSource": "Line2",
        "TriggerActivation": "FallingEdge",
    }
    assert trigger_nodes(parse(line({})).cameras[0].trigger) == {}
