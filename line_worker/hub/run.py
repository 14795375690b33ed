"""The hub's process.

In come frames from sources, results from workers, acknowledgements from sinks; out go leases, outcomes and the
station's state. Every turn of the loop: take what has arrived, settle what is due, lease what waits, write what was
decided, and only then show it to anybody. When a source stops, its open parts are decided by their deadlines; when a
worker stops, its parts are leased again; when a durable sink stops, the journal keeps what it is owed; when the
journal cannot be written, nothing passes. SIGTERM: what is in hand gets until its deadline (at most `stop_s`), the
rest is NO_DECISION(SHUTDOWN), and the process exits 0.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass

import structlog

from line_worker.config import Config
from line_worker.errors import DecodeError, JournalError
from line_worker.health import Notifier, StopFlag, only_one
from line_worker.hub.dispatch import Dispatcher, Seat
from line_worker.hub.journal import Journal
from line_worker.hub.ledger import CameraRules, Decision, Ledger, Part
from line_worker.hub.outbox import Outbox
from line_worker.hub.station import Facts, Station
from line_worker.verdicts import Reason, StationState, Verdict
from line_worker.wire import messages as m
from line_worker.wire.links import FRAMES, OUTCOMES, WORK
from line_worker.wire.sockets import Channel, Wire

log = structlog.get_logger()

TICK_S = 0.005
BEAT_S = 0.05
PROBE_S = 0.02  # how often a worker that holds parts is probed: a killed one is noticed at the next probe
SOURCE_SILENT_S = 1.0


@dataclass(slots=True)
class SourcePeer:
    """A connected source: its address, current epoch, and what it last said."""

    peer: bytes
    epoch: int
    seen: float
    ready: bool = True
    detail: str = ""


class Hub:
    """State of the running hub; `turn` is one turn of the loop."""

    def __init__(self, config: Config, now: float) -> None:
        self.config = config
        self.instance = int.from_bytes(os.urandom(7), "big")
        self.journal = Journal(config.journal_path, config.line.name)
        self.wire = Wire(config.line.runtime, config.line.tcp, config.frame_bytes)
        self.frames, self.work = self.wire.bind(FRAMES), self.wire.bind(WORK)
        self.outcomes = self.wire.bind(OUTCOMES)
        self.outbox = Outbox(self.outcomes, self.journal, {s.name: s.kind != "plc" for s in config.sinks})
        self.ledger = Ledger(config.line.name, camera_rules(config))
        self.dispatcher = Dispatcher()
        self.station = Station()
        self.bundle = active_bundle(config)
        self.sources: dict[str, SourcePeer] = {}
        self.journal_error = ""
        self.newest_row = self.journal.last_row()
        self.stopping = False
        self._announced: dict[tuple[str, int], int] = {}
        self._done: dict[str, list[int]] = {}
        self._beat, self._beat_at, self._probe_at = 0, 0.0, 0.0
        for epoch in self.journal.open_epochs():
            self.ledger.restore(epoch.camera, epoch.epoch, epoch.next_seq, epoch.holes, now)

    # ---- one turn -----------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Sleep until something arrives or the next tick."""
        self.wire.wait(TICK_S if self.ledger.open_parts else BEAT_S / 2)

    def turn(self, now: float) -> None:
        """Take, settle, lease, write, show."""
        self._take(now)
        self._watch_workers(now)
        self.ledger.expire(now, bool(self.dispatcher.seats))
        self._lease(now)
        self._record()
        self._release(now)
        if now - self._beat_at >= BEAT_S:
            self._beat_at = now
            self._show_state(now)

    def _take(self, now: float) -> None:
        for received in self.frames.receive():
            self._from_source(received.peer, received.message, now)
        for received in self.work.receive():
            self._from_worker(received.peer, received.message, now)
        for received in self.outcomes.receive():
            self._from_sink(received.peer, received.message)

    # ---- sources ------------------------------------------------------------------------------------------------

    def _from_source(self, peer: bytes, message: m.Message | DecodeError, now: float) -> None:
        match message:
            case m.Frame():
                self._announce(peer, message, now)
            case m.SourceHello():
                self._hello_source(peer, message, now)
            case m.SourceAlive() if self._known(peer, message.camera, message.epoch):
                source = self.sources[message.camera]
                source.seen, source.ready, source.detail = now, message.ready, message.detail
                self._announced_up_to(message, now)
            case m.SourceBye() if self._known(peer, message.camera, message.epoch):
                self._announced_up_to(message, now)
                del self.sources[message.camera]
                log.info("source has finished", camera=message.camera, epoch=message.epoch, announced=message.next_seq)
            case DecodeError():
                log.warning("message refused", link="frames", peer=repr(peer), error=str(message))

    def _hello_source(self, peer: bytes, hello: m.SourceHello, now: float) -> None:
        if not self.ledger.open_epoch(hello.camera, hello.epoch):
            why = f"camera {hello.camera!r} is not in this line's configuration"
            self.frames.send(m.Refused(why, new_epoch=False), peer)
            return
        self.sources[hello.camera] = SourcePeer(peer, hello.epoch, now)
        self._announced.setdefault((hello.camera, hello.epoch), 0)
        self._greet(self.frames, peer)
        log.info("source is here", camera=hello.camera, epoch=hello.epoch, next_seq=hello.next_seq)

    def _announce(self, peer: bytes, frame: m.Frame, now: float) -> None:
        if not self._known(peer, frame.key.camera, frame.key.epoch):
            return
        self.sources[frame.key.camera].seen = now
        if not self.ledger.announce(frame, frame.pixels, now):
            self.frames.send(m.Refused("the sequence has jumped too far", new_epoch=True), peer)
            return
        key = frame.key.camera, frame.key.epoch
        self._announced[key] = max(self._announced.get(key, 0), frame.key.seq + 1)
        if self.ledger.is_settled(frame.key.camera, frame.key.epoch, frame.key.seq):
            self._done.setdefault(frame.key.camera, []).append(frame.key.seq)
        if self.outbox.wants_frames:
            self.outbox.tap(m.Tap(frame, frame.pixels))

    def _announced_up_to(self, message: m.SourceAlive | m.SourceBye, now: float) -> None:
        self.ledger.announced_up_to(message.camera, message.epoch, message.next_seq, now)
        key = message.camera, message.epoch
        self._announced[key] = max(self._announced.get(key, 0), message.next_seq)

    def _known(self, peer: bytes, camera: str, epoch: int) -> bool:
        """Whether this is the camera's current source; a stranger is greeted, so that it says hello."""
        source = self.sources.get(camera)
        if source is not None and (source.peer, source.epoch) == (peer, epoch):
            return True
        self._greet(self.frames, peer)
        return False

    # ---- workers ------------------------------------------------------------------------------------------------

    def _from_worker(self, peer: bytes, message: m.Message | DecodeError, now: float) -> None:
        match message:
            case m.WorkerHello():
                self._hello_worker(peer, message, now)
            case m.Result():
                self._result(peer, message, now)
            case m.Progress():
                if not self.dispatcher.progress(message.session, now):
                    self._greet(self.work, peer)
            case m.WorkerBye():
                self._lose(message.session, "left", now)
            case DecodeError():
                log.warning("message refused", link="work", peer=repr(peer), error=str(message))

    def _hello_worker(self, peer: bytes, hello: m.WorkerHello, now: float) -> None:
        if hello.bundle != self.bundle:
            why = f"bundle {hello.bundle[:12]} is not the active one ({self.bundle[:12]})"
            self.work.send(m.Refused(why, new_epoch=False), peer)
            log.warning("worker refused", worker=hello.worker, why=why)
            return
        seat = Seat(peer, hello.worker, hello.session, hello.credits, hello.stall_ms / 1000, hello.device, now)
        self.dispatcher.join(seat)
        self._greet(self.work, peer)
        log.info("worker is ready", worker=hello.worker, device=hello.device, credits=hello.credits)

    def _result(self, peer: bytes, result: m.Result, now: float) -> None:
        if not self.dispatcher.progress(result.session, now):
            self._greet(self.work, peer)
        seat = self.dispatcher.seats.get(result.session)
        self.dispatcher.answered(result.session, result.lease)
        worker = seat.worker if seat else ""
        if not self.ledger.result(result, worker, self.bundle, self.station.may_pass, now):
            log.info("result refused", key=str(result.key), worker=worker, lease=result.lease)

    def _watch_workers(self, now: float) -> None:
        for seat in self.dispatcher.stalled(now):
            self.work.send(m.Refused("no progress: expelled", new_epoch=False), seat.peer)
            self._lose(seat.session, f"no progress for {seat.stall_s:.1f} s", now)
        if now - self._probe_at >= PROBE_S:
            self._probe_at = now
            for seat in list(self.dispatcher.seats.values()):
                if seat.holds and not self._greet(self.work, seat.peer):
                    self._lose(seat.session, "its process is gone", now)

    def _lose(self, session: int, why: str, now: float) -> None:
        seat = self.dispatcher.leave(session)
        if seat is None:
            return
        held = [str(part.key) for part in seat.holds.values()]
        log.warning("worker lost", worker=seat.worker, why=why, held=held)
        for part in self.ledger.lose(session, now):
            log.error("poisonous part", key=str(part.key))

    def _lease(self, now: float) -> None:
        for seat, part, lease in self.dispatcher.assign(self.ledger):
            assert part.frame is not None
            slack_ms = (part.due - now) * 1000
            if not self.work.send(m.Lease(lease, part.attempt, slack_ms, part.frame, part.pixels), seat.peer):
                self._lose(seat.session, "its process is gone", now)

    # ---- sinks --------------------------------------------------------------------------------------------------

    def _from_sink(self, peer: bytes, message: m.Message | DecodeError) -> None:
        match message:
            case m.SinkHello():
                self.outbox.join(peer, message)
                log.info("sink is here", sink=message.sink, durable=message.durable)
            case m.SinkAck():
                self.outbox.acknowledge(message.sink, message.row)
            case m.SinkState():
                if not self.outbox.reachable(message.sink, message.reachable, message.detail):
                    self._greet(self.outcomes, peer)
            case DecodeError():
                log.warning("message refused", link="outcomes", peer=repr(peer), error=str(message))

    # ---- out ----------------------------------------------------------------------------------------------------

    def _record(self) -> None:
        """Write what was decided; without its row nothing passes."""
        parts = self.ledger.take_decided()
        cursors = self.outbox.take_cursors()
        if not parts and not cursors:
            return
        try:
            rows = self.journal.write(parts, self._announced, cursors)
            self.journal_error = ""
        except JournalError as error:
            if not self.journal_error:
                log.error("journal cannot be written", error=str(error))
            self.journal_error = str(error)
            rows = [-1] * len(parts)
        for part, row in zip(parts, rows, strict=True):
            self._recorded(part, row)

    def _recorded(self, part: Part, row: int) -> None:
        if row < 0 and part.decision is not None:
            part.decision = Decision(Reason.JOURNAL, part.decision.at)
        elif row == 0:  # an earlier hub has decided this key: its outcome stands
            log.warning("outcome stands already", key=str(part.key))
        self.newest_row = max(self.newest_row, row)
        self.ledger.recorded(part, row)

    def _release(self, now: float) -> None:
        for part in self.ledger.release():
            self.outbox.offer(self._outcome(part, now))
            self._done.setdefault(part.key.camera, []).append(part.key.seq)
        for camera, seqs in self._done.items():
            source = self.sources.get(camera)
            if source is not None:
                self.frames.send(m.FrameDone(camera, source.epoch, tuple(seqs)), source.peer)
        self._done.clear()
        self.outbox.pump(self.newest_row)

    def _outcome(self, part: Part, now: float) -> m.Outcome:
        stored = self.journal.find(part.key) if part.row == 0 else None
        if stored is not None:
            return stored
        decision, frame = part.decision, part.frame
        assert decision is not None
        return m.Outcome(
            row=max(0, part.row),
            key=part.key,
            verdict=decision.verdict,
            reason=int(decision.reason),
            score=decision.score,
            threshold=decision.threshold,
            regions=decision.regions,
            bundle=decision.bundle,
            worker=decision.worker,
            attempt=part.attempt,
            part_id=frame.part_id if frame else "",
            trigger=frame.trigger if frame else 0,
            latency_ms=(decision.at - part.t0) * 1000,
            left_ms=(part.due - now) * 1000,
            wall=time.time(),
            stages=decision.stages,
        )

    def _show_state(self, now: float) -> None:
        if self.station.update(self._facts(now), now):
            log.info("station", state=self.station.state.name, cause=self.station.cause)
        self._beat += 1
        counts = {str(v): self.ledger.counts[v] for v in Verdict}
        state = m.HubState(
            *(self.instance, self._beat, int(self.station.state), self.station.cause, self.bundle),
            *(self.ledger.open_parts, len(self.dispatcher.seats), counts),
        )
        self.outbox.beat(state)
        for source in self.sources.values():
            self._greet(self.frames, source.peer)

    def _facts(self, now: float) -> Facts:
        silent = {c: s for c, s in self.sources.items() if now - s.seen > SOURCE_SILENT_S}
        for camera in silent:
            log.warning("source is silent", camera=camera)
            del self.sources[camera]
        bad = tuple(f"camera {c}: {s.detail}" for c, s in self.sources.items() if not s.ready)
        return Facts(
            stopping=self.stopping,
            workers=len(self.dispatcher.seats),
            sources=len(self.sources),
            journal_error=self.journal_error,
            bad_sinks=self.outbox.bad_sinks(),
            bad_sources=bad,
        )

    def _greet(self, channel: Channel, peer: bytes) -> bool:
        return channel.send(m.HubHello(self.instance, int(self.station.state)), peer)

    # ---- the end ------------------------------------------------------------------------------------------------

    def drained(self) -> bool:
        """Whether every announced part is released and every connected durable sink has everything."""
        return not self.ledger.open_parts and self.outbox.settled

    def stop(self, now: float) -> None:
        """Settle what is still open as SHUTDOWN, write and show it."""
        self.stopping = True
        self.ledger.stop(now)
        self._record()
        self._release(now)
        self._show_state(now)

    def close(self) -> None:
        """Close sockets (with a bounded flush) and the journal."""
        self.wire.close(flush_s=0.5)
        self.journal.close()


