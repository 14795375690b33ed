"""`line-worker doctor`: is this station fit to run its line? Looks at everything, changes nothing.

Each check is a function from the configuration to findings; `run` calls them all, each with a time limit. A finding is
ok, a warning (the line runs, but not as it should) or an error (it will not run, or every part will be rejected), and
says what to do about it. While the line runs, what it holds itself (camera, ports) is left alone.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


class Finding(NamedTuple):
    """What one check has seen; `advice` says what to do, "" where nothing is to be done."""

    check: str
    level: Level
    text: str
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    """Return a finding that needs nobody."""
    return Finding(check, Level.OK, text)


def warning(check: str, text: str, advice: str) -> Finding:
    """Return a finding that somebody should look at."""
    return Finding(check, Level.WARNING, text, advice)


def error(check: str, text: str, advice: str) -> Finding:
    """Return a finding that keeps the line from running or from passing parts."""
    return Finding(check, Level.ERROR, text, advice)
