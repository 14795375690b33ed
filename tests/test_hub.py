"""The hub's loop over real links, with peers that follow a script: what it asks, answers, refuses and survives."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from line_worker import lapse as module_lapse
from line_worker.config import Config, parse
from line_worker.errors import ConfigError, JournalError
from line_worker.hub import flood, run
from line_worker.hub.commands import Commands
from line_worker.hub.drift import DriftWatch
from line_worker.hub.ledger import MAX_GAP
from line_worker.hub.run import Hub
from line_worker.hub.sources import SILENT_S
from line_worker.lapse import Lapse
from line_worker.verdicts import Reason, StationState, StopCause
from line_worker.wire import control
from line_worker.wire import messages as m
from line_worker.wire.links import FRAMES, OUTCOMES, WORK, Link
from line_worker.wire.sockets import Wire

EPOCH = 1000
PATIENCE_S = 10.0  # what should happen and has not by then never will, however busy the machine is
DEADLINE_MS = 2000.0  # time enough for peers that share a busy machine; who waits for a deadline names a shorter one
PULSE_S = 0.2
POLLOUT = 2


def config_in(folder: Path, **cameras: Any) -> Config:
    camera = {"name": "cam", "window": 4, "max_frame_mb": 0.01, "source": {"kind": "synthetic"}}
    camera["deadline_ms"] = DEADLINE_MS
    return parse(
        {
            "line": {"name": "t", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [camera | cameras],
            "workers": {"bundle": "stub"},
        }
    )


class Peer:
    """One scripted end of a link; `heard` is what the hub has said to it, `pulse` what it says again and again."""

    def __init__(self, rig: Rig, link: Link, name: str) -> None:
        self._rig = rig
        self.wire = Wire(rig.config.line.runtime, frame_bytes=rig.config.frame_bytes)
        self._channel = self.wire.connect(link, name)
        self.heard: list[Any] = []
        self.pulse: m.Message | None = None
        self._pulse_at = time.monotonic()

    def say(self, *messages: m.Message) -> None:
        until = time.monotonic() + PATIENCE_S
        for message in messages:
            while not self._channel.send(message):
                assert time.monotonic() < until
                time.sleep(0.002)

    def say_raw(self, *parts: bytes) -> None:
        self._channel.socket.send_multipart(parts)

    def turn(self, now: float) -> None:
        self.heard += [received.message for received in self._channel.receive()]
        if self.pulse is not None and now - self._pulse_at >= PULSE_S:
            self._pulse_at = now
            self._channel.send(self.pulse)

    @property
    def connected(self) -> bool:
        return bool(self._channel.socket.poll(0, POLLOUT))

    def got(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    def hears(self, kind: type[Any], count: int = 1) -> list[Any]:
        """Turn the hub until this peer has heard `count` messages of `kind`."""
        self._rig.until(lambda: len(self.got(kind)) >= count)
        return self.got(kind)


class Rig:
    def __init__(self, folder: Path, **camera: Any) -> None:
        self.config = config_in(folder, **camera)
        self.config.line.runtime.mkdir(exist_ok=True)
        self.peers: list[Peer] = []
        self.hub = Hub(self.config, time.monotonic())
        self.sink = self.peer(OUTCOMES, "watcher")
        self.watch()

    def watch(self) -> None:
        """Make the sink known to the hub: from now on it is shown everything."""
        self.sink.say(m.SinkHello("watcher", False, False))
        self.beat()

    def peer(self, link: Link, name: str) -> Peer:
        self.peers.append(Peer(self, link, name))
        return self.peers[-1]

    def source(self, epoch: int = EPOCH) -> Peer:
        source = self.peer(FRAMES, "source")
        source.pulse = m.SourceAlive("cam", epoch, 0, True, "")
        source.say(m.SourceHello("cam", epoch, 0), source.pulse)
        return source

    def worker(self, session: int = 1, credits: int = 4, stall_ms: float = 10_000.0, bundle: str = "stub") -> Peer:
        worker = self.peer(WORK, f"worker-{session}")
        worker.say(m.WorkerHello(f"worker-{session}", session, credits, bundle, stall_ms, "cpu"))
        return worker

    def running(self, **worker: Any) -> tuple[Peer, Peer]:
        """Return a source and a worker of a line that runs."""
        source, work = self.source(), self.worker(**worker)
        self.until_state(StationState.RUNNING)
        return source, work

    def lose(self, peer: Peer) -> None:
        """Let `peer` go without a word, as if it had been killed."""
        self.peers.remove(peer)
        peer.wire.close()

    def turn(self) -> None:
        self.hub.wait(time.monotonic())
        self.hub.turn(time.monotonic())
        for peer in self.peers:
            peer.turn(time.monotonic())

    def turns(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def until(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < end, "this never happens"
            self.turn()

    def until_state(self, state: StationState) -> None:
        self.until(lambda: self.hub.station.state is state)

    def beat(self) -> m.HubState:
        """Turn until the sink has seen this hub's next beat; returns what it has shown."""
        before = self.hub._beat
        self.until(lambda: any(state.beat > before for state in self._states()))
        return self._states()[-1]

    def _states(self) -> list[m.HubState]:
        return [state for state in self.sink.got(m.HubState) if state.instance == self.hub.instance]

    def outcomes(self, count: int) -> dict[int, Reason]:
        """Return what the sink was shown, by sequence number, in the order in which it came."""
        shown = self.sink.hears(m.Outcome, count)
        return {outcome.key.seq: Reason(outcome.reason) for outcome in shown}

    def restart(self) -> None:
        """Kill the hub, start another one on the same journal; what a peer says from now on reaches the new one."""
        self.hub.close()
        end = time.monotonic() + PATIENCE_S
        while any(peer.connected for peer in self.peers):
            assert time.monotonic() < end
            time.sleep(0.002)
        self.hub = Hub(self.config, time.monotonic())

    def close(self) -> None:
        for peer in self.peers:
            peer.wire.close()
        self.hub.close()


