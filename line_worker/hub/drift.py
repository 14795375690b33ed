"""Score drift: do good parts still score as those did that the limit was made from? Pure; it changes no verdict.

The p-value of a good part is the share of calibration scores that are at least as high as its own (Vovk, Gammerman,
Shafer: Algorithmic Learning in a Random World, 2005): while nothing drifts, one part in ten has one below 0.1. Of the
last `WINDOW` parts of a camera that passed, those are counted. All of them are compared with the same n calibration
scores, so the true share is itself a draw from Beta(k, n + 1 - k), with k the number of steps j / (n + 1) below 0.1,
and the count X of m parts is beta-binomial (Bates, Candès, Lei, Romano, Sesia: Testing for outliers with conformal
p-values, Annals of Statistics 2023; Vovk: Conditional validity of inductive conformal predictors, 2012):

    P(X >= x) = sum over i = x..m of  C(m, i) B(i + k, m - i + n + 1 - k) / B(k, n + 1 - k)

The alarm is raised where that falls below `FALSE_ALARM`. Only PASS counts, so that rejects, whose p-values are the
smallest, cannot raise it: that is the reject rate's to tell. With them the lowest p-values are cut off, so that the
share of good parts below 0.1 is expected a little under 0.1, and the alarm comes late rather than falsely.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import comb, exp, lgamma, log
from statistics import median

from line_worker.verdicts import Verdict
from line_worker.wire.messages import Outcome

WINDOW = 200
LEVEL = 0.1
FALSE_ALARM = 1e-6


@dataclass(frozen=True, slots=True)
class Drift:
    """One camera's last passed parts: how many, the share with a p-value below 0.1, the median, the share that alarms.

    `limit` is more than 1 where the calibration has too few scores to tell.
    """

    camera: str
    parts: int
    share: float
    median: float
    limit: float
    alarm: bool

    def __str__(self) -> str:
        return (
            f"camera {self.camera}: of the last {self.parts} passed parts {self.share:.0%} score as only {LEVEL:.0%} "
            f"of good parts did (median p {self.median:.2f}, 0.5 expected): look at the light, the optics and the "
            "parts, or recalibrate"
        )


class DriftWatch:
    """Follows the outcomes of one line, judged by one bundle that was calibrated with so many scores."""

    def __init__(self, bundle: str, calibrated: int, window: int = WINDOW) -> None:
        self.bundle, self._window = bundle, window
        self._critical = critical_count(window, calibrated)
        self._recent: dict[str, deque[float]] = {}
        self._alarms: dict[str, Drift] = {}

    def restore(self, camera: str, p_values: Iterable[float]) -> None:
        """Take over the p-values of parts that an earlier hub has passed, oldest first."""
        self._recent[camera] = deque(p_values, self._window)

    def take(self, outcome: Outcome) -> None:
        """Take an outcome; only parts that this bundle has passed count."""
        if outcome.verdict == Verdict.PASS and outcome.p_value is not None and outcome.bundle == self.bundle:
            self._recent.setdefault(outcome.key.camera, deque(maxlen=self._window)).append(outcome.p_value)

    def seen(self) -> tuple[Drift, ...]:
        """Return what there is to say of each camera; no alarm before its window is full."""
        return tuple(self._of(camera, recent) for camera, recent in self._recent.items() if recent)

    def changed(self) -> tuple[list[Drift], list[str]]:
        """Return whose alarm has come and which cameras' alarms have gone since the last call; `warnings` follows."""
        now = {drift.camera: drift for drift in self.seen() if drift.alarm}
        come = [drift for camera, drift in now.items() if camera not in self._alarms]
        gone = [camera for camera in self._alarms if camera not in now]
        self._alarms = now
        return come, gone

    @property
    def warnings(self) -> tuple[str, ...]:
        """The alarms, in words."""
        return tuple(str(drift) for drift in self._alarms.values())

    def _of(self, camera: str, recent: deque[float]) -> Drift:
        count = sum(p < LEVEL for p in recent)
        alarm = len(recent) == self._window and count >= self._critical
        return Drift(camera, len(recent), count / len(recent), median(recent), self._critical / self._window, alarm)


@lru_cache(maxsize=64)
def critical_count(parts: int, calibrated: int) -> int:
    """Return how many of `parts` good parts may hardly ever have a p-value below `LEVEL`; parts + 1: any may."""
    below = sum(j / (calibrated + 1) < LEVEL for j in range(1, calibrated + 1))
    tail = 0.0
    for count in range(parts, -1, -1) if below else ():
        tail += _probability(count, parts, below, calibrated + 1 - below)
        if tail >= FALSE_ALARM:
            return count + 1
    return parts + 1


def _probability(count: int, parts: int, a: int, b: int) -> float:
    """Return the beta-binomial probability of `count` of `parts`."""
    return exp(log(comb(parts, count)) + _log_beta(count + a, parts - count + b) - _log_beta(a, b))


def _log_beta(a: int, b: int) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
