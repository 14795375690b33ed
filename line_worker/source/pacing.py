"""Frames on an absolute schedule, made ahead of their time by one thread: what every source but a camera is.

A frame's moment is fixed when the source starts (start + its offset), not when the frame before it was taken: a source
that falls behind gives the late triggers at once, each with the moment at which it should have come, so that their
waiting counts. Reading, decoding and drawing happen ahead, so that they make no frame late.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from line_worker.source import Captured
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Shot(NamedTuple):
    """A trigger made ready: its moment is `offset` seconds after the start, or `at`, or when it is asked for."""

    pixels: NDArray[Any] | None
    offset: float | None = None
    at: float | None = None
    part_id: str = ""
    trigger: int = 0
    problem: Reason = Reason.NONE


class PacedSource(ABC):
    """A source whose subclass says in `shots` what comes; see the contract in `line_worker.source`."""

    patient = False
    ahead = 2  # shots made before they are asked for
    on_call = False  # a shot's moment is when it is asked for: something else triggers

    def __init__(self) -> None:
        self.finished = False
        self._pool: ThreadPoolExecutor | None = None
        self._ready: deque[Future[Shot | None]] = deque()
        self._shots: Generator[Shot] | None = None
        self._start: float | None = None

    @abstractmethod
    def shots(self) -> Generator[Shot]:
        """Yield every trigger of the source; runs in the thread that works ahead, errors reach `read`."""

    def open(self) -> None:
        """Begin from the start; the clock starts when the first frame is ready."""
        self.close()
        self.finished, self._start = False, None
        self._shots = self.shots()
        self._pool = ThreadPoolExecutor(1, "ahead")
        for _ in range(self.ahead):
            self._ready.append(self._pool.submit(next, self._shots, None))

    def read(self, timeout_s: float) -> Captured | None:
        """Return the next trigger once its moment has come."""
        until = time.monotonic() + timeout_s
        shot = self._peek(timeout_s)
        if shot is None:
            return None
        moment = self._moment(shot)
        time.sleep(max(0.0, min(moment, until) - time.monotonic()))
        if moment > until:
            return None
        self._take()
        return Captured(shot.pixels, moment, shot.problem, shot.part_id, shot.trigger)

    def close(self) -> None:
        """Stop working ahead; a picture that is being made is finished first."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None
        self._ready.clear()
        if self._shots is not None:
            self._shots.close()
            self._shots = None

    def _peek(self, timeout_s: float) -> Shot | None:
        """Return the next shot without taking it; None when it is not ready in time or there is none any more."""
        if not self._ready:
            return None
        try:
            shot = self._ready[0].result(timeout_s)
        except TimeoutError:
            return None
        self.finished = shot is None
        return shot

    def _moment(self, shot: Shot) -> float:
        now = time.monotonic()
        if shot.offset is None or self.on_call:
            return now if shot.at is None or self.on_call else shot.at
        if self._start is None:
            self._start = now - shot.offset
        return self._start + shot.offset

    def _take(self) -> None:
        assert self._pool is not None
        assert self._shots is not None
        self._ready.popleft()
        self._ready.append(self._pool.submit(next, self._shots, None))
