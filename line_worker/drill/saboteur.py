"""One role as a process that can be broken from outside: `line_worker.role`, plus faults that a signal sets off.

What a signal from outside cannot do to a process is done here, at the boundary where it would happen: the loop hangs,
the wall clock jumps, the journal's disk is full, the device runs out of memory, fails, gives outputs that are not
finite, or whatever computes on it leaks. `SIGNALS` says which signal does what; SIGKILL and SIGSTOP need no help. A
source also writes down every trigger before it announces it (`source_book`): the book that the drill holds against the
journal's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from line_worker import role
from line_worker.config import Config, load
from line_worker.errors import DeviceMemoryError, JournalError

SIGNALS = {
    name: signal.SIGRTMIN + number
    for number, name in enumerate(("hang", "clock", "diskfull", "oom", "device", "nonfinite", "leak"))
}
HANG_S = 3.0  # longer than the hub's watchdog and a worker's stall time, shorter than a worker's watchdog
DISK_FULL_S = 1.0
NONFINITE = 3  # outputs in a row, which restart the worker
LEAK_MB, LEAKS = 1, 64  # a leak loses so much and one descriptor with each of so many batches
LONG_WAIT_S = 0.01
SKEWS_S = (3600.0, -7200.0, 0.5)


def source_book(config: Config, camera: str) -> Path:
    """Return where the source of `camera` writes down its triggers: JSON lines with epoch, seq, at, told.

    `told` is when it was announced: a source that falls behind announces a trigger long after its moment.
    """
    return config.line.data / f"source-{camera}.jsonl"


class Clock:
    """The wall clock of this process; `jump` moves it by an hour forth, two hours back, half a second, in turn."""

    def __init__(self) -> None:
        self._time, self._time_ns = time.time, time.time_ns
        self._skew_s, self._jumps = 0.0, 0
        time.time = lambda: self._time() + self._skew_s
        time.time_ns = lambda: self._time_ns() + int(self._skew_s * 1e9)

    def jump(self) -> None:
        """Move on to the next skew."""
        self._skew_s += SKEWS_S[self._jumps % len(SKEWS_S)]
        self._jumps += 1


def hang() -> None:
    """Keep the process's one loop busy with nothing."""
    until = time.monotonic() + HANG_S
    while time.monotonic() < until:
        pass


class FullDisk:
    """Lets the journal refuse to write for a while after `fill`."""

    def __init__(self) -> None:
        from line_worker.hub.journal import Journal

        self._until = 0.0
        _wrap(Journal, "write", self._refusing)

    def fill(self) -> None:
        """From now on, for a second."""
        self._until = time.monotonic() + DISK_FULL_S

    def _refusing(self, write: Any) -> Any:
        def writing(journal: Any, *arguments: Any) -> Any:
            if time.monotonic() < self._until:
                raise JournalError(f"{journal.path}: cannot be written (the drill has filled its disk)")
            return write(journal, *arguments)

        return writing


class BrokenDevice:
    """Around a worker's model: the next batch meets what was asked for."""

    def __init__(self) -> None:
        from line_worker.worker import run

        self._fault, self._left = "", 0
        self._leaks, self._leaked = 0, list[Any]()
        _wrap(run, "load_model", self._loading)

    def _loading(self, load_model: Any) -> Any:
        def loading(workers: Any) -> Any:
            model = load_model(workers)
            _wrap(model, "inspect", lambda inspect: partial(self._inspect, inspect))
            return model

        return loading

    def breaks(self, fault: str) -> Callable[[], None]:
        """Return what sets `fault` off."""

        def set_off() -> None:
            self._fault, self._left = fault, NONFINITE if fault == "nonfinite" else 1

        return set_off

    def leak(self) -> None:
        """From now on memory and descriptors are lost with every batch, up to a limit."""
        self._leaks = LEAKS

    def _inspect(self, inspect: Callable[..., Sequence[Any]], images: Sequence[Any], *more: Any) -> Sequence[Any]:
        if self._leaks > len(self._leaked):
            self._leaked.append((bytes([1]) * (LEAK_MB << 20), open(os.devnull)))  # noqa: SIM115 - meant to stay open
        if not self._left:
            return inspect(images, *more)
        if self._fault != "nonfinite":
            self._left = 0
            raise DeviceMemoryError("no memory (drill)") if self._fault == "oom" else RuntimeError("lost (drill)")
        return [self._spoilt(finding) for finding in inspect(images, *more)]

    def _spoilt(self, finding: Any) -> Any:
        from line_worker.verdicts import Reason

        if not self._left:
            return finding
        self._left -= 1
        spoilt = {"score": math.nan, "reason": Reason.NONFINITE}
        return finding._replace(**spoilt) if hasattr(finding, "_replace") else dataclasses.replace(finding, **spoilt)


def keep_source_book(path: Path) -> None:
    """Write every trigger down before it is announced."""
    from line_worker.source import Captured
    from line_worker.source.announce import Announcer

    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8", buffering=1)

    def booking(announce: Any) -> Any:
        def booked(announcer: Announcer, captured: Captured) -> None:
            trigger = {"epoch": announcer.epoch, "seq": announcer.next_seq, "at": captured.at}
            file.write(json.dumps(trigger | {"told": time.monotonic()}) + "\n")
            announce(announcer, captured)

        return booked

    _wrap(Announcer, "announce", booking)


def hub_waits(config: Config) -> Path:
    """Return where the hub writes down its long waits: JSON lines with the turn's begin and end, and seconds waited."""
    return config.line.data / "hub-waits.jsonl"


def keep_hub_waits(path: Path) -> None:
    """Write down every turn of the hub's loop that had to wait for the processor or the disk: the machine's noise."""
    from line_worker.hub.run import Hub

    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8", buffering=1)

    def watching(turn: Any) -> Any:
        def watched(hub: Hub, now: float) -> None:
            begin, cpu = time.monotonic(), time.thread_time()
            turn(hub, now)
            end = time.monotonic()
            waited = end - begin - (time.thread_time() - cpu)
            if waited > LONG_WAIT_S:
                file.write(json.dumps({"begin": begin, "end": end, "waited": waited}) + "\n")

        return watched

    _wrap(Hub, "turn", watching)


def arm(name_of_role: str) -> None:
    """Install the faults that this role can have."""
    faults: dict[str, Callable[[], None]] = {"hang": hang, "clock": Clock().jump}
    if name_of_role == "hub":
        faults["diskfull"] = FullDisk().fill
    if name_of_role == "worker":
        device = BrokenDevice()
        faults |= {fault: device.breaks(fault) for fault in ("oom", "device", "nonfinite")}
        faults["leak"] = device.leak
    by_number = {number: faults[name] for name, number in SIGNALS.items() if name in faults}
    for number in SIGNALS.values():
        signal.signal(number, (lambda number, _: by_number[number]()) if number in by_number else signal.SIG_IGN)


def _wrap(owner: Any, name: str, around: Callable[[Any], Any]) -> None:
    """Put `around` of what stands there in the place of `owner.name`."""
    setattr(owner, name, around(getattr(owner, name)))


def main(arguments: list[str]) -> int:
    """Arm the role named on the command line and run it; returns its exit code."""
    config, name_of_role = load(Path(arguments[0])), arguments[1]
    arm(name_of_role)
    if name_of_role == "hub":
        keep_hub_waits(hub_waits(config))
    if name_of_role == "source":
        camera = arguments[2] if len(arguments) > 2 and not arguments[2].startswith("--") else config.cameras[0].name
        keep_source_book(source_book(config, camera))
    return role.main(arguments)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
