"""Which pictures of a source show a part that was triggered from outside. Pure: time is an argument.

Triggers wait in their order. The first picture taken `delay_s` after a trigger is that part's; a picture that nobody
waits for is no part. A trigger whose picture has not come in `timeout_s`, or that has gone by unseen, is a part without
a picture: NO_FRAME. More triggers than the window holds are OVERLOAD at once. A part's time counts from its trigger.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass

from line_worker.source import Captured
from line_worker.verdicts import Reason


@dataclass(frozen=True, slots=True)
class Fired:
    """One trigger: the part's number and id, and when it came (seconds)."""

    number: int
    part_id: str
    at: float

    def without_picture(self, problem: Reason) -> Captured:
        """Return the part that nobody has seen."""
        return Captured(None, self.at, problem, self.part_id, self.number)


class Triggers:
    """The triggers of one camera that wait for their picture."""

    def __init__(self, delay_s: float, timeout_s: float, window: int) -> None:
        self._delay_s, self._timeout_s, self._window = delay_s, timeout_s, window
        self._waiting: deque[Fired] = deque()
        self._shot: list[Fired] = []
        self._lost: deque[Captured] = deque()

    def fire(self, fired: Fired, *, missed: bool = False) -> None:
        """A part has come; one that was `missed` has gone by."""
        if missed or len(self._waiting) >= self._window:
            self._lost.append(fired.without_picture(Reason.NO_FRAME if missed else Reason.OVERLOAD))
        else:
            self._waiting.append(fired)

    def due(self, now: float) -> bool:
        """Whether a picture taken now would show a part."""
        return bool(self._waiting) and now >= self._waiting[0].at + self._delay_s

    def newly_due(self, now: float) -> int:
        """Return how many triggers have come to their moment since the last call."""
        due = [fired for fired in self._waiting if now >= fired.at + self._delay_s]
        new = len([fired for fired in due if fired not in self._shot])
        self._shot = due
        return new

    def match(self, captured: Captured) -> Captured | None:
        """Return the part that the picture shows, None when it shows none."""
        if not self.due(captured.at):
            return None
        fired = self._waiting.popleft()
        return dataclasses.replace(captured, at=fired.at, part_id=fired.part_id, trigger=fired.number)

    def lost(self, now: float) -> list[Captured]:
        """Return the parts that will have no picture any more."""
        while self._waiting and now - self._waiting[0].at - self._delay_s > self._timeout_s:
            self._lost.append(self._waiting.popleft().without_picture(Reason.NO_FRAME))
        found = list(self._lost)
        self._lost.clear()
        return found


class Interval:
    """A trigger every `every_s`, numbered from 1; those of a time in which nobody looked are left out."""

    def __init__(self, every_s: float, now: float) -> None:
        self._every_s, self._next_at, self._number = every_s, now, 0

    def take(self, now: float) -> Fired | None:
        """Return the trigger that is due."""
        if now < self._next_at:
            return None
        self._number += 1
        at, late = self._next_at, now - self._next_at
        self._next_at += self._every_s * (1 + late // self._every_s)
        return Fired(self._number, "", at if late < self._every_s else now)
