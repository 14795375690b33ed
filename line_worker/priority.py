"""Who comes first where processors are scarce: what a part's answer passes through, then what computes it."""

from __future__ import annotations

import contextlib
import os
import threading

URGENT, SOON = -5, -3


def take_priority(nice: int) -> None:
    """Come before other processes, where this one may, or after them (above 0), which everybody may."""
    with contextlib.suppress(PermissionError):
        os.nice(nice)


def may_take(nice: int) -> bool:
    """Whether this process may have the priority `nice`, tried on a thread that ends with it."""
    found: list[bool] = []

    def attempt() -> None:
        try:
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
        except PermissionError:
            found.append(False)
        else:
            found.append(True)

    thread = threading.Thread(target=attempt, name="priority")
    thread.start()
    thread.join()
    return found == [True]
