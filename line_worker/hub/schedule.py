"""Open parts in the order in which they are due: which one waits for a worker, and whose deadline has come. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from line_worker.hub.part import Part, State


class Schedule:
    """The open parts of one line; those that are decided elsewhere drop out by themselves."""

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, int, Part]] = []  # by deadline, then order of arrival
        self._due: list[tuple[float, int, Part]] = []
        self._ticket = 0

    def watch(self, part: Part) -> None:
        """The part has a deadline."""
        self._ticket += 1
        heapq.heappush(self._due, (part.due, self._ticket, part))

    def queue(self, part: Part) -> None:
        """The part waits for a worker; a suspect goes last among equals: it will be retried alone."""
        self._ticket += 1
        heapq.heappush(self._waiting, (part.due, part.lost, self._ticket, part))

    def waiting(self) -> Part | None:
        """Return the waiting part with the earliest deadline, without taking it."""
        while self._waiting:
            part = self._waiting[0][3]
            if part.state is State.WAITING:
                return part
            heapq.heappop(self._waiting)
        return None

    def take(self) -> None:
        """Take the part that `waiting` returned."""
        heapq.heappop(self._waiting)

    def overdue(self, now: float) -> Iterator[Part]:
        """Yield the parts whose deadline has come, once."""
        while self._due and self._due[0][0] <= now:
            _, _, part = heapq.heappop(self._due)
            if part.due <= now:  # an orphan that its source has announced again stands here twice
                yield part

    def next_due(self) -> float | None:
        """Return when the next deadline comes, None when no part is open."""
        while self._due and not self._due[0][2].open:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None
