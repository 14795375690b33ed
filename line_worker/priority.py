"""Who comes first where processors are scarce: what a part's answer passes through, then what computes it."""

from __future__ import annotations

import contextlib
import os
import resource
from pathlib import Path

URGENT, SOON = -5, -3
_CAP_SYS_NICE = 23  # linux/capability.h
_STATUS = Path("/proc/self/status")


def take_priority(nice: int) -> None:
    """Come before other processes, where this one may, or after them (above 0), which everybody may."""
    with contextlib.suppress(PermissionError):
        os.nice(nice)


def may_take(nice: int) -> bool:
    """Whether this process may take the priority `nice`."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NICE)
    if limit == resource.RLIM_INFINITY or 20 - limit <= nice:  # getrlimit(2): the ceiling is 20 minus the limit
        return True
    lines = _STATUS.read_text().splitlines()
    held = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    return bool(held >> _CAP_SYS_NICE & 1)
