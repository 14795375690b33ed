"""Which pictures of a source show a part that was triggered from outside. Pure: time is an argument.

Triggers wait in their order, each for `delay_s`; then its part is in place. A source that gives a picture for each
trigger (`each`) answers them in their order, and an answer that comes too late is nobody's. Of one that gives pictures
all the time, a picture shows the newest part in place; those before it were never seen. A picture that nobody waits
for is no part. A trigger whose picture has not come in `timeout_s`, or that has gone by unseen, is a part without a
picture: NO_FRAME. More triggers than the window holds are OVERLOAD at once. A part's time counts from its trigger.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from dataclasses import dataclass

from line_worker.source import Captured
from line_worker.verdicts import Reason

HEARD = 256  # triggers that are known when they are told again


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
    """The triggers of one camera that wait for their picture. `unanswered`: a shot has had no picture in time."""

    def __init__(self, delay_s: float, timeout_s: float, window: int, *, each: bool = False) -> None:
        self._delay_s, self._timeout_s, self._window, self._each = delay_s, timeout_s, window, each
        self._waiting: deque[Fired] = deque()
        self._told: list[Fired] = []  # that they have come to their moment
        self._shots: deque[Fired] = deque()  # pictures that the source owes
        self._lost: deque[Captured] = deque()
        self._heard: deque[int] = deque(maxlen=HEARD)
        self.unanswered = False

    def fire(self, fired: Fired, *, missed: bool = False) -> None:
        """A part has come; one that was `missed` has gone by, and may be told again after a hub has gone."""
        if missed and fired.number in self._heard:
            return
        self._heard.append(fired.number)
        if missed or len(self._waiting) >= self._window:
            self._lost.append(fired.without_picture(Reason.NO_FRAME if missed else Reason.OVERLOAD))
        else:
            self._waiting.append(fired)

    def due(self, now: float) -> bool:
        """Whether a picture taken now would show a part."""
        return bool(self._waiting) and now >= self._waiting[0].at + self._delay_s

    def newly_due(self, now: float) -> int:
        """Return how many triggers have come to their moment since the last call: so many pictures are owed."""
        due = [fired for fired in self._waiting if now >= fired.at + self._delay_s]
        new = [fired for fired in due if fired not in self._told]
        self._told = due
        self._shots.extend(new if self._each else ())
        return len(new)

    def match(self, captured: Captured) -> Captured | None:
        """Return the part that the picture shows, None when it shows none."""
        fired = self._answered() if self._each else self._in_place(captured.at)
        if fired is None:
            return None
        return dataclasses.replace(captured, at=fired.at, part_id=fired.part_id, trigger=fired.number)

    def _answered(self) -> Fired | None:
        fired = self._shots.popleft() if self._shots else None
        if fired is None or fired not in self._waiting:
            return None
        self._waiting.remove(fired)
        return fired

    def _in_place(self, at: float) -> Fired | None:
        """Take the newest part that was in place `at` that moment; those before it have no picture."""
        fired = None
        while self.due(at):
            if fired is not None:
                self._lost.append(fired.without_picture(Reason.NO_FRAME))
            fired = self._waiting.popleft()
        return fired

    def lost(self, now: float) -> list[Captured]:
        """Return the parts that will have no picture any more."""
        while self._waiting and now - self._waiting[0].at - self._delay_s > self._timeout_s:
            fired = self._waiting.popleft()
            self.unanswered = self.unanswered or fired in self._shots
            self._lost.append(fired.without_picture(Reason.NO_FRAME))
        found = list(self._lost)
        self._lost.clear()
        return found

    def begin_anew(self) -> None:
        """The source was opened again: it owes nothing from before."""
        self._shots.clear()
        self.unanswered = False


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
