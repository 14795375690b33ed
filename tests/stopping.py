"""Signals to other processes, as a test means them: stopped is who stands still."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path


def send_signal(pid: int, what: signal.Signals) -> None:
    """Send `what`; after SIGSTOP return only when no thread of the process runs any more.

    Until then, on another processor, it may still answer what comes after the signal.
    """
    os.kill(pid, what)
    if what is signal.SIGSTOP:
        until = time.monotonic() + 10
        while set(_states(pid)) != {"T"}:
            assert time.monotonic() < until, f"process {pid} does not stop: {_states(pid)}"
            time.sleep(0.001)


def _states(pid: int) -> list[str]:
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            found.append((task / "stat").read_text().rpartition(")")[2].split()[0])
    return found
