"""The metrics against versions written out the long way."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from bench import metrics


@pytest.mark.parametrize("seed", range(4))
def test_auroc_counts_pairs(seed):
    rng = np.random.default_rng(seed)
    good, bad = rng.integers(0, 6, 30).astype(float), rng.integers(2, 9, 20).astype(float)  # with ties
    pairs = [(b > g) + 0.5 * (b == g) for b in bad for g in good]
    assert metrics.auroc(good, bad) == pytest.approx(np.mean(pairs))


def test_auroc_of_the_infinite_and_the_empty():
    assert metrics.auroc(np.array([0.0, 1.0]), np.array([np.inf])) == 1.0
    with pytest.raises(ValueError, match="at least one"):
        metrics.auroc(np.array([]), np.array([1.0]))


def scene(seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    maps, truths = [], []
    for number in range(3):
        truth = np.zeros((40, 50), np.uint8)
        if number:
            cv2.circle(truth, (12, 12), 5, 1, -1)
            cv2.rectangle(truth, (30, 20), (45, 20 + 5 * number), 1, -1)
        maps.append((rng.random((40, 50)) + 0.8 * truth * rng.random()).astype(np.float32))
        truths.append(truth > 0)
    return maps, truths


def brute_au_pro(maps, truths, limit):
    """Integrate the curve over every threshold that occurs, by the trapezoid rule, as the published code does."""
    good = np.concatenate([m[~t] for m, t in zip(maps, truths, strict=True)])
    regions = []
    for plane, truth in zip(maps, truths, strict=True):
        count, labels = cv2.connectedComponents(truth.astype(np.uint8))
        regions += [plane[labels == k] for k in range(1, count)]
    thresholds = np.sort(np.unique(np.concatenate([good, *regions])))[::-1]
    rates = np.array([0.0] + [(good >= t).mean() for t in thresholds])
    overlap = np.array([0.0] + [np.mean([(r >= t).mean() for r in regions]) for t in thresholds])
    inside = rates <= limit
    edge = np.interp(limit, rates, overlap)
    xs, ys = np.append(rates[inside], limit), np.append(overlap[inside], edge)
    return np.trapezoid(ys, xs) / limit


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("limit", [0.3, 0.05])
def test_au_pro_is_the_area_under_the_curve(seed, limit):
    maps, truths = scene(seed)
    assert metrics.au_pro(maps, truths, limit) == pytest.approx(brute_au_pro(maps, truths, limit), abs=0.004)


def test_au_pro_weighs_regions_not_pixels():
    truth = np.zeros((40, 80), bool)
    truth[2:30, 2:60] = True  # large, found
    truth[35, 75] = True  # one pixel, missed
    plane = np.where(truth, 1.0, 0.5).astype(np.float32)
    plane[35, 75] = 0.0
    assert metrics.au_pro([plane], [truth]) == pytest.approx(0.5, abs=1e-6)


def test_perfect_and_hopeless_maps():
    truth = np.zeros((20, 20), bool)
    truth[5:9, 5:9] = True
    assert metrics.au_pro([truth.astype(np.float32)], [truth]) == 1.0
    assert metrics.pixel_auroc([truth.astype(np.float32)], [truth]) == 1.0
    assert metrics.au_pro([-truth.astype(np.float32)], [truth]) == 0.0
    with pytest.raises(ValueError, match="region"):
        metrics.au_pro([truth.astype(np.float32)], [np.zeros_like(truth)])
