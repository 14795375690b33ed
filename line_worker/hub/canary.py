"""Canaries: is the station still able to see a defect? Pure: time is an argument.

Every so often a camera's part that has just passed goes to a worker once more, which paints a strong defect on a copy
of it and judges that by the same path. It must FAIL; a PASS is a miss. A canary is no part: it has a lease number below
0, no row, no outcome, and no PLC ever hears of it. It is leased only to a worker that holds nothing while nothing
waits, and only where a part that comes right behind it still makes its deadline. What cannot be judged (its pixels are
gone, the worker has died, the pose is lost) is tried again with another part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from line_worker.hub.judging import judge
from line_worker.verdicts import Reason
from line_worker.wire.messages import Frame, Result

RETRY_S = 1.0  # after one that could not be judged, at most; a fifth of the period where that is less
PATIENCE_S = 10.0  # a canary that is not answered by then is lost
OVERDUE = 5  # periods without a canary that was judged, while parts passed: a warning


@dataclass(frozen=True, slots=True)
class Bait:
    """A part that has passed, to be judged again with a defect. `pixels` only where they came in the message."""

    frame: Frame
    pixels: bytes


@dataclass(slots=True)
class Aviary:
    """One camera's canaries: since when the last one was judged, and what became of them."""

    every_s: float
    due_at: float
    judged_at: float
    bait: Bait | None = None
    passed: int = 0  # parts, since the last canary was judged
    sent: int = 0  # canaries, to workers; those that cannot be judged are sent again
    failed: int = 0  # canaries that failed, as they must
    missed: int = 0
    score: float | None = None
    threshold: float | None = None


@dataclass(frozen=True, slots=True)
class _Flight:
    lease: int
    session: int
    camera: str
    bait: Bait
    until: float


class Canaries:
    """The canaries of one line; `every_s` names the period of each camera that has them, `deadline_s` the shortest."""

    def __init__(self, every_s: Mapping[str, float], deadline_s: float, now: float) -> None:
        self.cameras = {name: Aviary(period, now, now) for name, period in every_s.items() if period > 0}
        self._deadline_s = deadline_s
        self._flight: _Flight | None = None
        self._newest = 0
        self._tested: dict[int, float] = {}  # session -> when a canary last went to that worker
        self._misses: list[tuple[str, str]] = []

    def passed(self, frame: Frame, pixels: bytes, latency_s: float, compute_s: float, now: float) -> None:
        """A part has passed, `latency_s` after its trigger, its worker has computed for `compute_s`: it may be bait."""
        aviary = self.cameras.get(frame.key.camera)
        if aviary is None:
            return
        aviary.passed += 1
        slack = latency_s + 2 * compute_s <= self._deadline_s  # the part behind it waits for painting and judging
        if now >= aviary.due_at and slack:
            aviary.bait = Bait(frame, pixels)

    def next(self, idle: Iterable[int], now: float) -> tuple[int, int, Bait] | None:
        """Return (lease, session, bait) for one of the `idle` workers, or None; it is in flight from now on."""
        if self._flight is not None and now < self._flight.until:
            return None
        workers = sorted(idle, key=lambda session: self._tested.get(session, float("-inf")))
        ready = [(aviary.due_at, name) for name, aviary in self.cameras.items() if aviary.bait is not None]
        if not (workers and ready):
            return None
        camera, session = min(ready)[1], workers[0]
        bait, self.cameras[camera].bait = self.cameras[camera].bait, None
        assert bait is not None
        self._newest -= 1
        self._tested[session] = now
        self.cameras[camera].sent += 1
        self._flight = _Flight(self._newest, session, camera, bait, now + PATIENCE_S)
        return self._newest, session, bait

    def lost(self, session: int) -> None:
        """A worker is gone, and its canary with it."""
        self._tested.pop(session, None)
        if self._flight is not None and self._flight.session == session:
            self._flight = None

    def result(self, result: Result, bundle: str, now: float) -> Reason | None:
        """Take a worker's answer; returns what it stands for, None when it is not that of the canary in flight."""
        flight = self._flight
        if flight is None or (result.lease, result.session) != (flight.lease, flight.session):
            return None
        self._flight = None
        frame = flight.bait.frame
        if (result.key, result.checksum, result.bundle) != (frame.key, frame.checksum, bundle):
            return None
        reason = judge(result, may_pass=True)
        self._book(flight.camera, result, reason, now)
        return reason

    def _book(self, camera: str, result: Result, reason: Reason, now: float) -> None:
        aviary = self.cameras[camera]
        if reason not in (Reason.NONE, Reason.ANOMALY):
            aviary.due_at = now + min(RETRY_S, aviary.every_s / 5)
            return
        aviary.due_at, aviary.judged_at, aviary.passed = now + aviary.every_s, now, 0
        aviary.score, aviary.threshold = result.score, result.threshold
        aviary.failed += reason is Reason.ANOMALY
        aviary.missed += reason is Reason.NONE
        if reason is Reason.NONE:
            score = f"score {result.score:.4g} below its limit of {result.threshold:.4g}"
            self._misses.append((camera, f"a part with a defect painted on it passed ({score}), so nothing else may"))

    def take_misses(self) -> list[tuple[str, str]]:
        """Return (camera, what happened) of the misses since the last call."""
        misses, self._misses = self._misses, []
        return misses

    def warnings(self, now: float) -> tuple[str, ...]:
        """Name the cameras whose canaries cannot be judged although parts pass."""
        return tuple(
            f"camera {name}: no canary could be judged for {now - aviary.judged_at:.0f} s"
            for name, aviary in self.cameras.items()
            if aviary.passed and now - aviary.judged_at > OVERDUE * aviary.every_s
        )
