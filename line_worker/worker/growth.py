"""Does this worker grow? What its process holds is held against what it held when it was warm.

Memory is what the process shares with nobody: the rings' pages are others'. Time is an argument.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from line_worker.config import Workers
from line_worker.memory import own_bytes

LOOK_S = 1.0


class Held(NamedTuple):
    """Megabytes of its own and open descriptors of a process."""

    mb: float
    descriptors: int


def held_now() -> Held:
    """Return what this process holds."""
    return Held(own_bytes(os.getpid()) / 1e6, sum(1 for _ in Path("/proc/self/fd").iterdir()))


class Growth:
    """Looks once a second, and says when more has come than the configuration allows."""

    def __init__(self, workers: Workers, look: Callable[[], Held] = held_now) -> None:
        self._most = Held(workers.growth_mb, workers.growth_descriptors)
        self._read = look
        self._base: Held | None = None
        self._since, self._looked = 0.0, float("-inf")

    def begin_anew(self) -> None:
        """What is held at the next look is taken for the beginning: a second bundle has come or gone."""
        self._base = None

    def look(self, now: float) -> str:
        """Return by how much the process has grown too far, in words; "" while it has not, or has just been asked."""
        if now - self._looked < LOOK_S:
            return ""
        self._looked, held = now, self._read()
        if self._base is None:
            self._base, self._since = held, now
        base, hours = self._base, (now - self._since) / 3600
        return "; ".join(
            f"{of:.0f} {what} and {has - of:.0f} more since, {(has - of) / hours:.0f} an hour (at most {most:.0f} more)"
            for what, of, has, most in zip(("MB", "descriptors"), base, held, self._most, strict=True)
            if has - of > most > 0
        )
