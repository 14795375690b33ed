"""The source's process.

In come triggers from a camera, folder, video, recording or drawing; out go announced frames to the hub, pixels in
shared memory or inline. Every trigger takes a sequence number before anything can go wrong, so a loss is always a
visible gap. A frame is kept until the hub says that it is recorded, and is sent again to a hub that has restarted.
When the window is full only the header is announced. When a clock or a sink's other side triggers, only pictures of
parts that have come are announced (see `triggered`). When the source fails it is closed and opened again with backoff;
when it is finished, or at SIGTERM, the process waits until its frames are decided, says goodbye and exits 0.
"""

from __future__ import annotations

import time

import structlog

from line_worker.config import Camera, Config, IntervalTrigger, SinkTrigger
from line_worker.errors import SourceError
from line_worker.health import Notifier, StopFlag, only_one
from line_worker.joining import check_cameras, open_wire
from line_worker.lapse import Lapse
from line_worker.source import LIVE, Captured, Fireable, Placing, Source, make_source
from line_worker.source.announce import Announcer
from line_worker.source.pacing import PacedSource
from line_worker.source.triggered import Fired, Interval, Triggers
from line_worker.verdicts import StationState

log = structlog.get_logger()

READ_S = 0.02  # how long a read may wait; acknowledgements are handled in between
IDLE_S = 0.005
UNSEEN_S = 0.05
DRAINED = 256  # pictures at once that nobody waits for
INTERVAL_S = 0.001  # how late an interval's trigger may be seen
BACKOFF_S = (0.2, 5.0)  # first and longest wait before a failed source is opened again


class Runner:
    """Opens the source, reads triggers while there is room, and reopens it after a failure."""

    def __init__(
        self,
        source: Source,
        announcer: Announcer,
        *,
        live: bool,
        triggers: Triggers | None = None,
        every_s: float = 0.0,
    ) -> None:
        self.source, self.announcer, self._live = source, announcer, live
        self._triggers = triggers
        self._interval = Interval(every_s, time.monotonic()) if every_s else None
        self._turned, self._lapse = time.monotonic(), Lapse()
        self._open, self._retry_at, self._backoff_s = False, 0.0, BACKOFF_S[0]
        self._started = live  # files and drawn parts wait until the line runs; a camera does not

    def turn(self) -> None:
        """Open if need be, announce at most one trigger."""
        now = time.monotonic()
        if self._triggers is not None:
            self._hear(self._triggers, now)
        if not self._open:
            self._try_open(now)
        if not self._open or not self._may_read():
            self.announcer.wait(IDLE_S)
            return
        try:
            captured = self._read(now)
        except SourceError as error:
            self._failed(error, now)
            return
        if captured is not None:
            self._backoff_s = BACKOFF_S[0]
            self.announcer.announce(captured)

    def _hear(self, triggers: Triggers, now: float) -> None:
        """Take the triggers that have come, announce the parts that nobody will see."""
        # a process that was stopped has not looked: what it finds may have been here since it looked last
        stopped = now - self._turned > UNSEEN_S
        arrived = self._lapse.date(self._turned if stopped else now, now)
        self._turned = now
        while self.announcer.fired:
            one = self.announcer.fired.popleft()
            triggers.fire(Fired(one.number, one.part_id, arrived - one.age_ms / 1000), missed=one.missed)
        due = self._interval.take(now) if self._interval is not None and self._started else None
        if due is not None:
            triggers.fire(due)
        new = triggers.newly_due(now)
        if self._open and (new or stopped):
            self._shoot(new)
        for lost in triggers.lost(now):
            self.announcer.announce(lost)
        if self._open and triggers.unanswered and isinstance(self.source, Fireable):
            self._failed(SourceError("the camera has not answered its trigger; it is opened again"), now)

    def _shoot(self, count: int) -> None:
        """Have the camera take so many pictures or, where it takes them all the time, forget those before now."""
        try:
            if isinstance(self.source, Fireable) and self.source.fires:
                for _ in range(count):
                    self.source.fire()
            elif not isinstance(self.source, PacedSource):
                self._drain()
        except SourceError as error:
            self._failed(error, time.monotonic())

    def _drain(self, triggers: Triggers | None = None) -> Captured | None:
        """Take pictures that no part waits for, so that the next one does not wait behind them; returns one that does.

        An answer that comes too late is one all the same: `triggers` hears of it.
        """
        for _ in range(DRAINED):
            captured = self.source.read(0)
            found = triggers.match(captured) if triggers is not None and captured is not None else None
            if captured is None or found is not None:
                return found
        return None

    def _read(self, now: float) -> Captured | None:
        """Return the next part: a picture of the source, or the one that was triggered."""
        if self._triggers is None:
            return self.source.read(READ_S)
        if not self._triggers.due(now):
            found = None if isinstance(self.source, PacedSource) else self._drain(self._triggers)
            if found is None:
                self.announcer.wait(IDLE_S if self._interval is None else INTERVAL_S)
            return found
        captured = self.source.read(READ_S)
        return None if captured is None else self._triggers.match(captured)

    def _may_read(self) -> bool:
        self._started = self._started or self.announcer.state == StationState.RUNNING
        return self._started and (self.announcer.has_room or not self.source.patient)

    def _try_open(self, now: float) -> None:
        if now < self._retry_at:
            return
        try:
            self.source.open()
        except SourceError as error:
            self._failed(error, now)
        else:
            self._open = True
            if self._triggers is not None:
                self._triggers.begin_anew()
            self.announcer.set_ready(True, "")

    def _failed(self, error: SourceError, now: float) -> None:
        log.warning("source failed", error=str(error), again_in_s=self._backoff_s)
        self.source.close()
        self._open, self._retry_at = False, now + self._backoff_s
        self._backoff_s = min(self._backoff_s * 2, BACKOFF_S[1])
        self.announcer.set_ready(False, str(error))