@pytest.fixture
def rig(short_path: Path) -> Iterator[Rig]:
    rig = Rig(short_path)
    yield rig
    rig.close()
    assert not list(rig.config.line.runtime.iterdir()), "no socket file stays"


def frame(seq: int, epoch: int = EPOCH, **changes: Any) -> m.Frame:
    fields: dict[str, Any] = {"shape": (2, 2), "dtype": "uint8", "colour": "gray", "checksum": seq, "place": "ring"}
    fields |= {"age_ms": 0.0, "deadline_ms": DEADLINE_MS}
    return m.Frame(m.FrameKey("t", "cam", epoch, seq), **fields | changes)


def answer(lease: m.Lease, /, session: int = 1, **changes: Any) -> m.Result:
    fields: dict[str, Any] = {"reason": 0, "score": 0.1, "threshold": 1.0, "bundle": "stub", "regions": ()}
    fields |= {"key": lease.frame.key, "lease": lease.lease, "session": session, "stages": {"stub": 1.0}}
    return m.Result(**fields | {"checksum": lease.frame.checksum} | changes)


def done_by(source: Peer) -> set[tuple[int, int]]:
    """Return epoch and sequence number of what `source` was told that it may forget."""
    return {(done.epoch, seq) for done in source.got(m.FrameDone) for seq in done.seqs}


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
    assert run.Heard(5.0, True, 6.0).at(5.5) == 5.0, "it was found waiting"
    assert run.Heard(5.0, False, 5.05).at(5.06) == 5.06, "it woke the hub"
    assert run.Heard(5.0, False, 5.05).at(5.5) == 5.0, "the hub itself was stopped"


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


