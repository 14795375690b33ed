"""The hub's process.

In come frames from sources, results from workers, acknowledgements from sinks; out go leases, outcomes and the
station's state. Every turn of the loop: take what has arrived, settle what is due, lease what waits, write what was
decided, and only then show it to anybody. When a source stops, its open parts are decided by their deadlines; when a
worker stops, its parts are leased again; when a durable sink stops, the journal keeps what it is owed; when the
journal cannot be written, nothing passes. SIGTERM: what is in hand gets until its deadline (at most `stop_s`), the
rest is NO_DECISION(SHUTDOWN), durable sinks get `stop_s` to take what they are owed, and the process exits 0.
"""

from __future__ import annotations

import os
import time
from collections import Counter

import structlog

from line_worker.config import Config
from line_worker.health import Notifier, StopFlag, only_one
from line_worker.hub.ballast import Ballast
from line_worker.hub.books import Books
from line_worker.hub.bounds import memory_bound
from line_worker.hub.changeover import Changeover
from line_worker.hub.commands import Commands
from line_worker.hub.configured import calibration, camera_rules
from line_worker.hub.control import ControlSocket
from line_worker.hub.drift import WINDOW, DriftWatch
from line_worker.hub.guard import Guard
from line_worker.hub.ledger import Ledger
from line_worker.hub.limit_book import LimitBook
from line_worker.hub.monitor import Monitor
from line_worker.hub.outbox import Outbox
from line_worker.hub.peers import Peers
from line_worker.hub.quarantine import Quarantine
from line_worker.hub.recipes import Recipes
from line_worker.hub.reopening import open_journal
from line_worker.hub.sources import Sources
from line_worker.hub.station import Facts, Station
from line_worker.hub.triggers import Triggers
from line_worker.hub.views import REMEMBERED, Views
from line_worker.hub.workers import PROBE_S, Workers
from line_worker.joining import open_wire
from line_worker.lapse import Heard, Lapse
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.links import FRAMES, OUTCOMES, WORK
from line_worker.wire.messages import HubState, Outcome, Select, Trigger

log = structlog.get_logger()

BEAT_S = 0.05
FEED_S = 0.001  # PLC sinks come first: a log or a recorder right behind them cost half a millisecond of p99


