"""The sink in memory: the twin that tests, measurements and replays read their outcomes from."""

from __future__ import annotations

from line_worker.sink import QuietSink
from line_worker.wire.messages import Crop, FrameKey, HubState, Outcome


class Collector(QuietSink):
    """Keeps everything in the order in which it came; an outcome that comes twice is kept once."""

    wants_crops = True

    def __init__(self) -> None:
        self._outcomes: dict[FrameKey, Outcome] = {}
        self.crops: list[Crop] = []
        self.states: list[HubState] = []
        self.duplicates = 0

    @property
    def outcomes(self) -> list[Outcome]:
        """Every outcome, oldest first."""
        return list(self._outcomes.values())

    def open(self) -> None:
        """There is nothing to open."""

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Keep `outcome`; the first one with a key stands."""
        self.duplicates += outcome.key in self._outcomes
        self._outcomes.setdefault(outcome.key, outcome)
        return True

    def beat(self, state: HubState, now: float) -> None:
        """Keep `state`."""
        self.states.append(state)

    def crop(self, crop: Crop) -> None:
        """Keep `crop`."""
        self.crops.append(crop)

    def close(self) -> None:
        """What was collected stays readable."""
