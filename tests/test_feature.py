"""The linear autoencoder of features, against an SVD of the same parts, and what it finds unusual."""

from __future__ import annotations

import json

import pytest
import torch

from calib import feature as fitting
from calib import reduction
from calib.schedule import single_threaded
from line_worker.vision.cells import blur_inside
from line_worker.vision.feature import Feature
from line_worker.vision.reduction import Reduction

ROWS, COLS, WIDTH = 10, 14, 12
COUNT = 24
TRAITS = 3  # in which good parts differ
NOISE = 0.05
CELLS = torch.zeros(ROWS, COLS, dtype=torch.bool)
CELLS[1:9, 2:13] = True
CELLS[4, 5] = False  # a hole
EVERYTHING = torch.arange(COUNT)


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


def dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def shown(traits: torch.Tensor, seed: int) -> torch.Tensor:
    """Return reduced features (N, rows, cols, WIDTH) of parts with these traits (N, TRAITS), and noise of their own."""
    looks = torch.randn(TRAITS + 1, ROWS, COLS, WIDTH, generator=dice(1))
    noise = NOISE * torch.randn(len(traits), ROWS, COLS, WIDTH, generator=dice(seed))
    return looks[0] + torch.einsum("nt,trcw->nrcw", traits, looks[1:]) + noise


def good(seed: int = 2, count: int = COUNT) -> reduction.Reduced:
    traits = torch.randn(count, TRAITS, generator=dice(seed))
    return reduction.Reduced(Reduction(torch.eye(WIDTH), 5), shown(traits, seed + 1).half())


def built(images: torch.Tensor = EVERYTHING) -> Feature:
    return fitting.build(fitting.gather(good(), CELLS), images)


def raw(stage: Feature, planes: torch.Tensor) -> torch.Tensor:
    """Return the length of each cell's residual (B, n), written out with an SVD's components."""
    width = stage.mean.shape[1]
    x = planes[:, :width, CELLS].transpose(1, 2) - stage.mean
    flat, basis = x.flatten(1), stage.components.flatten(1)
    for component in basis:
        flat = flat - (flat @ component)[:, None] * component
    return flat.view(x.shape).norm(dim=2)


@pytest.mark.parametrize("images", [EVERYTHING, torch.tensor([0, 2, 3, 5, 8, 13, 17, 20, 21])])
def test_components_are_those_of_an_svd(images, monkeypatch):
    monkeypatch.setattr(fitting, "COMPONENTS", TRAITS)
    stage = built(images)
    values = good().values[images][:, CELLS].float().flatten(1)
    mean = values.mean(0)
    directions = torch.linalg.svd(values - mean, full_matrices=False).Vh[:TRAITS]
    assert torch.allclose(stage.mean.flatten(), mean, atol=2e-3)
    ours = stage.components.flatten(1)
    assert torch.allclose(ours @ ours.T, torch.eye(TRAITS), atol=2e-3)
    assert torch.allclose((ours @ directions.T).norm(dim=1), torch.ones(TRAITS), atol=2e-3)  # the same subspace


def test_the_products_are_computed_in_parts(monkeypatch):
    whole = fitting.gather(good(), CELLS).products
    monkeypatch.setattr(fitting, "SPAN", 100)
    assert torch.allclose(fitting.gather(good(), CELLS).products, whole, rtol=1e-4, atol=1e-2)


def test_the_error_is_the_residuals_length_smoothed():
    stage, planes = built(), good(seed=9).planes(torch.tensor([0, 1]))
    found = stage(planes)
    plane = torch.zeros(2, 1, ROWS, COLS)
    plane[:, 0, CELLS] = raw(stage, planes)
    assert found.shape == (2, 1, ROWS, COLS)
    assert torch.allclose(found, blur_inside(plane, CELLS, 1.5, 5), atol=1e-3)


def test_traits_that_good_parts_have_are_reconstructed_however_strong():
    stage = built()
    plain, strong = (stage(shown(torch.full((1, TRAITS), size), 5).permute(0, 3, 1, 2)) for size in (0.0, 3.0))
    assert strong[0, 0][CELLS].mean() < 2 * plain[0, 0][CELLS].mean()


def test_an_unusual_patch_errs_more_than_others():
    planes = good(seed=9).planes(torch.tensor([0]))
    before = built()(planes)
    planes[:, :, 5:8, 8:11] *= -1
    after = built()(planes)
    row, col = divmod(int(after.argmax()), COLS)
    assert 5 <= row < 8
    assert 8 <= col < 11
    assert after.max() > 5 * before.max()


def test_what_lies_around_the_part_has_no_say():
    planes = good(seed=9).planes(torch.tensor([0]))
    other = planes.clone()
    other[:, :, ~CELLS] = 40.0
    assert torch.equal(built()(planes), built()(other))


def test_parts_it_has_not_seen_err_about_as_much_as_those_it_has():
    stage = built(EVERYTHING[:16])
    seen, unseen = (reduction.errors(stage, good(), images, 1)[:, 0, CELLS] for images in EVERYTHING.split(16))
    assert unseen.mean() > seen.mean()
    assert unseen.mean() < 2 * seen.mean()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_few_parts_leave_something_to_be_unusual(count):
    stage = built(EVERYTHING[:count])
    assert 1 <= len(stage.components) <= max(1, count // 2)
    assert torch.isfinite(stage(good(seed=9).planes(torch.tensor([0])))).all()


def test_parts_that_are_all_alike_are_no_nan():
    alike = reduction.Reduced(good().reduction, good().values[:1].expand(8, -1, -1, -1).clone())
    stage = fitting.build(fitting.gather(alike, CELLS), torch.arange(8))
    error = stage(good(seed=9).planes(torch.tensor([0])))
    assert torch.isfinite(error).all()
    assert error.max() > 0


def test_there_are_never_more_components_than_the_bundle_has_room_for(monkeypatch):
    monkeypatch.setattr(fitting, "COMPONENTS", 5)
    monkeypatch.setattr(fitting, "DIMENSIONS", 7)
    assert built().components.shape == (5, int(CELLS.sum()), 7)


def test_held_out_errors_are_what_the_line_sees_whatever_the_threads():
    one, two = (reduction.errors(built(), good(), torch.tensor([1, 5]), threads) for threads in (1, 2))
    assert torch.equal(one, two)
    assert torch.equal(one[1:], built()(good().planes(torch.tensor([5]))))


def test_state_round_trip_is_bit_identical():
    stage = built()
    again = Feature.make(json.loads(json.dumps(stage.meta())), stage.state())
    planes = good(seed=9).planes(torch.tensor([0]))
    assert torch.equal(stage(planes), again(planes))
