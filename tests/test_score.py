"""Zones and rules, against numpy written out the long way and cases whose answer is plain."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from line_worker.vision import score
from line_worker.vision.score import Rule, Zones

ROWS, COLS = 24, 40


@pytest.fixture
def mask() -> torch.Tensor:
    inside = torch.zeros(ROWS, COLS, dtype=torch.bool)
    inside[3:21, 4:36] = True
    return inside


@pytest.fixture
def errors(mask) -> torch.Tensor:
    """Return good parts' errors: the right half of the part is three times as hard as the left."""
    generator = torch.Generator().manual_seed(1)
    hardness = torch.where(torch.arange(COLS) < 20, 1.0, 3.0)
    return (1 + 0.2 * torch.randn(30, ROWS, COLS, generator=generator)).abs() * hardness * mask


def test_zones_know_that_one_half_is_harder(errors, mask):
    zones = score.learn_zones(errors, mask)
    assert zones.mu[10, 8] == pytest.approx(1.0, abs=0.1)
    assert zones.mu[10, 32] == pytest.approx(3.0, abs=0.2)
    assert zones.mu[3, 4] == pytest.approx(1.0, abs=0.1)  # a corner is not diluted by the outside
    assert zones.sigma[10, 32] / zones.sigma[10, 8] == pytest.approx(3.0, rel=0.25)


def test_same_error_is_worse_in_an_easy_zone(errors, mask):
    zones = score.learn_zones(errors, mask)
    flawed = zones.mu.clone()
    flawed[10, 8] += 2.0
    flawed[10, 32] += 2.0
    z = score.standardise(flawed[None], zones)[0]
    assert z[10, 8] > 1.5 * z[10, 32] > 0


def test_standardise_is_the_formula(errors, mask):
    zones = score.learn_zones(errors, mask)
    mu, sigma, inside = zones.mu.numpy(), zones.sigma.numpy(), mask.numpy()
    expected = (errors[0].numpy() - mu) / (sigma + sigma[inside].mean())
    z = score.standardise(errors[:1], zones)[0].numpy()
    assert np.allclose(z[inside], expected[inside], atol=1e-5)
    assert (z[~inside] <= z[inside].min()).all()
    assert np.allclose(zones.limit(2.0).numpy()[inside], (mu + 2 * (sigma + sigma[inside].mean()))[inside], atol=1e-5)


def test_held_out_zones_are_those_of_the_others(errors, mask):
    without = score.held_out(errors, mask)[7]
    others = score.learn_zones(torch.cat([errors[:7], errors[8:]]), mask)
    assert torch.allclose(without.mu, others.mu, atol=1e-4)
    assert torch.allclose(without.sigma, others.sigma, atol=1e-3)


def test_neighbours_are_the_mean_of_the_ring_on_the_object(mask):
    x = torch.rand(1, ROWS, COLS)
    inside = mask.numpy()
    for radius in (1, 3):
        ours = score.neighbours(x, mask, radius)[0]
        for row, col in ((10, 10), (3, 4), (20, 35)):
            ring = [
                x[0, r, c]
                for r in range(row - radius, row + radius + 1)
                for c in range(col - radius, col + radius + 1)
                if max(abs(r - row), abs(c - col)) == radius and 0 <= r < ROWS and 0 <= c < COLS and inside[r, c]
            ]
            assert ours[row, col] == pytest.approx(float(np.mean(ring)), abs=1e-5)


@pytest.mark.parametrize("name", score.RULES)
def test_every_rule_points_at_the_defect(name, errors, mask):
    zones = score.learn_zones(errors, mask)
    rule = score.learn_rule(name, errors, score.held_out(errors, mask), mask)
    flawed = errors[:1].clone()
    flawed[0, 12:15, 9:12] += 6.0
    decisions = score.decision_map(torch.cat([errors[:1], flawed]), zones, rule)
    good, bad = score.scores(decisions)
    row, col = divmod(int(decisions[1].argmax()), COLS)
    assert bad > 2 * good.abs()
    assert 11 <= row <= 15
    assert 8 <= col <= 12


def test_classic_scores_are_in_sigmas_of_good_parts(errors, mask):
    held_out = score.held_out(errors, mask)
    rule = score.learn_rule("classic", errors, held_out, mask)
    good = score.scores(score.decision_map(errors, held_out[0], rule))
    assert good.mean() == pytest.approx(0.0, abs=1e-4)
    assert good.std() == pytest.approx(1.0, abs=1e-3)


def test_deviation_prefers_a_ring_outside_the_blob(errors, mask):
    rule = score.learn_rule("deviation", errors, score.held_out(errors, mask), mask)
    assert rule.radius >= 3  # adjacent cells share the defect and hide it


@pytest.mark.parametrize("name", score.RULES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_never_gets_a_finite_score(name, poison, errors, mask):
    zones = score.learn_zones(errors, mask)
    spoiled = errors[:1].clone()
    spoiled[0, 10, 10] = poison
    result = score.scores(score.decision_map(spoiled, zones, Rule(name, 2)))
    assert not torch.isfinite(result).all()


def test_zones_round_trip(errors, mask):
    zones = score.learn_zones(errors, mask)
    again = Zones.make(zones.state())
    assert all(torch.equal(a, b) for a, b in zip(zones, again, strict=True))
