"""The process that holds the lines, so that they reject whatever becomes of the sink.

In comes, as lines of JSON on standard input, what the sink learns; the lines follow `Signals`. When the input ends,
because the sink has stopped, crashed or was killed, every line rejects, and this process ends. For each line that comes
in a byte goes out: the sink kills a keeper that hangs, and takes the lines itself.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time

from line_worker.errors import SinkError
from line_worker.sink.gpio.chip import Chip, Wiring, chip_of
from line_worker.sink.gpio.signals import Signals

READY, ALIVE = b"+", b"."


def keep(chip: Chip, signals: Signals) -> None:
    """Let the lines of `chip` follow `signals` and what comes in, until that ends."""
    shown, rest = None, b""
    with selectors.DefaultSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        while True:
            now = time.monotonic()
            if (levels := signals.levels(now)) != shown:
                chip.show(levels)
                shown = levels
            if not selector.select(min(signals.next_at(now) - now, 60.0)):
                continue
            if not (read := os.read(0, 65536)):
                return
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                _take(signals, *json.loads(line))


def _take(signals: Signals, what: str, *values: float) -> None:
    now = time.monotonic()
    if what == "part":
        passed, left_s = values
        signals.take(bool(passed), left_s, now)
    else:
        instance, beat, state, stop_line = (int(value) for value in values)
        signals.beat(instance, beat, state, stop_line, now)
    os.write(1, ALIVE)


def main() -> int:
    """Hold the lines that the argument names; returns the exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):  # they are meant for the sink, which has a word to say first
        signal.signal(number, signal.SIG_IGN)
    told = json.loads(sys.argv[1])
    try:
        chip = chip_of(Wiring(told["chip"], told["lines"], tuple(told["active_low"])))
    except SinkError as error:
        os.write(1, str(error).encode())
        return 1
    try:
        os.write(1, READY)
        keep(chip, Signals(*told["times"]))
    finally:
        chip.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