def test_a_source_that_the_hub_has_forgotten_is_asked_to_say_hello(rig: Rig) -> None:
    source, worker = rig.running()
    source.pulse = None
    rig.until_state(StationState.READY)  # it has fallen silent
    source.heard.clear()
    source.say(frame(0))
    assert source.hears(m.HubHello)[0].known is False
    source.say(m.SourceHello("cam", EPOCH, 1), frame(0, age_ms=50.0), m.SourceAlive("cam", EPOCH, 1, True, ""))
    worker.say(answer(worker.hears(m.Lease)[0]))
    assert rig.outcomes(1) == {0: Reason.NONE}


def test_a_restarted_source_is_not_told_to_forget_what_the_old_one_had(rig: Rig) -> None:
    """Frames of both epochs have the same sequence numbers; an acknowledgement names its epoch."""
    source, worker = rig.running()
    source.say(frame(0), frame(1))
    leases = worker.hears(m.Lease, 2)
    rig.lose(source)
    new = rig.source(EPOCH + 1)
    new.say(frame(0, EPOCH + 1), frame(1, EPOCH + 1))
    worker.hears(m.Lease, 4)
    worker.say(*(answer(lease) for lease in leases))
    rig.until(lambda: len(done_by(new)) == 2)
    assert done_by(new) == {(EPOCH, 0), (EPOCH, 1)}
    worker.say(*(answer(lease) for lease in worker.got(m.Lease)[2:]))
    rig.until(lambda: done_by(new) == {(epoch, seq) for epoch in (EPOCH, EPOCH + 1) for seq in (0, 1)})


def test_an_older_source_of_the_same_camera_is_refused_while_the_newer_one_lives(rig: Rig) -> None:
    newer, _ = rig.running()
    older = rig.source(EPOCH - 1)
    assert "newer source" in older.hears(m.Refused)[0].why
    newer.say(frame(0, deadline_ms=200.0))
    assert newer.hears(m.FrameDone), "it is still heard"
    newer.pulse = older.pulse = None
    rig.turns(SILENT_S + 0.1)
    rig.until_state(StationState.READY)
    older.heard.clear()
    older.say(m.SourceHello("cam", EPOCH - 1, 0))
    older.hears(m.HubHello)
    assert not older.got(m.Refused), "the clock was set back, and the newer one is gone"


def test_an_unknown_camera_is_refused(rig: Rig) -> None:
    stranger = rig.peer(FRAMES, "stranger")
    stranger.say(m.SourceHello("moon", 1, 0))
    assert "camera 'moon' is not in this line's configuration" in stranger.hears(m.Refused)[0].why


@pytest.mark.parametrize(
    "jump",
    [frame(MAX_GAP + 5), m.SourceAlive("cam", EPOCH, 2**62, True, ""), m.SourceAlive("cam", EPOCH, 5000, True, "")],
)
def test_a_jump_too_far_ends_the_epoch_and_is_not_booked(rig: Rig, jump: m.Message) -> None:
    source, _ = rig.running()
    source.say(frame(0, deadline_ms=200.0), jump)
    [refused] = source.hears(m.Refused)
    assert refused.old_epoch == EPOCH
    rig.outcomes(1)
    rig.beat()
    rig.restart()
    assert [(e.epoch, e.next_seq) for e in rig.hub.journal.open_epochs()] == [(EPOCH, 1)]


def test_gaps_at_the_end_are_booked_when_the_source_says_goodbye(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0]))
    source.hears(m.FrameDone)  # a source says goodbye when what it has announced is decided
    source.say(m.SourceBye("cam", EPOCH, 3))
    assert rig.outcomes(3) == {0: Reason.NONE, 1: Reason.GAP, 2: Reason.GAP}
    rig.until_state(StationState.READY)


def test_a_frame_sent_again_after_its_outcome_is_acknowledged_again(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0]))
    source.hears(m.FrameDone)
    source.say(frame(0))
    assert source.hears(m.FrameDone, 2) == [m.FrameDone("cam", EPOCH, (0,))] * 2
    rig.beat()
    assert len(rig.sink.got(m.Outcome)) == 1


