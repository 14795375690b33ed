"""What sinks ask of the hub, over real links: triggers reach the cameras that wait for them, and nobody else's do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from line_worker.config import parse
from line_worker.hub.run import Hub
from line_worker.verdicts import Reason, StationState
from line_worker.wire import messages as m
from line_worker.wire.links import FRAMES, OUTCOMES
from scripted_hub import DEADLINE_MS, EPOCH, Peer, Rig, answer, asked


class Triggered(Rig):
    """A line of two cameras that look at the same part when the PLC says so."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__(folder)

    @property  # type: ignore[override]
    def config(self) -> Any:
        return self._config

    @config.setter
    def config(self, plain: Any) -> None:
        raw = plain.model_dump(mode="json")
        [camera] = raw["cameras"]
        camera |= {"trigger": {"kind": "sink", "sink": "plc"}, "deadline_ms": 500.0}
        raw["cameras"] = [camera | {"name": "cam"}, camera | {"name": "side"}]
        raw["parts"] = [{"name": "pairs", "cameras": ["cam", "side"]}]
        raw["sinks"] = [{"kind": "plc"}]
        self._config = parse(raw)


@pytest.fixture
def rig(short_path: Path) -> Iterator[Triggered]:
    rig = Triggered(short_path)
    yield rig
    rig.close()


def source(rig: Rig, camera: str) -> Peer:
    peer = rig.peer(FRAMES, f"source-{camera}")
    peer.pulse = m.SourceAlive(camera, EPOCH, 0, True, "")
    peer.say(m.SourceHello(camera, EPOCH, 0), peer.pulse)
    return peer


def plc(rig: Rig, name: str = "plc") -> Peer:
    peer = rig.peer(OUTCOMES, f"sink-{name}")
    peer.pulse = m.SinkState(name, True, "")
    peer.say(m.SinkHello(name, False, False), peer.pulse)
    return peer


def frame(camera: str, number: int, part_id: str) -> m.Frame:
    key = m.FrameKey("t", camera, EPOCH, 0)
    return m.Frame(key, 0.0, DEADLINE_MS, (2, 2), "uint8", "gray", 7, "ring", part_id=part_id, trigger=number)


def test_a_trigger_reaches_every_camera_and_their_outcomes_are_one(rig: Triggered) -> None:
    cameras = {name: source(rig, name) for name in ("cam", "side")}
    worker, sink = rig.worker(), plc(rig)
    rig.until_state(StationState.RUNNING)
    sink.say(m.Trigger("plc", 5, "A", 20.0, False))
    for name, camera in cameras.items():
        [fire] = camera.hears(m.Fire)
        assert (fire.number, fire.part_id, fire.missed) == (5, "A", False)
        assert fire.age_ms > 19.999, "as old as the trigger, and what it took to pass it on"
        camera.say(frame(name, 5, "A"))
    leases = worker.hears(m.Lease, 2)
    worker.say(*(answer(lease) for lease in leases))
    shown = sink.hears(m.Outcome, 3)
    assert {(one.key.camera, one.verdict, one.part_id, one.trigger) for one in shown} == {
        ("cam", "PASS", "A", 5),
        ("side", "PASS", "A", 5),
        ("pairs", "PASS", "A", 5),
    }
    [whole] = [one for one in shown if one.key.camera == "pairs"]
    assert whole.row > 0
    assert rig.hub.journal.find(whole.key) is not None
    assert (
        rig.beat().counts
        == rig.hub.journal.totals() | {"FAIL": 0, "NO_DECISION": 0}
        == {
            "PASS": 1,
            "FAIL": 0,
            "NO_DECISION": 0,
        }
    ), "two pictures, one part"
    assert {view.key.camera for view in rig.hub.journal.find(whole.key).views} == {"cam", "side"}  # type: ignore[union-attr]


def test_a_triggered_part_has_an_answer_without_any_camera(rig: Triggered) -> None:
    rig.worker()
    sink = plc(rig)
    rig.turns(0.1)
    sink.say(m.Trigger("plc", 5, "A", 0.0, False))
    [outcome] = sink.hears(m.Outcome)
    assert (outcome.key.camera, outcome.part_id, outcome.reason) == ("pairs", "A", Reason.NO_FRAME)
    assert rig.hub.ledger.counts["lost_trigger"] == 2


def test_a_parts_clock_runs_from_its_trigger_whatever_the_source_says(rig: Triggered) -> None:
    camera = source(rig, "cam")
    worker, sink = rig.worker(), plc(rig)
    rig.turns(0.1)
    sink.say(m.Trigger("plc", 5, "A", 50.0, False))
    camera.hears(m.Fire)
    rig.turns(0.15)  # the source was stopped, and believes that the part has just come
    camera.say(frame("cam", 5, "A"))
    [lease] = worker.hears(m.Lease)
    assert lease.slack_ms < 500 - 50 - 150


def test_only_the_sink_of_the_configuration_triggers(rig: Triggered) -> None:
    camera = source(rig, "cam")
    stranger, sink = plc(rig, "stranger"), plc(rig)
    rig.turns(0.2)
    stranger.say(m.Trigger("stranger", 5, "A", 0.0, False), m.Trigger("plc", 6, "A", 0.0, False))
    rig.turns(0.2)
    assert camera.got(m.Fire) == []
    sink.say(m.Trigger("plc", 7, "B", 0.0, False))
    assert [fire.number for fire in camera.hears(m.Fire)] == [7]


def test_no_source_may_announce_parts_under_the_groups_name(rig: Triggered) -> None:
    thief = rig.peer(FRAMES, "source-thief")
    thief.say(m.SourceHello("pairs", EPOCH, 0))
    [refused] = thief.hears(m.Refused)
    assert "'pairs' is not in this line's configuration" in refused.why


def test_parts_that_were_open_when_the_hub_died_are_decided(rig: Triggered) -> None:
    camera = source(rig, "cam")
    source(rig, "side")
    worker, sink = rig.worker(), plc(rig)
    rig.turns(0.1)
    sink.say(m.Trigger("plc", 5, "A", 0.0, False))
    camera.hears(m.Fire)
    camera.say(frame("cam", 5, "A"))
    worker.say(answer(worker.hears(m.Lease)[0]))
    sink.hears(m.Outcome)
    rig.restart()
    assert isinstance(rig.hub, Hub)
    rig.watch()
    found = lambda: [one for one in rig.sink.got(m.Outcome) if one.key.camera == "pairs"]  # noqa: E731
    rig.until(lambda: bool(found()))
    assert [one.reason for one in found()] == [Reason.RESTART]


def test_a_recipe_without_a_bundle_is_refused_and_told(rig: Triggered) -> None:
    sink = plc(rig)
    rig.turns(0.1)
    sink.say(m.Select("plc", 9))
    rig.until(lambda: bool(rig.hub.recipes.warnings))
    state = rig.beat()
    assert (state.recipe, state.recipe_state) == (0, 2)
    assert "recipe 9 was asked for and is not in the configuration" in asked(rig, "status")["warnings"][-1]