def make_runner(source: Source, announcer: Announcer, camera: Camera) -> Runner:
    """Return what reads `source` at the camera's trigger."""
    trigger, live = camera.trigger, camera.source.kind in LIVE
    if not isinstance(trigger, IntervalTrigger | SinkTrigger):
        return Runner(source, announcer, live=live)
    if isinstance(source, PacedSource):
        source.on_call = True
    timeout_ms = trigger.timeout_ms or camera.deadline_ms / 2
    each = isinstance(source, PacedSource) or (isinstance(source, Fireable) and source.fires)
    triggers = Triggers(trigger.delay_ms / 1000, timeout_ms / 1000, camera.window, each=each)
    every_s = trigger.every_ms / 1000 if isinstance(trigger, IntervalTrigger) else 0.0
    return Runner(source, announcer, live=live, triggers=triggers, every_s=every_s)


def run(config: Config, camera: Camera) -> int:
    """Run the source of `camera` until it is finished or SIGTERM; returns the exit code."""
    stop, notifier = StopFlag(), Notifier()
    with only_one(config.line.runtime, f"source-{camera.name}"):
        check_cameras(config, f"source {camera.name}", [camera])
        wire = open_wire(config, "source", int(camera.max_frame_mb * 1e6))
        source = make_source(camera)
        announcer = Announcer(config.line.name, camera, wire)
        if isinstance(source, Placing):
            source.place = announcer.place
        runner = make_runner(source, announcer, camera)
        notifier.ready(f"{camera.source.kind} is being read")
        try:
            while not stop and not source.finished:
                runner.turn()  # opens before anything is said: a camera that is only being opened is not a bad one
                announcer.turn()
                notifier.alive()
            notifier.stopping()
            _finish(announcer, camera, config)
        finally:
            source.close()
            announcer.close()
            wire.close(flush_s=0.5)
            notifier.close()
    return 0


def _finish(announcer: Announcer, camera: Camera, config: Config) -> None:
    """Wait for what is in hand: every frame is decided by its deadline, a hub that is gone gets `stop_s`."""
    until = time.monotonic() + camera.deadline_ms / 1000 + config.line.stop_s
    while announcer.pending and time.monotonic() < until:
        announcer.turn()
        announcer.wait(IDLE_S)
    announcer.goodbye()
    log.info("source stops", announced=announcer.next_seq, undecided=announcer.pending)
