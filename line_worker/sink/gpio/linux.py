"""Lines of a Linux GPIO chip, through the kernel's character device (libgpiod 2)."""

from __future__ import annotations

import gpiod
from gpiod.line import Direction, Value

from line_worker.sink.gpio.chip import NAMES, Wiring
from line_worker.sink.gpio.signals import SAFE, Levels

_VALUES = {True: Value.ACTIVE, False: Value.INACTIVE}


class LinuxChip:
    """See `Chip`. The lines reject from the moment on in which they become outputs."""

    def __init__(self, wiring: Wiring) -> None:
        self._lines = wiring.lines
        safe = dict(zip(NAMES, SAFE, strict=True))
        settings = {
            line: gpiod.LineSettings(
                direction=Direction.OUTPUT, active_low=name in wiring.active_low, output_value=_VALUES[safe[name]]
            )
            for name, line in wiring.lines.items()
        }
        self._request: gpiod.LineRequest | None = gpiod.request_lines(
            wiring.chip, consumer="line-worker", config=settings
        )

    def show(self, levels: Levels) -> None:
        """Switch every line, in one call."""
        assert self._request is not None
        on = dict(zip(NAMES, levels, strict=True))
        self._request.set_values({line: _VALUES[on[name]] for name, line in self._lines.items()})

    def close(self) -> None:
        """Reject, and let go: most chips keep what a line showed last."""
        if self._request is not None:
            self.show(SAFE)
            self._request.release()
            self._request = None
