"""What a sink's other side asks of the line, kept until the hub has certainly heard it.

A hub that is away, or has just come and does not know the sink yet, hears nothing: a PLC that wants a recipe before the
line has started, or triggers a part while the hub starts anew, says so once and is owed an answer all the same.
"""

from __future__ import annotations

from collections import deque

from line_worker.sink import Ask, PartHere
from line_worker.wire import messages as m

HEARD_S = 0.3  # three beats: what was sent so long before a beat was there before it
KEPT = 1000


class Asks:
    """The asks of the sink named `sink`, as messages."""

    def __init__(self, sink: str) -> None:
        self._sink = sink
        self._kept: deque[tuple[Ask, float]] = deque(maxlen=KEPT)  # and when it was said; the oldest first

    def add(self, ask: Ask, now: float) -> m.Trigger | m.Select:
        """Keep `ask`; returns it as a message."""
        self._kept.append((ask, now))
        return self._message(ask, now)

    def heard(self, now: float) -> None:
        """A beat came from the hub that these were sent to."""
        while self._kept and now - self._kept[0][1] > HEARD_S:
            self._kept.popleft()

    def again(self, now: float) -> list[m.Trigger | m.Select]:
        """Return what another hub may not have heard. Parts have gone by: no picture taken now would show them."""
        asks = [ask._replace(missed=True) if isinstance(ask, PartHere) else ask for ask, _ in self._kept]
        self._kept = deque(((ask, now) for ask in asks), maxlen=KEPT)
        return [self._message(ask, now) for ask in asks]

    def _message(self, ask: Ask, now: float) -> m.Trigger | m.Select:
        if isinstance(ask, PartHere):
            return m.Trigger(self._sink, ask.number, ask.part_id, max(0.0, now - ask.at) * 1000, ask.missed)
        return m.Select(self._sink, ask.number)
