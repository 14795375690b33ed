"""The rule adaptive: what it measures, what it learns, and that textured good parts are rejected less for it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from calib import calibration
from calib.calibration import Calibration
from calib.fitting import Fitted
from calib.schedule import single_threaded
from line_worker.vision import adaptive, score
from line_worker.vision.adaptive import Adaptive
from line_worker.vision.cells import batch
from line_worker.vision.deciding import Deciding
from line_worker.vision.standard import Standard

ROWS, COLS, CELL = 12, 18, 4
SIZE = (ROWS * CELL, COLS * CELL)
MASK = torch.ones(ROWS, COLS, dtype=torch.bool)
MASK[:, :2] = False
COUNT = 80


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


class Final:
    mask = MASK


def pictures(rng: np.random.Generator, strengths: np.ndarray) -> list[np.ndarray]:
    """Return canonical pictures whose grain has these strengths."""
    return [(0.6 + s * rng.standard_normal(SIZE)).astype(np.float32) for s in strengths]


def parts(seed: int, strengths: np.ndarray) -> tuple[list[np.ndarray], torch.Tensor]:
    """Return good parts' pictures and errors, which grow with the grain, most in the right half."""
    rng = np.random.default_rng(seed)
    canonicals = pictures(rng, strengths)
    grain = torch.from_numpy(np.log(strengths / 0.03)).float()[:, None, None, None]
    hardness = torch.where(torch.arange(COLS) < COLS // 2, 1.0, 2.0)
    noise = torch.from_numpy(rng.standard_normal((len(strengths), 1, ROWS, COLS))).float()
    errors = hardness * (1 + 0.25 * grain + 0.08 * noise) * MASK
    return canonicals, errors.clamp(min=0)


def usual(count: int, seed: int) -> np.ndarray:
    """Return how coarse the grain of `count` good parts is."""
    return 0.03 * np.exp(0.5 * np.random.default_rng(seed).standard_normal(count))


def learned(rule: str) -> tuple[Calibration, Standard]:
    canonicals, errors = parts(1, usual(COUNT, 2))
    fitted = Fitted(Final(), Final(), torch.arange(COUNT), errors, (False,), 1, False, ())
    made = calibration.calibrate(fitted, canonicals, rule, 0.05)
    return made, Standard(made.zones, made.rule, made.limit.threshold, sorted(made.scores), made.adaptive)


def judged(standard: Standard, canonicals: list[np.ndarray], errors: torch.Tensor) -> torch.Tensor:
    """Return the scores, each part by itself as on the line."""
    found = [
        standard.decisions(error[None], standard.expected(batch([canonical])))
        for canonical, error in zip(canonicals, errors, strict=True)
    ]
    return score.scores(torch.cat(found))


# texture


def test_texture_is_the_logarithm_of_the_local_contrast():
    canonical = np.random.default_rng(0).random((1, 1, *SIZE)).astype(np.float32)
    everywhere = torch.ones(ROWS, COLS, dtype=torch.bool)
    found = adaptive.texture(torch.from_numpy(canonical), everywhere)[0].numpy()
    variance = np.array([[cell.var() for cell in np.hsplit(row, COLS)] for row in np.vsplit(canonical[0, 0], ROWS)])
    taps = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    window = np.outer(taps, taps)[:, :] / taps.sum() ** 2
    row, col = 6, 9
    expected = math.log(math.sqrt((variance[row - 3 : row + 4, col - 3 : col + 4] * window).sum()) + adaptive.NOISE)
    assert found.shape == (ROWS, COLS)
    assert found[row, col] == pytest.approx(expected, abs=1e-4)


def test_brightness_is_no_texture_and_grain_is():
    flat, bright = np.full(SIZE, 0.3, np.float32), np.full(SIZE, 0.9, np.float32)
    fine, coarse = pictures(np.random.default_rng(1), np.array([0.02, 0.04]))
    smooth, lit, low, high = (adaptive.texture(batch([p]), MASK)[0][MASK].mean() for p in (flat, bright, fine, coarse))
    assert smooth == pytest.approx(float(lit), abs=0.2)
    assert high - low == pytest.approx(math.log(2), abs=0.1)
    assert low > smooth + 1


def test_texture_outside_the_part_is_not_looked_at():
    picture = pictures(np.random.default_rng(2), np.array([0.05]))[0]
    dirty = picture.copy()
    dirty[:, : 2 * CELL] = np.random.default_rng(3).random((SIZE[0], 2 * CELL)) * 5
    clean, changed = (adaptive.texture(batch([p]), MASK)[0][MASK] for p in (picture, dirty))
    assert torch.allclose(clean, changed, atol=1e-4)


# the regression


def linear(seed: int, count: int = 50) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return z that is 0.3 + 0.5 t + 0.2 t^2 of the unusual texture t, zones' mu, and the textures."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(count, ROWS, COLS, generator=generator)
    t = (t - t.mean(0)) / t.std(0)
    t = t.clamp(-adaptive.CUT, adaptive.CUT)
    z = (0.3 + 0.5 * t + 0.2 * t * t)[:, None].repeat(1, 2, 1, 1)
    z[:, 1] *= -1
    return z, torch.rand(2, ROWS, COLS, generator=generator) + 0.5, 2 * t - 4


def test_a_law_of_texture_is_found_for_each_map():
    z, mu, textures = linear(0)
    context = adaptive.learn(z, mu, textures, MASK)
    left = (context.expected(textures, mu) - z)[:, :, MASK]
    assert left.abs().mean() < 0.01 * z.abs().mean()
    assert left.abs().max() < 0.2


def test_errors_that_texture_says_nothing_about_are_expected_to_be_usual():
    _, mu, textures = linear(1)
    z = torch.randn(50, 2, ROWS, COLS, generator=torch.Generator().manual_seed(9))
    expected = adaptive.learn(z, mu, textures, MASK).expected(textures, mu)
    assert expected[:, :, MASK].abs().max() < 0.35


def test_texture_beyond_all_experience_excuses_no_more_than_the_most_unusual_known():
    z, mu, textures = linear(0)
    context = adaptive.learn(z, mu, textures, MASK)
    at_cut = context.texture_mean + adaptive.CUT * context.texture_spread
    wild = context.expected((at_cut + 1000)[None], mu)
    assert torch.allclose(wild, context.expected(at_cut[None], mu), atol=1e-3)


def test_textures_that_never_differ_are_no_nan():
    z, mu, _ = linear(0)
    context = adaptive.learn(z, mu, torch.full((50, ROWS, COLS), -3.0), MASK)
    assert torch.isfinite(context.expected(torch.full((1, ROWS, COLS), -3.0), mu)).all()


def test_state_round_trip_is_bit_identical():
    z, mu, textures = linear(0)
    context = adaptive.learn(z, mu, textures, MASK)
    again = Adaptive.make(context.state())
    assert torch.equal(again.expected(textures, mu), context.expected(textures, mu))


# the rule end to end


@pytest.fixture(scope="module")
def standards() -> dict[str, Standard]:
    return {rule: learned(rule)[1] for rule in ("zone", "adaptive")}


def rejected(standard: Standard, seed: int, strengths: np.ndarray) -> float:
    return float((judged(standard, *parts(seed, strengths)) > standard.threshold).float().mean())


def test_textured_good_parts_are_rejected_less(standards):
    coarse = np.full(100, 0.03 * math.exp(1.2))  # 2.4 deviations coarser than usual
    by_zone, by_texture = (rejected(standards[rule], 5, coarse) for rule in ("zone", "adaptive"))
    assert by_zone > 0.15
    assert by_texture < 0.5 * by_zone


def test_other_good_parts_are_rejected_as_often_as_asked(standards):
    assert rejected(standards["adaptive"], 6, usual(200, 7)) < 0.12


def test_a_defect_on_a_calm_part_is_found_earlier(standards):
    canonicals, errors = parts(8, np.full(20, 0.02))
    errors[:, :, 5, 12] += 1.0  # error without texture to excuse it
    found = {
        rule: (judged(standards[rule], canonicals, errors) > standards[rule].threshold).sum() for rule in standards
    }
    assert found["adaptive"] > 16
    assert found["zone"] < 10


def test_each_good_image_is_judged_as_the_line_would(standards):
    made, standard = learned("adaptive")
    held_out, again = torch.tensor(made.scores), judged(standard, *parts(1, usual(COUNT, 2)))
    assert torch.corrcoef(torch.stack([held_out, again]))[0, 1] > 0.95
    assert (again > standard.threshold).float().mean() <= 0.06


def test_a_standard_keeps_its_context(standards):
    standard = standards["adaptive"]
    again = Standard.make(standard.meta(), standard.arrays(), standard.threshold, standard.good)
    canonicals, errors = parts(10, usual(3, 11))
    assert torch.equal(judged(standard, canonicals, errors), judged(again, canonicals, errors))
    assert Standard.make(standards["zone"].meta(), standards["zone"].arrays(), 1.0, []).adaptive is None


def test_the_limit_that_is_shown_grows_with_the_texture(standards):
    standard = standards["adaptive"]
    shown = []
    for picture in pictures(np.random.default_rng(12), np.array([0.03, 0.1])):
        expected = standard.expected(batch([picture]))
        errors = standard.zones.mu[None].clone()
        explain = Deciding(standard).explained(errors, expected, standard.threshold)
        shown.append(np.mean([explain(row, col).limit for row, col in MASK.nonzero()[::7].tolist()]))
    assert shown[1] > shown[0]