def camera_rules(config: Config) -> dict[str, CameraRules]:
    """Return what the ledger needs to know of each camera."""
    return {c.name: CameraRules(c.deadline_ms / 1000, c.window, int(c.max_frame_mb * 1e6)) for c in config.cameras}


def active_bundle(config: Config) -> str:
    """Return the sha256 that names the configured bundle, "stub" for none, "" when there is no bundle to read."""
    if config.workers.stub:
        return "stub"
    try:
        return hashlib.sha256((config.workers.bundle / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return ""


def memory_bound(config: Config) -> int:
    """Return the bytes that frames can take at most, in the hub and in shared memory, all windows full."""
    inline = sum(int(c.max_frame_mb * 1e6) * (c.window + 2) for c in config.cameras if c.transport == "inline")
    rings = sum(int(c.max_frame_mb * 1e6) * c.ring_slots for c in config.cameras if c.transport == "ring")
    return inline * 2 + rings


def run(config: Config) -> int:
    """Run the hub until SIGTERM; returns the exit code."""
    stop, notifier = StopFlag(), Notifier()
    with only_one(config.line.runtime, "hub"):
        hub = Hub(config, time.monotonic())
        log.info("hub is up", line=config.line.name, frames_mb=memory_bound(config) / 1e6, bundle=hub.bundle[:12])
        notifier.ready("waiting for workers and sinks")
        try:
            while not stop:
                hub.wait()
                hub.turn(time.monotonic())
                notifier.alive()
            _finish(hub, config, notifier)
        finally:
            hub.close()
            notifier.close()
    return 0


def _finish(hub: Hub, config: Config, notifier: Notifier) -> None:
    notifier.stopping()
    grace = min(config.line.stop_s, max(c.deadline_ms for c in config.cameras) / 1000 + 0.5)
    until = time.monotonic() + grace
    while not hub.drained() and time.monotonic() < until:
        hub.wait()
        hub.turn(time.monotonic())
    hub.stop(time.monotonic())
    log.info("hub stops", state=StationState.STOPPED.name, counts=dict(hub.ledger.counts))
