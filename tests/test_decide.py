"""The limit keeps its promise on samples whose truth is known, and nothing that is not finite passes."""

from __future__ import annotations

import numpy as np
import pytest

from line_worker.verdicts import Reason
from line_worker.vision.decide import (
    beta_quantile,
    clopper_pearson,
    decide,
    fixed_limit,
    images_needed,
    quantile_limit,
)


def test_limit_of_320_scores_at_two_percent():
    limit = quantile_limit([float(v) for v in range(320)], 0.02)
    assert (limit.threshold, limit.above, limit.images) == (314.0, 5, 320)
    assert limit.expected == pytest.approx(6 / 321)
    assert limit.low < limit.expected < limit.high


def test_expected_rate_and_interval_hold_on_repeated_draws():
    rng = np.random.default_rng(5)
    truth, inside = [], 0
    for _ in range(1000):
        limit = quantile_limit(list(rng.uniform(size=60)), 0.05)
        rate = 1 - limit.threshold  # share of uniform scores above it
        truth.append(rate)
        inside += limit.low <= rate <= limit.high
    assert np.mean(truth) == pytest.approx(3 / 61, abs=0.004)
    assert np.mean(truth) <= 0.05
    assert 0.93 < inside / 1000 < 0.97


def test_too_few_images_take_the_largest_score_and_say_so():
    limit = quantile_limit([3.0, 1.0, 2.0], 0.02)
    assert limit.threshold == 3.0
    assert limit.expected == 0.25
    assert limit.high > 0.6


def test_ties_do_not_hide_scores_above():
    limit = quantile_limit([1.0] * 95 + [2.0] * 5, 0.5)
    assert (limit.threshold, limit.above) == (1.0, 5)


@pytest.mark.parametrize(
    ("events", "trials", "low", "high"), [(0, 41, 0.0, 0.0860), (3, 119, 0.00523, 0.07192), (10, 10, 0.6915, 1.0)]
)
def test_clopper_pearson_matches_published_values(events, trials, low, high):
    assert clopper_pearson(events, trials) == pytest.approx((low, high), abs=5e-5)


def test_beta_quantile_of_the_uniform_is_the_identity():
    assert beta_quantile(0.3, 1, 1) == pytest.approx(0.3)
    assert beta_quantile(0.5, 4, 4) == pytest.approx(0.5)


def test_fixed_limit_counts_what_lies_above():
    limit = fixed_limit([0.0] * 98 + [5.0, 6.0], 3.0)
    assert (limit.threshold, limit.above) == (3.0, 2)
    assert limit.low < 0.02 < limit.high


@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [float("inf")]])
def test_limit_refuses_scores_that_mean_nothing(bad):
    with pytest.raises(ValueError, match="finite"):
        quantile_limit(bad, 0.02)


@pytest.mark.parametrize(
    ("score", "threshold", "reason"),
    [
        (1.0, 1.0, Reason.NONE),
        (1.01, 1.0, Reason.ANOMALY),
        (float("nan"), 1.0, Reason.NONFINITE),
        (float("inf"), 1.0, Reason.NONFINITE),
        (float("-inf"), 1.0, Reason.NONFINITE),
        (0.0, float("nan"), Reason.NONFINITE),
    ],
)
def test_decide(score, threshold, reason):
    assert decide(score, threshold) is reason


def test_images_needed():
    assert images_needed(0.02) == 49
    assert quantile_limit([float(v) for v in range(49)], 0.02).expected <= 0.02
