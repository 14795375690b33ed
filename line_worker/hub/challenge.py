"""Challenges: known-bad parts, announced by the operator, must FAIL. Pure: time is an argument.

The next so many parts of the camera are the known-bad ones. One that would pass is NO_DECISION(CANARY), and so is
everything after it until that is acknowledged. A challenge is met when all of its parts have failed; a part that was
not decided proves nothing, and the challenge has to be repeated. So has one during which the hub was restarted: which
parts it was about, nobody knows any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from line_worker.verdicts import Verdict

RESULTS = ("none", "under way", "met", "not met")


@dataclass(slots=True)
class Challenge:
    """One camera's: due every `every_s` (0: never), last met at `met_at`; `left` parts of the current one are open.

    `ever` tells whether it is known that one was met; otherwise `met_at` is when the hub was started.
    """

    every_s: float
    met_at: float
    ever: bool = False
    parts: int = 0
    left: int = 0
    failed: int = 0

    @property
    def result(self) -> str:
        """How the last one went, one of `RESULTS`; "none" when there was none since the hub's start."""
        if self.left or not self.parts:
            return "under way" if self.left else "none"
        return "met" if self.failed == self.parts else "not met"

    @property
    def overdue_at(self) -> float:
        """When the next one must have been met."""
        return self.met_at + self.every_s if self.every_s else float("inf")


class Challenges:
    """The challenges of one line's cameras; `ages` says how long ago each was met, as far as that is known."""

    def __init__(self, every_s: Mapping[str, float], ages: Mapping[str, float], now: float) -> None:
        self.cameras = {
            name: Challenge(period, now - ages.get(name, 0.0), name in ages) for name, period in every_s.items()
        }

    def begin(self, camera: str, parts: int) -> None:
        """Expect `parts` known-bad parts; what an earlier challenge still expected is forgotten."""
        challenge = self.cameras[camera]
        challenge.parts = challenge.left = parts
        challenge.failed = 0

    def under_way(self) -> dict[str, tuple[int, int]]:
        """Return the cameras that are being challenged: with how many parts, and how many of them have failed."""
        return {name: (one.parts, one.failed) for name, one in self.cameras.items() if one.left}

    def decided(self, camera: str, verdict: Verdict, now: float) -> bool:
        """Take the outcome of a known-bad part; True when the challenge has been met by it."""
        challenge = self.cameras[camera]
        if not challenge.left:
            return False
        challenge.left -= 1
        challenge.failed += verdict is Verdict.FAIL
        met = challenge.left == 0 and challenge.failed == challenge.parts
        if met:
            challenge.met_at, challenge.ever = now, True
        return met

    def overdue(self, now: float) -> dict[str, str]:
        """Return what to tell of the cameras whose challenge is overdue."""
        return {
            name: f"no challenge was met for {now - challenge.met_at:.0f} s; show it known-bad parts"
            for name, challenge in self.cameras.items()
            if now >= challenge.overdue_at
        }
