"""A process that was stopped dates what it hears: it may have been here all the while.

What waits in a socket when it goes on is seen at once, but the thread that reads the network was stopped as well, and
hands over a moment later what had come meanwhile. Without this, that would count as having just arrived, and its
deadline would be as late as the stop was long. Pure: time is an argument.
"""

from __future__ import annotations

from typing import NamedTuple

OVERSLEPT_S = 0.02
STOPPED_S = 0.1  # shorter is a busy machine, and noise
SETTLE_S = 0.05  # in which everything that had come is handed over


class Lapse:
    """The last time that this process was not listening."""

    def __init__(self) -> None:
        self._since = self._until = float("-inf")

    def note(self, since: float, now: float) -> None:
        """From `since` to `now` nobody has listened; nothing to note where that was short."""
        if now - since > STOPPED_S:
            self._since, self._until = since, now + SETTLE_S

    def date(self, arrived: float, now: float) -> float:
        """Return when what is taken `now` can have arrived at the earliest; the caller knows of `arrived`."""
        self.note(arrived, now)
        return min(arrived, self._since) if now <= self._until else arrived


class Heard(NamedTuple):
    """Since when what is taken now may have been here: `since`, when it was found waiting or the sleep took too long.

    A hub that writes, or is stopped, does not hear; the parts' deadlines run all the same.
    """

    since: float
    waiting: bool
    until: float

    def at(self, now: float) -> float:
        """Return the earliest moment at which it can have arrived."""
        return self.since if self.waiting or now - self.until > OVERSLEPT_S else now
