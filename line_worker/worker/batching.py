"""Which frames are computed together, and which cannot make it any more. Pure: time is an argument.

Earliest deadline first. A free worker never waits for company: a batch is what has arrived, at most the largest size,
and no larger than the oldest frame's slack allows. A frame whose slack is below the time of a batch of one is too
late: it is refused at once, so that the hub need not wait for its deadline.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

MEMORY = 16  # batches of one size that the prediction remembers
HOPE = 0.9  # every refusal shrinks the estimate, so that one slow batch cannot make everything too late for ever

T = TypeVar("T")


class Pace:
    """Predicts how long a batch takes, from those before it (seconds)."""

    def __init__(self) -> None:
        self._seen: dict[int, deque[float]] = {}

    def took(self, size: int, seconds: float) -> None:
        """Remember a finished batch."""
        self._seen.setdefault(size, deque(maxlen=MEMORY)).append(seconds)

    def typical(self, size: int) -> float:
        """Return the mean time of a batch of `size`, scaled from the nearest size seen; 0 when nothing was seen."""
        return self._of(size, lambda times: sum(times) / len(times))

    def fastest(self, size: int) -> float:
        """Return the shortest recent time of a batch of `size`."""
        return self._of(size, min)

    def hope(self) -> None:
        """Shrink all estimates a little."""
        for size, times in self._seen.items():
            self._seen[size] = deque((t * HOPE for t in times), maxlen=MEMORY)

    def _of(self, size: int, reduce: Callable[[deque[float]], float]) -> float:
        if not self._seen:
            return 0.0
        nearest = min(self._seen, key=lambda seen: abs(seen - size))
        return float(reduce(self._seen[nearest])) * max(1.0, size / nearest)


class Batcher(Generic[T]):
    """Frames that wait in this worker, by deadline."""

    def __init__(self, largest: int, pace: Pace) -> None:
        self.largest, self._pace = largest, pace
        self._heap: list[tuple[float, int, T]] = []
        self._ticket = 0

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, item: T, due: float) -> None:
        """Let `item` wait; it must be answered by `due`."""
        self._ticket += 1
        heapq.heappush(self._heap, (due, self._ticket, item))

    def too_late(self, now: float) -> list[T]:
        """Remove and return the frames that cannot make it."""
        fastest, late = self._pace.fastest(1), []
        while self._heap and self._heap[0][0] - now < fastest:
            late.append(heapq.heappop(self._heap)[2])
        if late:
            self._pace.hope()
        return late

    def take(self, now: float) -> list[T]:
        """Return the batch to compute now, earliest deadline first; empty when nothing waits."""
        size = min(len(self._heap), self.largest)
        slack = self._heap[0][0] - now if self._heap else 0.0
        while size > 1 and self._pace.typical(size) > slack:  # a smaller batch may still make the first deadline
            size -= 1
        return [heapq.heappop(self._heap)[2] for _ in range(size)]
