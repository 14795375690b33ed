"""Who comes first where processors are scarce: what a part's answer passes through, then what computes it."""

from __future__ import annotations

import contextlib
import os

URGENT, SOON = -5, -3


def take_priority(nice: int) -> None:
    """Come before other processes, where this one may, or after them (above 0), which everybody may."""
    with contextlib.suppress(PermissionError):
        os.nice(nice)
