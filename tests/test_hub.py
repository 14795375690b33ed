"""The hub's loop over real links, with peers that follow a script: parts, workers, time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from line_worker import lapse as module_lapse
from line_worker.hub import run
from line_worker.hub.drift import DriftWatch
from line_worker.lapse import Heard, Lapse
from line_worker.verdicts import Reason, StationState
from line_worker.wire import messages as m
from line_worker.wire.links import FRAMES
from scripted_hub import DEADLINE_MS, EPOCH, PATIENCE_S, Rig, answer, frame


def test_a_part_goes_all_the_way(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0, part_id="A1", place="inline", pixels=b"1234", age_ms=100.0))
    [lease] = worker.hears(m.Lease)
    assert (lease.pixels, lease.attempt, lease.frame.pixels) == (b"1234", 1, b"")
    assert 0 < lease.slack_ms < DEADLINE_MS - 100 + 1e-6, "it may have waited for the hub's turn"
    worker.say(answer(lease, p_value=0.25))
    [outcome] = rig.sink.hears(m.Outcome)
    assert (outcome.verdict, outcome.part_id, outcome.worker, outcome.row) == ("PASS", "A1", "worker-1", 1)
    assert (outcome.p_value, rig.hub.journal.after(0, 1)[0].p_value) == (0.25, 0.25)
    assert 0 < outcome.left_ms < lease.slack_ms
    assert source.hears(m.FrameDone) == [m.FrameDone("cam", EPOCH, (0,))]
    state = rig.beat()
    assert (state.counts, state.open_parts, state.workers) == ({"PASS": 1, "FAIL": 0, "NO_DECISION": 0}, 0, 1)


def test_drifting_scores_are_told_and_change_no_verdict(rig: Rig) -> None:
    source, worker = rig.running()
    rig.hub.drift = DriftWatch("stub", 1000, window=8)
    for seq in range(8):
        assert rig.beat().warnings == ()
        source.say(frame(seq))
        worker.say(answer(worker.hears(m.Lease, seq + 1)[-1], p_value=0.001))
        assert rig.outcomes(seq + 1)[seq] is Reason.NONE
    [warning] = rig.beat().warnings
    assert warning.startswith("camera cam: of the last 8 passed parts 100% score")
    rig.restart()
    assert [(seen.parts, seen.share) for seen in rig.hub.drift.seen()] == [(8, 1.0)]


def test_while_the_hub_does_not_hear_the_deadline_runs(rig: Rig) -> None:
    source, worker = rig.running()
    rig.turn()
    source.say(frame(0))
    time.sleep(0.3)
    [lease] = worker.hears(m.Lease)
    assert lease.slack_ms < DEADLINE_MS - 250


def test_since_when_a_message_may_have_been_here() -> None:
    assert Heard(5.0, True, 6.0).at(5.5) == 5.0, "it was found waiting"
    assert Heard(5.0, False, 5.05).at(5.06) == 5.06, "it woke the hub"
    assert Heard(5.0, False, 5.05).at(5.5) == 5.0, "the hub itself was stopped"


def test_what_comes_right_after_a_stop_may_have_been_here_all_the_while() -> None:
    lapse = Lapse()
    assert lapse.date(9.95, 10.0) == 9.95, "a busy machine"
    lapse.note(10.0, 10.6)
    assert lapse.date(10.61, 10.61) == 10.0, "the thread that reads the network was stopped as well"
    assert lapse.date(10.7, 10.7) == 10.7
    assert lapse.date(11.0, 11.5) == 11.0
    assert lapse.date(11.51, 11.51) == 11.0


def test_a_part_that_came_while_the_hub_was_stopped_in_a_turn_is_as_old_as_that(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module_lapse, "SETTLE_S", 3.0)  # machines are busy
    source, _ = rig.running()
    rig.turns(0.1)
    stopped = time.monotonic() - 0.5
    rig.hub._took_at = stopped  # it has been in that turn ever since
    rig.hub.wait(time.monotonic())
    source.say(frame(0))
    until = time.monotonic() + PATIENCE_S
    while not rig.hub.ledger.open_parts and time.monotonic() < until:
        rig.hub.turn(time.monotonic())
    [part] = [part for epoch in rig.hub.ledger.epochs.values() for part in epoch.parts.values()]
    assert part.t0 <= stopped


def test_nothing_passes_before_the_station_runs(rig: Rig) -> None:
    worker = rig.worker()
    source = rig.peer(FRAMES, "source")
    source.pulse = m.SourceAlive("cam", EPOCH, 0, False, "no picture yet")
    source.say(m.SourceHello("cam", EPOCH, 0), source.pulse)
    rig.until(lambda: "no picture yet" in rig.hub.station.cause)
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0]))
    assert rig.outcomes(1) == {0: Reason.NOT_RUNNING}
    assert rig.hub.station.cause == "camera cam: no picture yet"


def test_a_source_that_has_not_said_how_its_camera_is_lets_nothing_run(rig: Rig) -> None:
    rig.worker()
    source = rig.peer(FRAMES, "source")
    source.say(m.SourceHello("cam", EPOCH, 0))
    rig.until(lambda: "cam" in rig.hub.sources.present and len(rig.hub.workers) == 1)
    for _ in range(3):
        rig.turn()
        assert rig.hub.station.state is not StationState.RUNNING
    assert rig.hub.station.cause == "camera cam: has not said yet whether it gives pictures"
    source.say(m.SourceAlive("cam", EPOCH, 0, True, ""))
    rig.until_state(StationState.RUNNING)


def test_one_that_greets_again_is_as_well_as_it_was(rig: Rig) -> None:
    source, _ = rig.running()
    source.pulse = None
    source.say(m.SourceHello("cam", EPOCH + 1, 0))
    rig.until(lambda: rig.hub.sources.present["cam"].epoch == EPOCH + 1)
    assert rig.hub.sources.well == {"cam": True}


def test_without_a_worker_a_part_is_decided_at_its_deadline(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.source().say(frame(0))
    rig.until(lambda: rig.hub.ledger.open_parts == 1)
    due = rig.hub.ledger.next_due()
    assert due is not None
    sleeps: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(rig.hub.wire, "wait", sleeps.append)
        rig.hub.wait(due - 0.003)
    assert sleeps == pytest.approx([0.003]), "it is awake when the deadline comes"
    rig.hub.turn(due - 0.001)
    assert rig.hub.ledger.open_parts == 1
    with capture_logs() as lines:
        rig.hub.turn(due)
    assert [line for line in lines if line["event"] == "no decision"] == [
        {"event": "no decision", "log_level": "warning", "key": f"t/cam/{EPOCH}/0", "reason": "NO_WORKER"}
    ]
    assert rig.outcomes(1) == {0: Reason.NO_WORKER}
    assert rig.sink.got(m.Outcome)[0].latency_ms == pytest.approx(DEADLINE_MS)


def test_a_killed_worker_s_parts_go_to_another_one(rig: Rig) -> None:
    source, first = rig.running(session=1)
    source.say(frame(0), frame(1))
    first.hears(m.Lease, 2)
    second = rig.worker(session=2)
    rig.lose(first)
    [lease] = second.hears(m.Lease)
    assert (lease.attempt, len(rig.hub.workers)) == (2, 1)
    second.say(answer(lease, 2))
    [_, other] = second.hears(m.Lease, 2)
    second.say(answer(other, 2))
    assert rig.outcomes(2) == {0: Reason.NONE, 1: Reason.NONE}


def test_workers_that_die_idle_poison_nothing(rig: Rig) -> None:
    source, first = rig.running(session=1)
    second = rig.worker(session=2)
    rig.until(lambda: len(rig.hub.workers) == 2)
    rig.lose(first)
    rig.lose(second)
    rig.until(lambda: not any(rig.hub.workers._peers.greet(s.peer) for s in rig.hub.workers._dispatcher.seats.values()))
    assert len(rig.hub.workers) == 2, "an idle worker is not probed"
    source.say(frame(0, deadline_ms=200.0))
    assert rig.outcomes(1) == {0: Reason.NO_WORKER}, "it has never been with either of them"


def test_two_workers_lost_with_a_part_are_poison(rig: Rig) -> None:
    source, worker = rig.running(session=1)
    source.say(frame(0))
    worker.hears(m.Lease)
    rig.lose(worker)
    worker = rig.worker(session=2)
    worker.hears(m.Lease)
    rig.lose(worker)
    assert rig.outcomes(1) == {0: Reason.POISON}


def test_a_worker_without_progress_is_expelled_and_may_come_back(rig: Rig) -> None:
    source, worker = rig.running(stall_ms=400.0)
    source.say(frame(0))
    [lease] = worker.hears(m.Lease)
    [refused] = worker.hears(m.Refused)
    assert "no progress" in refused.why
    assert len(rig.hub.workers) == 0
    worker.say(answer(lease))
    rig.until(lambda: not worker.got(m.HubHello)[-1].known)  # its late answer: it does not know yet
    worker.say(m.WorkerHello("worker-1", 7, 4, "stub", 10_000.0, "cpu"))
    [_, again] = worker.hears(m.Lease, 2)
    worker.say(answer(lease), answer(again, session=7))
    assert rig.outcomes(1) == {0: Reason.NONE}
    assert rig.hub.ledger.counts["late_result"] == 2


def test_the_state_follows_in_every_turn_and_not_only_at_a_beat(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    source, worker = rig.running()
    monkeypatch.setattr(run, "BEAT_S", PATIENCE_S / 2)
    beats = rig.hub._beat
    source.say(frame(0))
    worker.hears(m.Lease)
    worker.say(m.WorkerBye(1))
    rig.until_state(StationState.DEGRADED)
    worker.say(m.WorkerHello("worker-1", 2, 4, "stub", 10_000.0, "cpu"))
    [_, again] = worker.hears(m.Lease, 2)
    worker.say(answer(again, session=2))
    rig.until(lambda: rig.hub.ledger.counts["PASS"] == 1)
    assert rig.hub._beat == beats, "all this between two beats"


def test_a_worker_that_begins_a_new_session_has_one_seat(rig: Rig) -> None:
    source, worker = rig.running(session=1, stall_ms=400.0)
    worker.say(m.WorkerHello("worker-1", 2, 4, "stub", 10_000.0, "cpu"))
    rig.turns(0.6)
    assert len(rig.hub.workers) == 1
    assert not worker.got(m.Refused), "its old session does not stall"
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0], session=2))
    assert rig.outcomes(1) == {0: Reason.NONE}


def test_a_worker_that_leaves_in_good_order_gives_its_parts_back(rig: Rig) -> None:
    source, worker = rig.running()
    for session in range(2, 5):
        source.say(frame(session - 2))
        worker.hears(m.Lease)
        worker.say(m.WorkerBye(session - 1))
        worker = rig.worker(session=session)
    assert len(worker.hears(m.Lease, 3)) == 3
    assert all(part.lost == 0 for part in rig.hub.ledger.epochs["cam", EPOCH].parts.values())


def test_another_bundle_is_refused(rig: Rig) -> None:
    worker = rig.worker(bundle="other")
    [refused] = worker.hears(m.Refused)
    assert "bundle other is not the active one (stub)" in refused.why
    assert len(rig.hub.workers) == 0


@pytest.mark.parametrize(
    ("lie", "counter"),
    [
        ({"checksum": 99}, "mismatch"),
        ({"bundle": "other"}, "mismatch"),
        ({"lease": 99}, "mismatch"),
        ({"session": 99}, "late_result"),
        ({"key": m.FrameKey("t", "cam", EPOCH, 7)}, "mismatch"),
    ],
    ids=["checksum", "bundle", "lease", "session", "key"],
)
def test_a_result_that_does_not_fit_is_never_an_outcome(rig: Rig, lie: dict[str, Any], counter: str) -> None:
    source, worker = rig.running()
    source.say(frame(0, deadline_ms=500.0))
    worker.say(answer(worker.hears(m.Lease)[0], **lie))
    assert rig.outcomes(1) == {0: Reason.DEADLINE}
    assert rig.hub.ledger.counts == {counter: 1, "NO_DECISION": 1}


def test_an_idle_hub_sleeps_until_its_next_beat(rig: Rig) -> None:
    rig.running()
    rig.turns(0.2)
    turns, end = 0, time.monotonic() + 0.5
    while time.monotonic() < end:
        rig.hub.wait(time.monotonic())
        rig.hub.turn(time.monotonic())
        turns += 1
    assert turns < 40
