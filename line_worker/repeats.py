"""A log that can be read while something repeats: at most so many lines of one kind in a period, the rest are counted.

Lines are of one kind when they say the same of the same camera, sink, worker, child, link and reason; which part it was
about does not count. The next line of that kind says how many were left out, as `repeated`. Lines with a traceback are
never left out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog

BURST, PERIOD_S = 20, 10.0
KINDS = 256  # that are remembered; the one unheard for longest is forgotten first
TELLING = ("level", "event", "camera", "sink", "worker", "child", "link", "reason")


@dataclass(slots=True)
class Kind:
    """Lines of one kind: shown since `since`, and left out since the last one that was shown."""

    since: float
    shown: int = 0
    left_out: int = 0


class RepeatLimit:
    """A structlog processor; `clock` gives seconds that never go back."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, burst: int = BURST, period_s: float = PERIOD_S
    ) -> None:
        self._clock, self._burst, self._period_s = clock, burst, period_s
        self._kinds: dict[tuple[str, ...], Kind] = {}  # the one heard last comes last
        self._lock = threading.Lock()

    def __call__(self, logger: Any, method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Return `line`, with `repeated` when others were left out before it.

        Raises:
            structlog.DropEvent: it is left out itself.
        """
        if line.get("exc_info"):
            return line
        with self._lock:
            left_out = self._count(_name(line), self._clock())
        if left_out is None:
            raise structlog.DropEvent
        if left_out:
            line["repeated"] = left_out
        return line

    def _count(self, name: tuple[str, ...], now: float) -> int | None:
        """Return how many lines were left out before this one, None when it is to be left out too."""
        kind = self._kinds.pop(name, None) or Kind(now)
        self._kinds[name] = kind
        if len(self._kinds) > KINDS:
            del self._kinds[next(iter(self._kinds))]
        if now - kind.since >= self._period_s:
            kind.since, kind.shown = now, 0
        if kind.shown >= self._burst:
            kind.left_out += 1
            return None
        kind.shown += 1
        left_out, kind.left_out = kind.left_out, 0
        return left_out


def _name(line: MutableMapping[str, Any]) -> tuple[str, ...]:
    """Return what makes lines one kind; a part's key counts as its line and camera."""
    camera = str(line.get("key", "")).rsplit("/", 2)[0]
    return (camera, *(str(line.get(field, "")) for field in TELLING))
