"""The lines themselves: of a Linux GPIO chip, or of a file that says what they would do, to try it without a chip."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import NamedTuple, Protocol

from line_worker.errors import SinkError
from line_worker.sink.gpio.signals import SAFE, Levels

TWIN = ".jsonl"  # what a file's name ends with
NAMES = ("pass", "reject", "heartbeat", "stop")  # of `Levels`, in its order


class Wiring(NamedTuple):
    """Where the lines are: `lines` by name, and the names of those that are on at 0 V."""

    chip: str
    lines: dict[str, int | str]
    active_low: tuple[str, ...]


class Chip(Protocol):
    """Lines that are ours; they reject until `show` is called."""

    def show(self, levels: Levels) -> None:
        """Switch every line."""

    def close(self) -> None:
        """Reject, and let go."""


def chip_of(wiring: Wiring) -> Chip:
    """Take the lines; they reject.

    Raises:
        SinkError: gpiod is missing, the chip is not there, or a line belongs to somebody else.
    """
    if wiring.chip.endswith(TWIN):
        return FileChip(Path(wiring.chip))
    try:
        from line_worker.sink.gpio.linux import LinuxChip
    except ImportError as error:
        raise SinkError(
            f"gpiod is not installed ({error}); no line says anything; pip install line-worker[gpio]"
        ) from error
    try:
        return LinuxChip(wiring)
    except (OSError, ValueError) as error:
        raise SinkError(
            f"{wiring.chip}: lines {', '.join(f'{line}' for line in wiring.lines.values())} cannot be taken ({error}); "
            "no line says anything; check chip, the lines' numbers, and that this user may use them (gpioinfo)"
        ) from error


class FileChip:
    """Writes every change to the file at `path`, a line of JSON each: when, and which lines are on."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise SinkError(f"{path}: cannot be written ({error.strerror}); check chip") from error
        self.show(SAFE)

    def show(self, levels: Levels) -> None:
        """Write which lines are on."""
        on = dict(zip(NAMES, levels, strict=True))
        self._file.write(json.dumps({"at": time.monotonic()} | on) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Reject, and close the file."""
        if not self._file.closed:
            self.show(SAFE)
            self._file.close()
