"""A server that is away is looked for again, ever more rarely; why it cannot be reached is said once."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from line_worker.errors import SinkError

log = structlog.get_logger()

AGAIN_S = (0.5, 10.0)  # between two attempts while there is nothing to send


class Again:
    """Attempts to reach `what`; `trouble` is why the last one failed, "" when it did not."""

    def __init__(self, what: str) -> None:
        self._what, self.trouble = what, ""
        self._at, self._pause_s = 0.0, AGAIN_S[0]

    def due(self, now: float) -> bool:
        """Whether it is time for another attempt."""
        return now >= self._at

    def attempt(self, step: Callable[[], None], now: float) -> None:
        """Do `step`; after a SinkError the next attempt has to wait."""
        try:
            step()
        except SinkError as error:
            if str(error) != self.trouble:
                log.warning(f"{self._what} cannot be reached", error=str(error))
            self.trouble, self._at = str(error), now + self._pause_s
            self._pause_s = min(self._pause_s * 2, AGAIN_S[1])
        else:
            self.trouble, self._pause_s = "", AGAIN_S[0]