def test_a_malformed_announcement_becomes_a_gap(rig: Rig) -> None:
    source, worker = rig.running()
    source.say_raw(b"\x01\x02", b"\xc1", b"")
    source.say(frame(1))
    worker.say(answer(worker.hears(m.Lease)[0]))
    assert rig.outcomes(2) == {0: Reason.GAP, 1: Reason.NONE}


def test_a_malformed_announcement_that_names_its_part_decides_it(rig: Rig) -> None:
    source, _ = rig.running()
    head, body, pixels = m.to_parts(frame(0))
    source.say_raw(bytes((head[0] + 1, head[1])), body, pixels)
    source.say_raw(head, body, pixels, b"one part more")
    assert rig.outcomes(1) == {0: Reason.HEADER}
    assert rig.hub.turned_away()["malformed"] == 2


def test_three_malformed_messages_cut_the_peer_and_no_other(rig: Rig) -> None:
    source, worker = rig.running()
    for _ in range(3):
        worker.say_raw(b"\x01")
    assert "3 malformed messages" in worker.hears(m.Refused)[0].why
    worker.heard.clear()
    worker.say(m.Progress(77, 1))
    source.say(m.SourceAlive("cam", EPOCH + 1, 0, True, ""))
    source.hears(m.HubHello)
    rig.turns(0.1)
    assert not [hello for hello in worker.got(m.HubHello) if not hello.known], "nobody asks who it is"
    assert rig.hub.turned_away() == {"malformed": 3, "cut": 1}


def test_a_flood_of_headers_is_dropped_and_its_peer_cut(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "RATE", 10.0)
    monkeypatch.setattr(flood, "BURST", 50.0)
    monkeypatch.setattr(flood, "EXCESS", 20)
    source, _ = rig.running()
    source.pulse = None
    for seq in range(100):
        source.say(frame(seq, place="none"))
        if seq % 10 == 0:
            rig.turn()
    assert "it floods" in source.hears(m.Refused)[0].why
    assert rig.hub.turned_away()["cut"] == 1
    rig.turns(0.1)
    booked = sum(epoch.next_seq for epoch in rig.hub.ledger.epochs.values())
    assert 40 <= booked < 80, "what was taken is booked, what came on top is not"


def test_more_unreleased_parts_than_a_source_can_have_are_not_booked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flood, "MAX_UNRELEASED", 10)
    source, _ = rig.running(credits=0)
    source.say(frame(0), *(frame(seq, place="none") for seq in range(1, 100)))
    rig.until(lambda: rig.hub.ledger.open_parts == 10)
    rig.turns(0.1)
    assert rig.hub.ledger.open_parts == 10
    assert rig.hub.turned_away()["flood"] > 50


