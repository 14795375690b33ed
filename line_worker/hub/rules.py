"""Line rules: what a camera's outcomes, in their order, say about the line. Pure.

Rejects in a row, NO_DECISIONs in a row, a reject rate over a window, and a reject rate that has fallen to zero (a
station that rejects nothing any more may be blind) each stop the line. What has tripped begins to count anew.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from line_worker.config_rules import LineRules
from line_worker.verdicts import StopCause, Verdict


class Trip(NamedTuple):
    """A rule that has tripped, in words for people."""

    cause: StopCause
    text: str


class RuleWatch:
    """Follows one camera's outcomes."""

    def __init__(self, rules: LineRules) -> None:
        self._rules = rules
        self._rejects = self._undecided = self._passed = 0  # in a row; passed: since the last FAIL
        self._recent: deque[bool] = deque(maxlen=rules.window)  # whether each was a reject
        self._rejected = 0  # of those

    def take(self, verdict: Verdict) -> list[Trip]:
        """Count one outcome; returns the rules that it has tripped."""
        rejected = verdict is not Verdict.PASS
        self._rejects = self._rejects + 1 if rejected else 0
        self._undecided = self._undecided + 1 if verdict is Verdict.NO_DECISION else 0
        self._passed = 0 if verdict is Verdict.FAIL else self._passed + (not rejected)
        self._slide(rejected)
        return [trip for trip in (self._in_row(), self._unsure(), self._rate(), self._silent()) if trip]

    def _slide(self, rejected: bool) -> None:
        if len(self._recent) == self._rules.window:
            self._rejected -= self._recent[0]
        self._recent.append(rejected)
        self._rejected += rejected

    def _in_row(self) -> Trip | None:
        if not 0 < self._rules.rejects_in_row <= self._rejects:
            return None
        count, self._rejects = self._rejects, 0
        return Trip(StopCause.REJECTS_IN_ROW, f"{count} rejects in a row")

    def _unsure(self) -> Trip | None:
        if not 0 < self._rules.undecided_in_row <= self._undecided:
            return None
        count, self._undecided = self._undecided, 0
        return Trip(StopCause.UNDECIDED_IN_ROW, f"{count} parts in a row were not decided")

    def _rate(self) -> Trip | None:
        window, count = self._rules.window, self._rejected
        if not self._rules.reject_rate or len(self._recent) < window or count <= self._rules.reject_rate * window:
            return None
        self._recent.clear()
        self._rejected = 0
        return Trip(StopCause.REJECT_RATE, f"{count} of the last {window} parts were rejected")

    def _silent(self) -> Trip | None:
        if not 0 < self._rules.silent_window <= self._passed:
            return None
        count, self._passed = self._passed, 0
        return Trip(StopCause.SILENT, f"{count} parts passed without one FAIL: does the station still see defects?")
