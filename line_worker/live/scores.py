"""The last scores of each camera, and what people say of parts with such scores: what limits are chosen by. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any, NamedTuple

from line_worker.live.judgements import Judged, Judgement
from line_worker.wire.messages import Outcome

PARTS = 1000  # of a camera
DEFECTS = (Judgement.TRUE_DEFECT, Judgement.MISSED_DEFECT)


class _Scored(NamedTuple):
    score: float | None  # None: not decided
    bundle: str


class Scores:
    """The last `PARTS` parts of each of `cameras`; those that another bundle judged do not count."""

    def __init__(self, cameras: Iterable[str]) -> None:
        self._last: dict[str, deque[_Scored]] = {name: deque(maxlen=PARTS) for name in cameras}

    def take(self, outcome: Outcome) -> None:
        """Take one outcome."""
        if outcome.key.camera in self._last:
            self._last[outcome.key.camera].append(_Scored(outcome.score, outcome.bundle))

    def bundle(self, camera: str) -> str:
        """Return which bundle has judged the camera's newest scored part, "" before the first."""
        return next((one.bundle for one in reversed(self._last[camera].copy()) if one.score is not None), "")

    def view(self, camera: str, judged: Iterable[Judged]) -> dict[str, Any]:
        """Return scores in the order of time, how many parts had none, and (score, whether defective) of judged parts.

        Raises:
            KeyError: there is no such camera.
        """
        bundle, last = self.bundle(camera), self._last[camera].copy()
        scores = [one.score for one in last if one.score is not None and one.bundle == bundle]
        known = [
            (one.score, one.judgement in DEFECTS)
            for one in judged
            if one.key.camera == camera and one.bundle == bundle and one.score is not None
        ]
        undecided = sum(one.score is None for one in last)
        return {"camera": camera, "bundle": bundle, "scores": scores, "undecided": undecided, "judged": known}
