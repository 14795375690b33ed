"""Decide: the limit above which a score is an anomaly, and what is known about it from the good parts alone.

The limit is an order statistic of scores that good images got from models which had not seen them. If such scores are
exchangeable with those of tomorrow's good parts, the share of good parts above the k-th smallest of n scores follows
Beta(n + 1 - k, k) whatever the distribution of scores is (Wilks 1941), so both its mean and its 95 % interval are known
before the first part arrives.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import NamedTuple

from line_worker.verdicts import Reason

CONFIDENCE = 0.95


class Limit(NamedTuple):
    """A threshold and the false-reject rate (shares of good parts) that it stands for."""

    threshold: float
    expected: float  # share of future good parts expected above the threshold
    low: float  # 95 % interval of that share
    high: float
    above: int  # good images whose out-of-fold score lies above it
    images: int


def quantile_limit(scores: Sequence[float], false_reject: float) -> Limit:
    """Return the lowest order statistic whose expected false-reject rate is at most `false_reject`.

    With n scores no limit can promise less than 1 / (n + 1): with fewer images than that takes, the largest score
    is the limit, and `expected` says what it is worth. Raises ValueError for no scores or one that is not finite.
    """
    ordered = _checked(scores)
    n = len(ordered)
    k = min(n, math.ceil((n + 1) * (1 - false_reject) - 1e-9))
    above = sum(score > ordered[k - 1] for score in ordered)
    low, high = beta_interval(n + 1 - k, k)
    return Limit(ordered[k - 1], (n + 1 - k) / (n + 1), low, high, above, n)


def fixed_limit(scores: Sequence[float], threshold: float) -> Limit:
    """Return what a threshold that was not chosen from `scores` is worth (Clopper and Pearson 1934)."""
    ordered = _checked(scores)
    n = len(ordered)
    above = sum(score > threshold for score in ordered)
    low, high = clopper_pearson(above, n)
    return Limit(threshold, (above + 1) / (n + 2), low, high, above, n)


def decide(score: float, threshold: float) -> Reason:
    """Return NONE (pass), ANOMALY, or NONFINITE: a comparison with NaN must never read as a pass."""
    if not (math.isfinite(score) and math.isfinite(threshold)):
        return Reason.NONFINITE
    return Reason.ANOMALY if score > threshold else Reason.NONE


def images_needed(false_reject: float) -> int:
    """Return how many good images it takes before `false_reject` can be promised at all."""
    return math.ceil(1 / false_reject - 1e-9) - 1


def clopper_pearson(events: int, trials: int) -> tuple[float, float]:
    """Return the exact 95 % interval of a rate seen as `events` of `trials`."""
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if events == 0 else beta_quantile(tail, events, trials - events + 1)
    high = 1.0 if events == trials else beta_quantile(1 - tail, events + 1, trials - events)
    return low, high


def beta_interval(a: int, b: int) -> tuple[float, float]:
    """Return the central 95 % interval of Beta(a, b), whole a and b."""
    tail = (1 - CONFIDENCE) / 2
    return beta_quantile(tail, a, b), beta_quantile(1 - tail, a, b)


def beta_quantile(p: float, a: int, b: int) -> float:
    """Return x with P(Beta(a, b) <= x) = p, by bisection to double precision."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _beta_cdf(middle, a, b) < p else (low, middle)
    return (low + high) / 2


def _beta_cdf(x: float, a: int, b: int) -> float:
    """Return P(Beta(a, b) <= x): for whole a and b the chance of at least a successes in a + b - 1 trials."""
    if not 0 < x < 1:
        return float(x >= 1)
    n = a + b - 1
    logs = math.lgamma(n + 1), math.log(x), math.log1p(-x)
    terms = (
        logs[0] - math.lgamma(j + 1) - math.lgamma(n - j + 1) + j * logs[1] + (n - j) * logs[2] for j in range(a, n + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def _checked(scores: Sequence[float]) -> list[float]:
    if not scores or not all(math.isfinite(score) for score in scores):
        raise ValueError(f"a limit needs at least one score and only finite ones; got {len(scores)}")
    return sorted(float(score) for score in scores)


def p_value(score: float, good: Sequence[float]) -> float:
    """Return the conformal p-value: the chance that a good part scores this much or more (Vovk et al. 2005).

    good: held-out scores of good parts, ascending. Small is unusual; with n scores it is never below 1 / (n + 1).
    """
    return (1 + len(good) - bisect.bisect_left(good, score)) / (len(good) + 1)
