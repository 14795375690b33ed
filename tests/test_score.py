"""Zones and rules, against numpy written out the long way and cases whose answer is plain."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from line_worker.vision import score
from line_worker.vision.deciding import Deciding
from line_worker.vision.score import Rule, Zones
from line_worker.vision.standard import Standard

ROWS, COLS = 24, 40


@pytest.fixture
def mask() -> torch.Tensor:
    inside = torch.zeros(ROWS, COLS, dtype=torch.bool)
    inside[3:21, 4:36] = True
    return inside


@pytest.fixture
def errors(mask) -> torch.Tensor:
    """Return good parts' errors, one map: the right half of the part is three times as hard as the left."""
    generator = torch.Generator().manual_seed(1)
    hardness = torch.where(torch.arange(COLS) < 20, 1.0, 3.0)
    return (1 + 0.2 * torch.randn(30, 1, ROWS, COLS, generator=generator)).abs() * hardness * mask


@pytest.fixture
def two_maps(errors) -> torch.Tensor:
    """Return good parts' errors in two maps, the second of its own, in much smaller numbers and far from 0."""
    generator = torch.Generator().manual_seed(2)
    other = 0.5 + 0.01 * torch.randn(errors.shape, generator=generator)
    return torch.cat([errors, other], 1)


def fitted(
    name: str, errors: torch.Tensor, mask: torch.Tensor, flat: tuple[bool, ...] = (False,)
) -> tuple[Rule, Zones]:
    """Return the rule `name` and the zones of good parts."""
    apart = score.held_out(errors, mask, flat)
    return score.learn_rule(name, errors, apart, [None] * len(errors)), score.learn_zones(errors, mask, flat)


def test_zones_know_that_one_half_is_harder(errors, mask):
    zones = score.learn_zones(errors, mask, (False,))
    mu, sigma = zones.mu[0], zones.sigma[0]
    assert mu[10, 8] == pytest.approx(1.0, abs=0.1)
    assert mu[10, 32] == pytest.approx(3.0, abs=0.2)
    assert mu[3, 4] == pytest.approx(1.0, abs=0.1)  # a corner is not diluted by the outside
    assert sigma[10, 32] / sigma[10, 8] == pytest.approx(3.0, rel=0.25)


def test_flat_zones_share_what_the_whole_part_is_like(errors, mask):
    zones = score.learn_zones(errors.expand(-1, 2, -1, -1).clone(), mask, (True, False))
    inside = errors[:, 0][:, mask]
    assert torch.allclose(zones.mu[0], inside.mean(), atol=1e-4)
    assert torch.allclose(zones.sigma[0], inside.std(correction=0), atol=1e-4)  # within a cell and from cell to cell
    alone = score.learn_zones(errors, mask, (False,))
    assert torch.allclose(zones.mu[1], alone.mu[0], atol=1e-6)  # the other map keeps its zones
    assert torch.allclose(zones.sigma[1], alone.sigma[0], atol=1e-6)


def test_same_error_is_worse_in_an_easy_zone(errors, mask):
    zones = score.learn_zones(errors, mask, (False,))
    flawed = zones.mu.clone()
    flawed[0, 10, 8] += 2.0
    flawed[0, 10, 32] += 2.0
    z = score.standardise(flawed[None], zones)[0, 0]
    assert z[10, 8] > 1.5 * z[10, 32] > 0


def test_standardise_is_the_formula(two_maps, mask):
    zones = score.learn_zones(two_maps, mask, (False, False))
    z, limits = score.standardise(two_maps[:1], zones)[0], zones.limit(2.0, Rule(centre=(0, 0), scale=(1, 1)))[0]
    inside = mask.numpy()
    for k in range(2):
        mu, sigma, found = zones.mu[k].numpy(), zones.sigma[k].numpy(), z[k].numpy()
        spread = sigma + sigma[inside].mean()
        assert np.allclose(found[inside], ((two_maps[0, k].numpy() - mu) / spread)[inside], atol=1e-5)
        assert (found[~inside] <= (-mu / spread)[inside].min() + 1e-5).all()  # the lowest that an error of 0 gives
        assert np.allclose(limits[k].numpy()[inside], (mu + 2 * spread)[inside], atol=1e-5)


