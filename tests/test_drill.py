"""The drill: its plan follows from the seed, its books find every kind of lie, a real line holds its promise."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from line_worker.cli import main
from line_worker.drill.books import Books, Row, examine
from line_worker.drill.plan import KINDS, WEIGHTS, plan
from line_worker.drill.run import Asked, drill
from line_worker.drill.witness import Beats
from line_worker.errors import ConfigError
from line_worker.sink.collect import Collector
from line_worker.sink.run import Runner
from line_worker.verdicts import StationState
from line_worker.wire import messages as m
from line_worker.wire.links import OUTCOMES
from line_worker.wire.sockets import Wire

EPOCH = 0x12345
D = 1.0


# ---- the plan --------------------------------------------------------------------------------------------------------


def test_the_same_seed_is_the_same_drill() -> None:
    assert plan(3, 60) == plan(3, 60)
    assert plan(3, 60) != plan(4, 60)


def test_ten_minutes_hold_every_kind_and_more_than_300_faults() -> None:
    for seed in range(5):
        faults = plan(seed, 600)
        assert len(faults) > 350
        assert {fault.kind for fault in faults} == set(KINDS)
        assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
        assert faults[-1].at < 600 - 8 + 0.01, "the line may recover at the end"


def test_only_the_kinds_that_were_asked_for() -> None:
    faults = plan(0, 30, ("hub",), every_s=2.5)
    assert {fault.kind for fault in faults} == {"hub"}
    assert 5 < len(faults) < 20
    assert set(WEIGHTS) == set(KINDS)


# ---- the books -------------------------------------------------------------------------------------------------------


def booking(seq: int, **changes: Any) -> dict[str, Any]:
    accepted = {"received": True, "accepted": True, "epoch16": EPOCH & 0xFFFF, "seq": seq, "at": 100.2 + seq}
    return accepted | changes


def good() -> Books:
    row = Row("PASS", 0, 0.1, "b", 0.5, 1.0)
    late = Row("NO_DECISION", 10, D, "", None, None)
    return Books(
        deadline_s=D,
        triggered={(EPOCH, seq): 100.0 + seq for seq in range(3)},
        announced={EPOCH: 3},
        rows=[((EPOCH, 0), row), ((EPOCH, 1), row), ((EPOCH, 2), late)],
        totals={"PASS": 2, "NO_DECISION": 1, "FAIL": 0},
        plc=[booking(0), booking(1), booking(2, accepted=False)],
        logged={(EPOCH, seq) for seq in range(3)},
        acknowledged=3,
    )


def wrong(**changes: Any) -> set[int]:
    return set(examine(dataclasses.replace(good(), **changes), [], 0.005).wrong)


def test_books_that_agree() -> None:
    found = examine(good(), [], 0.005)
    assert not found.wrong
    assert (found.frames, found.undecided, found.double, found.passed_without_row) == (3, 0, 0, 0)
    assert found.worst_accepted_ms == pytest.approx(-800)
    assert found.worst_decision_ms == 0


@pytest.mark.parametrize(
    ("changes", "invariant"),
    [
        ({"rows": [*good().rows, good().rows[0]]}, 1),
        ({"logged": {(EPOCH, 0)}}, 1),
        ({"rows": [*good().rows[:2], ((EPOCH, 2), Row("NO_DECISION", 10, D + 0.1, "", None, None))]}, 2),
        ({"plc": [booking(0, at=101.1)]}, 2),
        ({"rows": [((EPOCH, 0), Row("PASS", 0, 0.1, "b", 1.5, 1.0)), *good().rows[1:]]}, 3),
        ({"rows": good().rows[:2]}, 4),
        ({"triggered": {(EPOCH, 0): 100.0, (EPOCH, 1): 101.0}}, 4),
        ({"plc": [booking(1), booking(0)]}, 5),
        ({"plc": [booking(2)]}, 6),
        ({"plc": [booking(7)]}, 6),
        ({"totals": {"PASS": 3}}, 9),
    ],
)
def test_every_kind_of_lie_is_found(changes: dict[str, Any], invariant: int) -> None:
    assert invariant in wrong(**changes)


def test_what_died_with_its_source_is_counted_and_not_blamed() -> None:
    old, new = (EPOCH - 1, 0), {(EPOCH, seq): 100.0 + seq for seq in range(3)}
    found = examine(dataclasses.replace(good(), triggered={old: 90.0, **new}), [], 0.005)
    assert (found.never_heard_of, found.undecided, found.wrong) == (1, 0, {})


def test_what_the_hub_heard_of_too_late_is_to_be_decided_at_once() -> None:
    rows = [*good().rows[:2], ((EPOCH, 2), Row("NO_DECISION", 10, 5.0, "", None, None))]
    told = {(EPOCH, 2): 107.0}
    assert not wrong(rows=rows, told=told)
    assert wrong(rows=rows, told={(EPOCH, 2): 106.9}) == {2}


@pytest.mark.parametrize(("latency_s", "is_late"), [(D + 0.19, False), (D + 0.29, True)])
def test_what_came_during_an_outage_counts_from_its_own_trigger(latency_s: float, is_late: bool) -> None:
    """The hub dates it back to the beginning of the outage, 0.2 s before its trigger; nobody has waited for that."""
    rows = [*good().rows[:2], ((EPOCH, 2), Row("NO_DECISION", 10, latency_s, "", None, None))]
    found = examine(dataclasses.replace(good(), rows=rows), [(101.8, 102.4)], 0.005)
    assert bool(found.wrong.get(2)) is is_late


def test_while_no_hub_was_there_nothing_can_be_in_time() -> None:
    rows = [*good().rows[:2], ((EPOCH, 2), Row("NO_DECISION", 10, D + 0.4, "", None, None))]
    found = examine(dataclasses.replace(good(), rows=rows), [(102.9, 103.3)], 0.005)
    assert not found.wrong


# ---- real lines ------------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_a_short_drill_of_a_real_line(tmp_path: Path) -> None:
    report = drill(Asked(minutes=0.3, seed=2, every_s=0.7, rate=60, keep=tmp_path))
    assert report.held, report.verdicts.wrong
    assert sum(report.faults.values()) >= 8
    assert report.verdicts.frames > 300
    assert report.verdicts.plc_accepted > 50
    assert 0 < report.memory_bytes < report.memory_bound


def test_a_kind_of_fault_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match="'explode' is not known; choose from kill, stop"):
        drill(Asked(faults=("kill", "explode")))


@pytest.mark.parametrize(
    ("asked", "says"), [({}, "needs --folder"), ({"folder": "f", "overload": 2}, "--rate instead of --overload")]
)
def test_a_bundle_needs_images_and_a_rate(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        drill(Asked(model="x.bundle", **asked))


@pytest.mark.long
def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["drill", "--minutes", "0.05", "--faults", "none", "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert end.value.code == 0
    assert (found["held"], found["faults"], found["asked"]["seed"]) == (True, {}, 0)


def test_a_real_time_sink_that_was_stopped_counts_the_time_an_outcome_has_waited(short_path: Path) -> None:
    hub, far = Wire(short_path), Wire(short_path)
    channel = hub.bind(OUTCOMES)
    collector = Collector()
    collector.durable = False
    collector.wants_crops = False
    runner = Runner("plc", collector, far)
    try:
        peer = b""
        while not peer:
            runner.turn(time.monotonic())
            far.wait(0.01)
            peer = next((received.peer for received in channel.receive()), b"")
        key = m.FrameKey("l", "c", 1, 2)
        fields = {"part_id": "", "trigger": 0, "latency_ms": 1.0, "wall": 1.0, "stages": {}}
        base = {"row": 1, "key": key, "verdict": "PASS", "reason": 0, "score": 0.1, "threshold": 1.0, "regions": ()}
        more = {"bundle": "b", "worker": "w", "attempt": 1, "left_ms": 200.0}
        assert channel.send(m.Outcome(**base, **more, **fields), peer)
        time.sleep(0.3)
        runner.turn(time.monotonic())
        assert [outcome.left_ms < 0 for outcome in collector.outcomes] == [True]
    finally:
        far.close()
        hub.close()


def test_a_line_that_is_only_starting_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[Any] = []
    clock = [100.0]
    monkeypatch.setattr("line_worker.drill.witness.time.monotonic", lambda: clock[0])
    beats = Beats(SimpleNamespace(watcher=SimpleNamespace(states=states)))  # type: ignore[arg-type]
    for at in (105.0, 105.1, 107.1, 107.2):  # the hub needs five seconds to start, and is silent for two later
        clock[0] = at
        states.append(SimpleNamespace(state=StationState.RUNNING))
        beats.turn()
    assert beats.silences == [(105.1, 107.1)]