class Hub:
    """State of the running hub; `turn` is one turn of the loop."""

    def __init__(self, config: Config, now: float) -> None:
        self.instance = int.from_bytes(os.urandom(7), "big")
        self.journal, begun_anew = open_journal(config.journal_path, config.line.name, config.views())
        self.wire = open_wire(config, "hub")
        self.station = Station()
        waiting = {FRAMES.name: max(camera.window for camera in config.cameras) + 2}  # pictures inside messages
        self.peers = frames, work, outcomes = tuple(
            Peers(self.wire.bind(link, waiting.get(link.name, 0)), self.instance, self.station)
            for link in (FRAMES, WORK, OUTCOMES)
        )
        ballast = Ballast(config.journal_path.with_name("ballast"), int(config.line.ballast_mb * 1e6))
        ballast.lay()
        self.books = Books(self.journal, ballast)
        self.ledger = Ledger(config.line.name, camera_rules(config))
        shadows = tuple(s.name for s in config.sinks if s.kind == "shadow")
        expected = {s.name: s.durable for s in config.sinks if s.kind not in ("shadow", "live")}
        pages = tuple(s.name for s in config.sinks if s.kind == "live")
        self.outbox = Outbox(outcomes, self.journal, expected, shadows, pages)
        self.views = Views(config, self.ledger)
        self.sources = Sources(frames, self.ledger, self.views, self.outbox, begun_anew=begun_anew)
        self.triggers = Triggers(config, self.sources, self.views, self.ledger.counts)
        self.guard = Guard(config, self.journal, now)
        quarantine, canaries = Quarantine(config.line.data / "quarantine"), self.guard.canaries
        changeover = Changeover(config, work)
        calibrated, own = calibration(config)
        self.limits = LimitBook(self.journal, tuple(c.name for c in config.cameras), changeover.sha, own)
        self.workers = Workers(work, self.ledger, self.station, changeover, quarantine, canaries, self.limits)
        self.recipes = Recipes(config, changeover)
        self.drift = DriftWatch(self.workers.bundle, calibrated)
        self.challenge_parts = {c.name: c.challenge_parts for c in config.cameras}
        self.stopping = False
        self._beat, self._beat_at = 0, 0.0
        self._released: list[Outcome] = []  # those that `_feed` shows from `_feed_at` on
        self._feed_at = 0.0
        self.ledger.distrusted = self.guard.distrusted
        if changeover.problem:
            self.ledger.without_workers = Reason.NO_MODEL
        self._took_at, self._heard, self._lapse = now, Heard(now, False, now), Lapse()
        self._recover(now)
        self.control = ControlSocket(config.line.runtime, Commands(self).table)
        self.monitor = Monitor(config.line.metrics)

    def _recover(self, now: float) -> None:
        """Take over what an earlier hub has left."""
        self.ledger.counts.update(self.journal.totals())
        for epoch in self.journal.open_epochs():
            last, headers = epoch.last, epoch.headers
            self.ledger.restore(epoch.camera, epoch.epoch, epoch.next_seq, epoch.holes, now, last, headers)
        for camera in self.ledger.cameras:
            self.drift.restore(camera, self.journal.passed(camera, self.workers.bundle, WINDOW))
        for name in self.views.names:
            self.views.restore(name, self.journal.newest(name, REMEMBERED), now)
        self.views.open_epochs(time.time_ns() // 1000)

    # ---- one turn -----------------------------------------------------------------------------------------------

    def wait(self, now: float) -> None:
        """Sleep until something arrives, the next deadline, or the next beat."""
        due = self.ledger.next_due()
        limit = now + PROBE_S if due is not None else self._beat_at + BEAT_S
        limit = min(limit, limit if due is None else due, self._feed_at if self._released else limit)
        self._lapse.note(self._took_at, now)  # a turn that took so long was one in which we were stopped
        waiting = self.wire.wait(limit - now)
        self._heard = Heard(self._took_at if waiting else now, waiting, limit)

    def turn(self, now: float) -> None:
        """Take, settle, lease, write, show."""
        heard = self._lapse.date(self._heard.at(now), now)
        self.sources.take(now, heard)
        self._took_at = now
        self.workers.take(now)
        for ask in self.outbox.take():
            self._heed(ask, now, heard)
        self.workers.watch(now)
        self.ledger.expire(now, bool(self.workers))
        if self.stopping:
            self.ledger.stop(now)
        self.workers.lease(now)
        beat = now - self._beat_at >= BEAT_S
        self._record(now, beat=beat)
        self._release()
        self._feed(now)
        self.guard.watch(now)
        self._update_station(now)
        if beat:
            self._beat_at = now
            if not self.books.error:
                self.guard.settle()
            self.control.poll(now)
            self.recipes.turn(now)
            self._show_state()
            self.monitor.publish(self, now)

    def _heed(self, ask: Trigger | Select, now: float, heard: float) -> None:
        """Do what a sink's other side has asked for."""
        if isinstance(ask, Select):
            self.recipes.select(ask.recipe)
        else:
            self.triggers.fire(ask, now, heard)

    def _record(self, now: float, *, beat: bool) -> None:
        """Write what was decided; without its row nothing passes."""
        self.books.note(self.ledger.take_announced(), self.outbox.take_cursors(), self.ledger.take_gathered())
        parts = self.views.settle(now)
        for part, row in zip(parts, self.books.write(parts, beat=beat), strict=True):
            self.ledger.recorded(part, row)

    def _release(self) -> None:
        now = time.monotonic()  # writing has taken time
        if not self._released:
            self._feed_at = now + FEED_S
        for part in self.ledger.release():
            self._released.append(outcome := self.books.outcome(part, now))
            self.outbox.offer(outcome)
            self.drift.take(outcome)
            if part.challenge and not part.gathered:  # of a gathered part its views are known to be bad, and counted
                self.guard.take_known_bad(outcome, now)
            elif part.row and not part.challenge:  # 0: an earlier hub has counted it
                self.guard.take(outcome)
            self.monitor.take(outcome, now)
            if outcome.verdict == Verdict.NO_DECISION:
                log.warning("no decision", key=str(outcome.key), reason=Reason(outcome.reason).name)
            self.sources.done(part.key)
        self.sources.send_done()

    def _feed(self, now: float) -> None:
        """Show what was released to those for whom no part waits: durable sinks, and whoever looks at frames."""
        if self._released and now < self._feed_at:
            return
        released, self._released = self._released, []
        self.outbox.follow(released, now)
        self.outbox.pump(self.books.newest_row)

    def _update_station(self, now: float) -> None:
        """Follow the facts in every turn: a worker that has just come back may answer before the next beat."""
        if self.station.update(self._facts(), now):
            log.info("station", state=self.station.state.name, cause=self.station.cause)

    def _watch_drift(self) -> None:
        come, gone = self.drift.changed()
        for drift in come:
            log.warning("scores drift", camera=drift.camera, share=drift.share, limit=drift.limit, what=str(drift))
        for camera in gone:
            log.info("scores no longer drift", camera=camera)

    def _follow_bundle(self) -> None:
        """Scores of another bundle have another calibration."""
        if self.drift.bundle != self.workers.bundle:
            self.ledger.without_workers = Reason.NO_WORKER
            calibrated, own = calibration(self.workers.changeover.config)
            self.drift = DriftWatch(self.workers.bundle, calibrated)
            self.limits.follow(self.workers.bundle, own)

    def _show_state(self) -> None:
        self._beat += 1
        self._follow_bundle()
        self._watch_drift()
        self.outbox.beat(
            HubState(
                instance=self.instance,
                beat=self._beat,
                state=int(self.station.state),
                cause=self.station.cause,
                bundle=self.workers.bundle,
                open_parts=self.ledger.open_parts,
                workers=len(self.workers),
                counts={str(verdict): self.ledger.counts[verdict] for verdict in Verdict},
                warnings=self.warnings,
                stop_line=int(self.guard.alarms.stop_line),
                recipe=self.recipes.active,
                recipe_state=int(self.recipes.state),
            )
        )
        self.sources.greet()

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should look at, in words."""
        alarms = (str(alarm) for alarm in self.guard.alarms)
        return (
            *alarms,
            *self.guard.warnings(time.monotonic()),
            *self.limits.warnings,
            *self.drift.warnings,
            *self.outbox.warnings,
            *self.workers.warnings,
            *self.recipes.warnings,
        )

    def turned_away(self) -> Counter[str]:
        """Return how many messages and connections were not taken, by cause."""
        denied = self.wire.gate.denials.counts if self.wire.gate else Counter[str]()
        total = Counter({f"denied: {cause}": count for cause, count in denied.items()})
        for peers in self.peers:
            total.update(peers.counts)
        return total

    def _facts(self) -> Facts:
        return Facts(
            stopping=self.stopping,
            workers=len(self.workers),
            sources=len(self.sources.present),
            journal_error=self.books.error or self.guard.journal_error,
            bad_sinks=self.outbox.bad_sinks(),
            missing_sinks=self.outbox.missing_sinks(),
            bad_sources=self.sources.bad(),
            missing_sources=self.triggers.missing,
            gone_sources=self.sources.gone(),
            frozen=self.sources.frozen(),
        )

    # ---- the end ------------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether everybody has been shown everything, and durable sinks that can take it have it for good."""
        return not self._released and self.outbox.settled

    def stop(self) -> None:
        """From now on nothing is open any longer than a turn, and nothing passes."""
        self.stopping, self._beat_at = True, 0.0
        now = time.monotonic()
        self.ledger.stop(now)  # a result that is on its way comes too late
        self._update_station(now)

    def close(self) -> None:
        """Close sockets (with a bounded flush) and the journal."""
        self.control.close()
        self.monitor.close()
        self.wire.close(flush_s=0.5)
        self.journal.close()


def run(config: Config) -> int:
    """Run the hub until SIGTERM; returns the exit code."""
    stop, notifier = StopFlag(), Notifier()
    with only_one(config.line.runtime, "hub"):
        hub = Hub(config, time.monotonic())
        bound = memory_bound(config)
        log.info("hub is up", line=config.line.name, bundle=hub.workers.bundle)
        log.info("memory is bounded", total_mb=round(bound.total / 1e6, 1), by_place_mb=bound.as_mb())
        notifier.ready("waiting for workers and sinks")
        try:
            while not stop:
                _turn(hub, notifier)
            notifier.stopping()
            _finish(hub, config, notifier)
        finally:
            hub.close()
            notifier.close()
    return 0


def _turn(hub: Hub, notifier: Notifier) -> None:
    hub.wait(time.monotonic())
    hub.turn(time.monotonic())
    notifier.alive()


def _finish(hub: Hub, config: Config, notifier: Notifier) -> None:
    """Let what is in hand be decided, refuse the rest, then let durable sinks catch up; each in bounded time."""
    until = time.monotonic() + min(config.line.stop_s, max(c.deadline_ms for c in config.cameras) / 1000)
    while hub.ledger.open_parts and time.monotonic() < until:
        _turn(hub, notifier)
    hub.stop()
    hub.turn(time.monotonic())
    until = time.monotonic() + config.line.stop_s
    while not hub.settled and time.monotonic() < until:
        _turn(hub, notifier)
    log.info("hub stops", counts=dict(hub.ledger.counts))