@pytest.mark.parametrize("flat", [False, True])
def test_held_out_zones_are_those_of_the_others(flat, errors, mask):
    without = score.held_out(errors, mask, (flat,))[7]
    others = score.learn_zones(torch.cat([errors[:7], errors[8:]]), mask, (flat,))
    assert torch.allclose(without.mu, others.mu, atol=1e-4)
    assert torch.allclose(without.sigma, others.sigma, atol=1e-3)


def test_neighbours_are_the_mean_of_the_ring_on_the_object(mask):
    x = torch.rand(1, 1, ROWS, COLS)
    inside = mask.numpy()
    for radius in (1, 3):
        ours = score.neighbours(x, mask, radius)[0, 0]
        for row, col in ((10, 10), (3, 4), (20, 35)):
            ring = [
                x[0, 0, r, c]
                for r in range(row - radius, row + radius + 1)
                for c in range(col - radius, col + radius + 1)
                if max(abs(r - row), abs(c - col)) == radius and 0 <= r < ROWS and 0 <= c < COLS and inside[r, c]
            ]
            assert ours[row, col] == pytest.approx(float(np.mean(ring)), abs=1e-5)


@pytest.mark.parametrize("name", score.RULES)
def test_every_rule_points_at_the_defect(name, errors, mask):
    rule, zones = fitted(name, errors, mask)
    flawed = errors[:1].clone()
    flawed[0, 0, 12:15, 9:12] += 6.0
    decisions = score.decision_map(torch.cat([errors[:1], flawed]), zones, rule)
    good, bad = score.scores(decisions)
    row, col = divmod(int(decisions[1].argmax()), COLS)
    assert bad > 2 * good.abs()
    assert 11 <= row <= 15
    assert 8 <= col <= 12


def test_classic_scores_are_in_sigmas_of_good_parts(errors, mask):
    rule, zones = fitted("classic", errors, mask)
    good = score.scores(score.decision_map(errors, zones, rule))
    assert good.mean() == pytest.approx(0.0, abs=1e-4)
    assert good.std() == pytest.approx(1.0, abs=1e-3)


def test_deviation_prefers_a_ring_outside_the_blob(errors, mask):
    rule, _ = fitted("deviation", errors, mask)
    assert rule.radius >= 3  # adjacent cells share the defect and hide it


def test_what_is_expected_is_excused(errors, mask):
    rule, zones = fitted("adaptive", errors, mask)
    flawed = errors[:1].clone()
    flawed[0, 0, 13, 10] += 6.0
    expected = torch.zeros(1, 1, ROWS, COLS)
    expected[0, 0, 13, 10] = 2.5
    plain, excused = (score.decision_map(flawed, zones, rule, given)[0] for given in (None, expected))
    assert excused[13, 10] == pytest.approx(float(plain[13, 10]) - 2.5, abs=1e-4)
    elsewhere = mask.clone()
    elsewhere[13, 10] = False
    assert torch.equal(excused[elsewhere], plain[elsewhere])
    assert (excused[~mask] <= excused[mask].min()).all()  # nothing outside the part decides


# several maps


def test_maps_are_brought_into_one_unit_by_median_and_mad(two_maps, mask):
    flat = (False, True)
    apart = score.held_out(two_maps, mask, flat)
    rule = score.learn_rule("zone", two_maps, apart, [None] * len(two_maps))
    good = np.array([
        [float(score.standardise(errors[None], zones)[0, k][mask].max()) for k in range(2)]
        for errors, zones in zip(two_maps, apart, strict=True)
    ])  # fmt: skip
    # torch's median of an even count is the lower of the two in the middle
    median = np.quantile(good, 0.5, axis=0, method="lower")
    mad = np.quantile(np.abs(good - median), 0.5, axis=0, method="lower")
    assert rule.centre == pytest.approx(list(median), abs=1e-4)
    assert rule.scale == pytest.approx(list(1.4826 * mad), rel=1e-3)
    own = score.good_scores(rule, two_maps, apart, [None] * len(two_maps))
    assert own.median(0).values.tolist() == pytest.approx([0, 0], abs=1e-4)


def test_one_map_keeps_its_own_unit(errors, mask):
    rule, _ = fitted("zone", errors, mask)
    assert (rule.centre, rule.scale) == ((0.0,), (1.0,))