def test_a_hub_that_is_killed_continues_where_it_was(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(*(frame(seq) for seq in range(3)))
    leases = worker.hears(m.Lease, 3)
    worker.say(answer(leases[1]))
    rig.until(lambda: rig.hub.journal.last_row() == 1)
    rig.beat()
    rig.restart()
    assert (rig.hub.ledger.open_parts, rig.hub.ledger.counts["PASS"]) == (2, 1)
    rig.watch()
    worker.say(answer(leases[0]))
    rig.until(lambda: worker.got(m.HubHello)[-1].instance == rig.hub.instance)
    assert worker.got(m.HubHello)[-1].known is False
    worker.say(m.WorkerHello("worker-1", 2, 4, "stub", 10_000.0, "cpu"))
    source.say(m.SourceHello("cam", EPOCH, 3), m.SourceAlive("cam", EPOCH, 3, True, ""))
    rig.until_state(StationState.RUNNING)
    worker.heard.clear()
    source.say(frame(0, age_ms=100.0), frame(1, age_ms=100.0))
    worker.say(answer(worker.hears(m.Lease)[0], session=2))
    assert rig.outcomes(3) == {0: Reason.NONE, 1: Reason.NONE, 2: Reason.RESTART}
    held_back = next(outcome for outcome in rig.sink.got(m.Outcome) if outcome.key.seq == 1)
    assert (held_back.row, held_back.worker) == (1, "worker-1"), "as it stands in the journal"
    assert 0 < held_back.left_ms < DEADLINE_MS - 100
    rig.until(lambda: done_by(source) == {(EPOCH, 0), (EPOCH, 1), (EPOCH, 2)})
    assert rig.hub.ledger.counts == {"PASS": 2, "NO_DECISION": 1, "late_result": 1}


def test_a_journal_that_cannot_be_written_lets_nothing_pass_and_catches_up(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    [lease] = worker.hears(m.Lease)
    with contextlib.closing(sqlite3.connect(rig.config.journal_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        worker.say(answer(lease))
        assert rig.outcomes(1) == {0: Reason.JOURNAL}
        rig.until_state(StationState.FAULT)
        other.execute("ROLLBACK")
    rig.until_state(StationState.RUNNING)
    assert [o.reason for o in rig.hub.journal.after(0, 10)] == [Reason.JOURNAL]
    assert source.hears(m.FrameDone) == [m.FrameDone("cam", EPOCH, (0,))]


def test_stopping_settles_what_is_open_and_shows_it(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.hears(m.Lease)
    rig.hub.stop()
    source.say(frame(1))
    assert rig.outcomes(2) == {0: Reason.SHUTDOWN, 1: Reason.SHUTDOWN}
    assert rig.beat().state == StationState.STOPPED


def test_a_result_that_arrives_while_the_hub_stops_is_too_late(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0]))
    end = time.monotonic() + PATIENCE_S
    while not rig.hub.workers._peers.channel.socket.poll(10) and time.monotonic() < end:
        pass  # it is there, and nobody has read it
    rig.hub.stop()
    assert rig.outcomes(1) == {0: Reason.SHUTDOWN}
    assert rig.hub.ledger.counts["late_result"] == 1


def test_a_frozen_camera_is_a_fault_until_it_gives_another_picture(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0, checksum=5))
    worker.say(answer(worker.hears(m.Lease)[0]))
    assert rig.outcomes(1) == {0: Reason.NONE}
    source.say(*(frame(seq, checksum=5) for seq in range(1, 4)))
    rig.until_state(StationState.FAULT)
    assert rig.hub.station.cause == "camera cam: gives the same picture"
    source.say(frame(4, checksum=6))
    rig.until_state(StationState.RUNNING)
    worker.say(answer(worker.hears(m.Lease, 2)[1]))
    frozen = Reason.FROZEN
    assert rig.outcomes(5) == dict(enumerate((Reason.NONE, frozen, frozen, frozen, Reason.NONE)))


def test_a_hub_that_is_killed_still_knows_the_last_picture(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0, checksum=5))
    worker.say(answer(worker.hears(m.Lease)[0]))
    rig.outcomes(1)
    rig.beat()
    rig.restart()
    rig.watch()
    source.say(m.SourceHello("cam", EPOCH, 1), frame(1, checksum=5))
    assert rig.outcomes(2)[1] is Reason.FROZEN


@contextlib.contextmanager
def rig_with(folder: Path, **camera: Any) -> Iterator[Rig]:
    rig = Rig(folder, **camera)
    try:
        yield rig
    finally:
        rig.close()


def asked(rig: Rig, command: str, **arguments: Any) -> dict[str, Any]:
    """Have the hub do what an operator asks for; the hub turns meanwhile."""
    answers: list[dict[str, Any]] = []
    operator = threading.Thread(
        target=lambda: answers.append(control.ask(rig.config.line.runtime, command, **arguments))
    )
    operator.start()
    rig.until(lambda: not operator.is_alive())
    operator.join()
    return answers[0]


def test_a_rule_that_trips_stops_the_line_until_it_is_acknowledged_over_a_restart(short_path: Path) -> None:
    with rig_with(short_path, rules={"rejects_in_row": 2}) as rig:
        source, worker = rig.running()
        source.say(frame(0), frame(1))
        for lease in worker.hears(m.Lease, 2):
            worker.say(answer(lease, score=2.0))
        assert rig.outcomes(2) == {0: Reason.ANOMALY, 1: Reason.ANOMALY}
        rig.beat()
        state = rig.beat()
        assert state.stop_line == StopCause.REJECTS_IN_ROW
        assert state.warnings == ("REJECTS_IN_ROW: camera cam: 2 rejects in a row",)
        assert rig.hub.station.state is StationState.RUNNING, "verdicts go on"
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == StopCause.REJECTS_IN_ROW
        assert asked(rig, "acknowledge", cause="canary") == {"ok": True, "cleared": []}
        assert rig.beat().stop_line == StopCause.REJECTS_IN_ROW
        [cleared] = asked(rig, "acknowledge", cause="rejects_in_row")["cleared"]
        assert cleared == "REJECTS_IN_ROW: camera cam: 2 rejects in a row"
        assert rig.beat().stop_line == 0
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == 0


def test_the_status_says_how_the_line_is(rig: Rig) -> None:
    rig.running()
    status = asked(rig, "status")
    assert (status["line"], status["state"], status["stop_line"], status["alarms"]) == ("t", "RUNNING", "NONE", [])
    assert (status["workers"], status["cameras"], status["sinks"]) == (1, {"cam": True}, {"watcher": True})


def test_a_cause_that_does_not_exist_is_refused(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="one of: NONE, REJECTS_IN_ROW"):
        rig.hub.guard.acknowledge("FIRE")
    with pytest.raises(ConfigError, match="should be a word"):
        Commands(rig.hub).acknowledge(cause=3)  # type: ignore[arg-type]


def test_an_alarm_that_cannot_be_written_now_is_written_later(short_path: Path) -> None:
    with rig_with(short_path, rules={"undecided_in_row": 1}) as rig:
        rig.source().say(frame(0, place="none", problem=int(Reason.DECODE)))
        with contextlib.closing(sqlite3.connect(rig.config.journal_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            rig.until(lambda: bool(rig.hub.guard.alarms.stop_line))
            assert rig.beat().stop_line == StopCause.UNDECIDED_IN_ROW, "the PLC is told all the same"
            assert rig.hub.journal.kept("alarms") == ""
            other.execute("ROLLBACK")
        rig.until(lambda: "UNDECIDED_IN_ROW" in rig.hub.journal.kept("alarms"))


def test_a_damaged_journal_is_a_fault_until_it_is_acknowledged_over_a_restart(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0]))
    assert rig.outcomes(1) == {0: Reason.NONE}
    rig.hub.close()
    rig.config.journal_path.write_bytes(b"this is no journal any more" * 1000)
    rig.restart()
    rig.restart()
    rig.watch()
    rig.until_state(StationState.FAULT)
    assert "journal.sqlite.damaged-" in rig.hub.station.cause
    assert rig.beat().stop_line == StopCause.JOURNAL
    [cleared] = asked(rig, "acknowledge", cause="journal")["cleared"]
    assert "journal.sqlite.damaged-" in cleared
    rig.restart()
    rig.watch()
    assert rig.beat().stop_line == 0
    assert rig.hub.station.state is not StationState.FAULT


def test_an_epoch_whose_journal_is_lost_must_end(rig: Rig) -> None:
    source, _ = rig.running()
    rig.hub.close()
    rig.config.journal_path.write_bytes(b"this is no journal any more" * 1000)
    rig.restart()
    rig.watch()
    source.heard.clear()
    source.say(m.SourceHello("cam", EPOCH, 40))
    [refused] = source.hears(m.Refused)
    assert refused.old_epoch == EPOCH
    source.pulse = None
    source.say(m.SourceHello("cam", EPOCH + 1, 0), frame(0, epoch=EPOCH + 1))
    rig.until(lambda: rig.hub.ledger.open_parts == 1)


def canary_of(worker: Peer) -> m.Lease:
    """Wait for a canary; returns its lease."""
    worker._rig.until(lambda: any(lease.canary for lease in worker.got(m.Lease)))
    return [lease for lease in worker.got(m.Lease) if lease.canary][-1]


def test_a_missed_canary_lets_nothing_pass_until_it_is_acknowledged(short_path: Path) -> None:
    with rig_with(short_path, canary_every_s=3600.0) as rig:
        source, worker = rig.running()
        source.say(frame(0, place="inline", pixels=b"1234"))
        worker.say(answer(worker.hears(m.Lease)[0]))
        assert rig.outcomes(1) == {0: Reason.NONE}
        canary = canary_of(worker)
        assert (canary.lease, canary.pixels, canary.frame.key.seq) == (-1, b"1234", 0)
        source.say(frame(1))
        worker.hears(m.Lease, 3)
        worker.say(answer(canary))  # it has passed
        worker.say(answer(worker.got(m.Lease)[-1], score=5.0))
        source.say(frame(2))
        worker.say(answer(worker.hears(m.Lease, 4)[-1]))
        assert rig.outcomes(3) == {0: Reason.NONE, 1: Reason.CANARY, 2: Reason.CANARY}
        assert asked(rig, "status")["canaries"]["cam"]["missed"] == 1
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == StopCause.CANARY, "it stands over a restart"
        assert rig.hub.ledger.distrusted
        asked(rig, "acknowledge")
        assert not rig.hub.ledger.distrusted
        totals = {"PASS": 1, "NO_DECISION": 2}
        assert rig.hub.journal.totals() == totals, "the canary is in no book"


def test_a_canary_that_fails_changes_nothing_and_waits_for_parts(short_path: Path) -> None:
    with rig_with(short_path, canary_every_s=3600.0) as rig:
        source, worker = rig.running()
        source.say(frame(0), frame(1))
        first, second = worker.hears(m.Lease, 2)
        worker.say(answer(first))
        rig.outcomes(1)
        assert not [lease for lease in worker.got(m.Lease) if lease.canary], "the worker still holds a part"
        worker.say(answer(second))
        worker.say(answer(canary_of(worker), score=5.0))
        source.say(frame(2))
        worker.say(answer(worker.hears(m.Lease, 4)[-1]))
        assert set(rig.outcomes(3).values()) == {Reason.NONE}
        assert asked(rig, "status")["canaries"] == {
            "cam": {"failed": 1, "missed": 0, "score": 5.0, "threshold": 1.0},
        }


def test_an_answer_to_a_canary_that_nobody_sent_is_refused(short_path: Path) -> None:
    with rig_with(short_path, canary_every_s=3600.0) as rig:
        source, worker = rig.running()
        source.say(frame(0))
        [lease] = worker.hears(m.Lease)
        with capture_logs() as logs:
            worker.say(answer(lease, lease=-7))
            rig.until(lambda: any("no canary of ours" in str(entry["event"]) for entry in logs))
        worker.say(answer(lease))
        assert rig.outcomes(1) == {0: Reason.NONE}


def test_known_bad_parts_must_fail_and_one_that_would_pass_stops_everything(short_path: Path) -> None:
    with rig_with(short_path, rules={"rejects_in_row": 2}, challenge_every_s=3600.0) as rig:
        source, worker = rig.running()
        assert asked(rig, "challenge", parts=2) == {"ok": True, "camera": "cam", "parts": 2}
        source.say(frame(0), frame(1))
        for lease in worker.hears(m.Lease, 2):
            worker.say(answer(lease, score=5.0))
        assert rig.outcomes(2) == {0: Reason.ANOMALY, 1: Reason.ANOMALY}
        assert rig.beat().stop_line == 0, "the rules do not count them"
        assert rig.hub.guard.challenges.cameras["cam"].failed == 2
        asked(rig, "challenge", camera="cam", parts=1)
        source.say(frame(2), frame(3))
        for lease in worker.hears(m.Lease, 4)[2:]:
            worker.say(answer(lease))
        assert rig.outcomes(4)[2] is Reason.CANARY
        assert rig.outcomes(4)[3] is Reason.CANARY
        rig.beat()
        assert rig.beat().stop_line == StopCause.CANARY
        [cleared] = asked(rig, "acknowledge")["cleared"]
        assert "a known-bad part passed (t/cam/1000/2)" in cleared
        source.say(frame(4))
        worker.say(answer(worker.hears(m.Lease, 5)[-1]))
        assert rig.outcomes(5)[4] is Reason.NONE


def test_a_challenge_that_a_restart_breaks_off_is_told_once(short_path: Path) -> None:
    with rig_with(short_path) as rig:
        source, worker = rig.running()
        asked(rig, "challenge", parts=3)
        assert asked(rig, "status")["challenges"]["cam"]["result"] == "under way"
        source.say(frame(0), frame(1))
        first, _ = worker.hears(m.Lease, 2)
        worker.say(answer(first, score=5.0))
        assert rig.outcomes(1) == {0: Reason.ANOMALY}
        rig.beat()
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == StopCause.CHALLENGE
        assert asked(rig, "status")["challenges"]["cam"]["result"] == "none"
        [told] = asked(rig, "acknowledge")["cleared"]
        assert "a challenge of 3 known-bad parts was broken off by a restart, 1 of them had failed" in told
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == 0, "it has been told"


def test_a_challenge_that_came_to_its_end_is_no_broken_one(short_path: Path) -> None:
    with rig_with(short_path) as rig:
        source, worker = rig.running()
        asked(rig, "challenge", parts=1)
        source.say(frame(0))
        [lease] = worker.hears(m.Lease)
        worker.say(answer(lease, score=5.0))
        rig.outcomes(1)
        rig.beat()
        assert asked(rig, "status")["challenges"]["cam"]["result"] == "met"
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == 0


def test_a_challenge_that_cannot_be_written_down_does_not_begin(short_path: Path) -> None:
    with rig_with(short_path) as rig:
        rig.running()
        rig.hub.journal._db.execute("PRAGMA query_only = 1")
        with pytest.raises(JournalError, match="challenges under way are not kept"):
            Commands(rig.hub).challenge(parts=2)
        rig.hub.journal._db.execute("PRAGMA query_only = 0")
        assert rig.hub.guard.challenges.under_way() == {}


def test_an_overdue_challenge_warns_or_stops_and_is_remembered_over_a_restart(short_path: Path) -> None:
    with rig_with(short_path, challenge_every_s=1000.0, challenge_overdue="stop") as rig:
        rig.hub.guard._met["cam"] = time.time() - 990
        rig.hub.guard._unsaved = True
        rig.hub.guard.save()
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == 0
        now = time.monotonic() + 20
        assert "camera cam: no challenge was met for" in rig.hub.guard.warnings(now)[0]
        rig.hub.guard.watch(now)
        assert rig.beat().stop_line == StopCause.CHALLENGE
        asked(rig, "acknowledge")
        rig.hub.guard.watch(now)
        assert rig.beat().stop_line == 0, "it says so once a period"


@pytest.mark.parametrize("wrong", [{"camera": "x"}, {"camera": 1}, {"parts": -1}, {"parts": 5000}, {"parts": "2"}])
def test_a_challenge_of_nothing_is_refused(rig: Rig, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Commands(rig.hub).challenge(**wrong)


def test_parts_that_a_stop_leaves_undecided_stop_no_line(short_path: Path) -> None:
    with rig_with(short_path, rules={"undecided_in_row": 1}) as rig:
        source, worker = rig.running()
        source.say(frame(0))
        worker.hears(m.Lease)
        rig.hub.stop()
        assert rig.outcomes(1) == {0: Reason.SHUTDOWN}
        assert rig.beat().stop_line == 0


def test_an_idle_hub_sleeps_until_its_next_beat(rig: Rig) -> None:
    rig.running()
    rig.turns(0.2)
    turns, end = 0, time.monotonic() + 0.5
    while time.monotonic() < end:
        rig.hub.wait(time.monotonic())
        rig.hub.turn(time.monotonic())
        turns += 1
    assert turns < 40
