"""A worker's process.

In come leased frames from the hub; out go results with the time of each stage, and afterwards crops to the store.
Before it says hello the bundle is verified, its golden images are reproduced on this device, and every batch size is
warmed up. Pixels are copied and checked as they arrive; batches close by deadline. When the hub restarts or has
expelled us, we say hello again under a new session. A batch that does not fit into the device's memory is computed in
halves, once, and batches stay that small; the next time, and at any other device error, the process ends: the hub
leases its frames again, one by one. A process that has grown asks to be replaced; the hub lets it go once another one
has taken its place.
SIGTERM: what is in hand is computed, goodbye, exit 0.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from line_worker.config import Config
from line_worker.errors import BundleError, DecodeError, DeviceMemoryError, FrameError
from line_worker.health import Notifier, StopFlag, only_one
from line_worker.joining import check_cameras, open_wire
from line_worker.verdicts import Reason
from line_worker.wire import messages as m
from line_worker.wire.frames import FrameReader
from line_worker.wire.limits import CREDIT_BATCHES
from line_worker.wire.links import WORK
from line_worker.wire.sockets import Wire
from line_worker.worker.answer import StageClock, result_of
from line_worker.worker.batching import Batcher, Pace
from line_worker.worker.crops import CropSender
from line_worker.worker.growth import Growth
from line_worker.worker.model import Finding, Model, load_model
from line_worker.worker.standby import Standby

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = structlog.get_logger()

IDLE_S = 0.05
PROGRESS_S = 0.1
HELLO_S = 0.2  # a hub that does not know us is greeted at most this often
MAX_NONFINITE = 3
STALL_MS = 400.0  # without progress for longer than this, or three warm batches, the worker counts as hung


@dataclass(frozen=True, slots=True)
class Job:
    """A leased frame whose pixels have arrived intact; `arrived` in monotonic seconds."""

    lease: m.Lease
    image: NDArray[Any]
    arrived: float


class Runner:
    """The worker's loop around a model."""

    def __init__(
        self, name: str, config: Config, model: Model, wire: Wire, crops: CropSender, on_grown: Callable[[str], None]
    ) -> None:
        self.name, self.model, self._crops = name, model, crops
        self._workers, self._reported = config.workers, False
        self._standby: Standby | None = None
        self._wire, self._channel = wire, wire.connect(WORK, name)
        self._largest = config.workers.batch
        self._pace = Pace()
        self._batcher: Batcher[Job] = Batcher(self._largest, self._pace)
        self._reader = FrameReader(empty=model.empty)
        self._session, self._instance, self._hello_at = 0, 0, 0.0
        self._stall_ms, self._batches, self._progress_at = STALL_MS, 0, 0.0
        self._nonfinite, self._halved = 0, False
        self._canary: Job | None = None  # waits until there is nothing else to do
        self._growth, self._on_grown, self._grown = Growth(config.workers), on_grown, False
        self.dismissed = False  # the hub has let this worker go

    def warm_up(self) -> None:
        """Compute batches of every size in use twice; the second time is remembered."""
        example = self.model.example()
        for size in self.model.sizes(self._largest):
            for _ in range(2):
                start = time.monotonic()
                self.model.inspect([example] * size)
                seconds = time.monotonic() - start
            self._pace.took(size, seconds)
        self._stall_ms = max(STALL_MS, 3000 * self._pace.typical(self._largest))

    def turn(self) -> None:
        """Take leases, compute at most one batch, say that the loop turns."""
        self._report_standby()
        self._watch_growth()
        if not len(self._batcher) and self._canary is None:
            self._wire.wait(IDLE_S)
        self.take()
        now = time.monotonic()
        for job in self._batcher.too_late(now):
            self._answer(job.lease, Reason.TOO_LATE)
        batch = self._batcher.take(now)
        if batch:
            self._compute(batch)
        elif self._canary is not None:
            self._judge_canary(self._canary)
        if batch or now - self._progress_at >= PROGRESS_S:
            self._progress_at = now
            self._channel.send(m.Progress(self._session, self._batches))

    def take(self) -> None:
        """Take what the hub has sent."""
        for received in self._channel.receive():
            match received.message:
                case m.Lease():
                    self._leased(received.message)
                case m.HubHello():
                    self._meet(received.message, time.monotonic())
                case m.Prepare():
                    self._prepare(received.message)
                case m.Adopt():
                    self._adopt(received.message)
                case m.Leave():
                    self.dismissed |= received.message.session == self._session
                case m.Refused():
                    self._refused(received.message.why)
                case DecodeError():
                    log.warning("message refused", link="work", error=str(received.message))

    def finish(self) -> None:
        """Compute what is in hand and say goodbye."""
        self.take()
        while batch := self._batcher.take(time.monotonic()):
            self._compute(batch)
        self._channel.send(m.WorkerBye(self._session))

    # ---- inside -------------------------------------------------------------------------------------------------

    def _meet(self, hub: m.HubHello, now: float) -> None:
        stranger = hub.instance != self._instance
        if stranger:  # what an earlier hub had us prepare, nobody will ask for
            self._standby = None
        if stranger or (not hub.known and now - self._hello_at >= HELLO_S):
            self._instance = hub.instance
            self._hello()

    def _hello(self) -> None:
        """Introduce ourselves under a new session; leases of an older one are void."""
        self._hello_at = time.monotonic()
        self._session = int.from_bytes(os.urandom(7), "big")
        self._batcher, self._canary = Batcher(self._largest, self._pace), None
        credits = CREDIT_BATCHES * self._largest
        self._channel.send(
            m.WorkerHello(self.name, self._session, credits, self.model.bundle, self._stall_ms, self.model.device)
        )

    def _prepare(self, asked: m.Prepare) -> None:
        """Load another bundle beside this one, or let go of what was loaded.

        Who asks again, because we have begun a new session, gets the same one: loading it twice may never end.
        """
        self._reported = False
        if self._standby is None or self._standby.sha != asked.bundle or self._standby.why_not:
            self._standby = Standby(self._workers, asked.path, asked.bundle, self._largest) if asked.bundle else None

    def _report_standby(self) -> None:
        standby = self._standby
        if standby is not None and standby.finished and not self._reported:
            self._reported = True
            log.info("standby is ready" if standby.model else "standby failed", bundle=standby.sha, why=standby.why_not)
            self._channel.send(m.Prepared(self._session, standby.sha, standby.model is not None, standby.why_not))

    def _watch_growth(self) -> None:
        """Ask to be replaced, again and again, once this process has grown; a second bundle is no growth."""
        if self._standby is not None and not self._grown:
            self._growth.begin_anew()
            return
        what = self._growth.look(time.monotonic())
        if not what:
            return
        if not self._grown:
            log.warning("worker has grown: it asks to be replaced", worker=self.name, what=what)
        self._grown = True
        self._on_grown(what)
        self._channel.send(m.Grown(self._session, what))

    def _adopt(self, asked: m.Adopt) -> None:
        """Change the bundle between batches; the hub has given nothing more and waited for what was in hand."""
        if self._standby is None or self._standby.model is None or self._standby.sha != asked.bundle:
            log.warning("asked for a bundle that does not stand by", bundle=asked.bundle)
            return
        self.model, self._standby = self._standby.model, None
        self._crops.use(self.model)
        log.info("bundle changed", worker=self.name, bundle=self.model.bundle)
        self._hello()

    def _refused(self, why: str) -> None:
        if "bundle" in why:
            raise BundleError(f"worker {self.name}: the hub refuses it: {why}; restart the line with one bundle")
        log.warning("expelled by the hub", why=why)
        self._hello()

    def _leased(self, lease: m.Lease) -> None:
        try:
            image = self._reader.read(lease.frame, lease.pixels)
        except FrameError as error:
            log.warning("frame refused", key=str(lease.frame.key), error=str(error))
            self._answer(lease, error.reason)
            return
        arrived = time.monotonic()
        if lease.canary:
            self._canary = Job(lease, image, arrived)
        else:
            self._batcher.add(Job(lease, image, arrived), arrived + lease.slack_ms / 1000)

    def _compute(self, batch: list[Job]) -> None:
        start, clock = time.monotonic(), StageClock()
        findings = self._inspect(batch, clock)
        self._pace.took(len(batch), time.monotonic() - start)
        self._batches += 1
        for job, finding in zip(batch, findings, strict=True):
            stages = {"queue": (start - job.arrived) * 1000, **clock.stages}
            self._answer(job.lease, finding.reason, finding, stages)
            self._count_nonfinite(finding)
        for job, finding in zip(batch, findings, strict=True):
            if finding.reason is Reason.ANOMALY:
                self._crops.offer(job.lease.frame.key, job.image, finding)

    def _inspect(self, batch: list[Job], clock: StageClock) -> list[Finding]:
        """Inspect a batch; the first one that does not fit into the device's memory is inspected in halves."""
        try:
            return list(self.model.inspect([job.image for job in batch], clock, [job.lease.limit for job in batch]))
        except DeviceMemoryError as error:
            if self._halved or len(batch) == 1:
                raise
            log.warning("device out of memory: smaller batches from now on", batch=len(batch), error=str(error))
            self._halved = True
            self._largest = self._batcher.largest = (len(batch) + 1) // 2
            return [*self._inspect(batch[: self._largest], clock), *self._inspect(batch[self._largest :], clock)]

    def _judge_canary(self, job: Job) -> None:
        """Judge a copy of the picture with a defect; its pictures are nobody's, so none are sent."""
        self._canary = None
        finding = self.model.canary(job.image, job.lease.frame.key.seq, job.lease.limit)
        self._batches += 1
        self._answer(job.lease, finding.reason if finding else Reason.NO_OBJECT, finding)

    def _answer(
        self, lease: m.Lease, reason: Reason, finding: Finding | None = None, stages: dict[str, float] | None = None
    ) -> None:
        self._channel.send(result_of(lease, self._session, self.model.bundle, reason, finding, stages))

    def _count_nonfinite(self, finding: Finding) -> None:
        self._nonfinite = self._nonfinite + 1 if finding.reason is Reason.NONFINITE else 0
        if self._nonfinite >= MAX_NONFINITE:
            raise BundleError(
                f"worker {self.name}: {MAX_NONFINITE} results in a row were not finite, so nothing it says can be "
                "trusted; it starts again; if that repeats, verify the bundle and the device"
            )


def run(config: Config, index: int) -> int:
    """Run worker number `index` until SIGTERM, or until the hub lets it go; returns the exit code."""
    stop, notifier = StopFlag(), Notifier()
    name = f"worker-{index}"
    with only_one(config.line.runtime, name):
        check_cameras(config, name, config.cameras)
        model = load_model(config.workers)
        wire = open_wire(config, "worker")
        crops = CropSender(config, model, name)
        try:
            runner = Runner(name, config, model, wire, crops, notifier.grown)
            runner.warm_up()
            log.info("worker is warm", worker=name, device=model.device, bundle=model.bundle[:12])
            notifier.ready(f"bundle {model.bundle[:12]} on {model.device}")
            while not (stop or runner.dismissed):
                runner.turn()
                notifier.alive()
            notifier.stopping()
            runner.finish()
        finally:
            crops.close()
            wire.close(flush_s=0.5)
            notifier.close()
    return 0