@pytest.mark.parametrize("k", [0, 1])
def test_the_most_unusual_map_decides(k, two_maps, mask):
    rule, zones = fitted("zone", two_maps, mask, (False, True))
    flawed = two_maps[:1].clone()
    flawed[0, k, 12:15, 9:12] += (6.0, 0.2)[k]
    good, bad = (score.decision_map(errors, zones, rule)[0] for errors in (two_maps[:1], flawed))
    assert bad.max() > good.max() + 10
    row, col = divmod(int(bad.argmax()), COLS)
    assert 12 <= row < 15
    assert 9 <= col < 12
    alone = score.decision_maps(flawed, zones, rule)[0]
    assert torch.equal(bad, torch.maximum(*alone))


# zones that the user weighs


def test_a_zones_weight_moves_its_limit_and_nothing_else(errors, mask):
    rule, zones = fitted("zone", errors, mask)
    weight = torch.ones(ROWS, COLS)
    weight[:, :20] = 0.5
    weighed = zones._replace(weight=weight)
    plain, moved = (score.decision_map(errors, z, rule) for z in (zones, weighed))
    assert torch.equal(moved, plain * weight)
    limit, stretched = (z.limit(4.0, rule)[0, 0] for z in (zones, weighed))
    assert torch.equal(stretched[:, 20:], limit[:, 20:])
    assert torch.allclose(stretched[:, :20], zones.limit(8.0, rule)[0, 0][:, :20])  # half the weight: twice the limit
    at_limit = score.decision_map(stretched[None, None], weighed, rule)[0]
    assert torch.allclose(at_limit[mask], torch.tensor(4.0), atol=1e-3)


# evidence


def test_evidence_is_of_the_map_that_decides_each_cell(two_maps, mask):
    rule, zones = fitted("zone", two_maps, mask, (False, True))
    standard = Standard(zones, rule, threshold=4.0)
    flawed = two_maps[:1].clone()
    places = ((13, 10), (6, 30))  # where the first map is odd, and where the second is
    flawed[0, 0, 13, 10] += 6.0
    flawed[0, 1, 6, 30] += 0.2
    decision = standard.decisions(flawed)
    explain = Deciding(standard).explained(flawed, None, standard.threshold)
    around, sigma, limits = (
        score.neighbours(flawed, mask, rule.radius)[0],
        score.standardise(flawed, zones)[0],
        zones.limit(4.0, rule)[0],
    )
    for k, (row, col) in enumerate(places):
        found = explain(row, col)
        assert decision[0, row, col] > 4.0
        expected = [float(plane[k, row, col]) for plane in (flawed[0], around, limits, sigma)]
        assert list(found) == pytest.approx(expected, rel=1e-5)
        assert found.error > found.limit > found.neighbours


@pytest.mark.parametrize("place", [(13, 10), (0, 0), (6, 39), (19, 3)])
def test_the_neighbours_of_a_cell_are_those_of_the_whole_map(place, two_maps, mask):
    rule, zones = fitted("zone", two_maps, mask, (False, True))
    explain = Deciding(Standard(zones, rule, threshold=4.0)).explained(two_maps[:1], None, 4.0)
    around = score.neighbours(two_maps[:1], mask, rule.radius)[0, :, place[0], place[1]]
    assert min(abs(around - explain(*place).neighbours)) < 1e-5


@pytest.mark.parametrize("name", score.RULES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("k", [0, 1])
def test_what_is_not_finite_never_gets_a_finite_score(name, poison, k, two_maps, mask):
    zones = score.learn_zones(two_maps, mask, (False, True))
    spoiled = two_maps[:1].clone()
    spoiled[0, k, 10, 10] = poison
    result = score.scores(score.decision_map(spoiled, zones, Rule(name, 2, (0.0, 0.0), (1.0, 1.0))))
    assert not torch.isfinite(result).all()


def test_zones_round_trip(two_maps, mask):
    zones = score.learn_zones(two_maps, mask, (False, True))._replace(weight=torch.rand(ROWS, COLS))
    again = Zones.make(zones.state())
    assert all(torch.equal(a, b) for a, b in zip(zones, again, strict=True))
    assert again.mask.dtype == torch.bool


def test_a_standard_round_trips_through_json(two_maps, mask):
    rule, zones = fitted("zone", two_maps, mask, (False, True))
    standard = Standard(zones, rule, 4.0, [1.0, 2.0])
    again = Standard.make(json.loads(json.dumps(standard.meta())), standard.arrays(), 4.0, [2.0, 1.0])
    assert torch.equal(again.decisions(two_maps), standard.decisions(two_maps))
    assert (again.good, again.adaptive, again.commissioned) == ([1.0, 2.0], None, None)
