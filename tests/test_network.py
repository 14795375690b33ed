"""The network of features: shapes, what training does to it, the same bits from a seed, and what it finds unusual."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch.nn import functional

from calib import network as training
from calib import schedule
from calib.features import Library
from line_worker.vision.features import Maps, tokens
from line_worker.vision.network import FeatureNet, Network, unlike

FINE, COARSE = 6, 10  # channels
GRID = (18, 22)  # not divisible by 8


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with schedule.single_threaded():
        yield


def dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def part_of(rows: int, cols: int) -> torch.Tensor:
    cells = torch.zeros(rows, cols, dtype=torch.bool)
    cells[1 : rows - 1, 1 : cols - 1] = True
    cells[rows // 2, cols // 2] = False
    return cells


def good(count: int = 12, grid: tuple[int, int] = GRID) -> Library:
    """Return features of good parts: a look for each place, which changes a little with one trait of the part."""
    generator = dice(1)
    trait = torch.rand(count, 1, 1, 1, generator=generator)
    made = []
    for channels, rows, cols in ((FINE, *grid), (COARSE, -(-grid[0] // 2), -(-grid[1] // 2))):
        coarse = torch.randn(2, channels, rows // 4 + 2, cols // 4 + 2, generator=generator)
        look, change = functional.interpolate(coarse, (rows, cols), mode="bilinear")
        noise = 0.05 * torch.randn(count, channels, rows, cols, generator=generator)
        made.append((2 * look + trait * change + noise).half())
    return Library(*made)


def trained(steps: int, fits: list[torch.Tensor], cells: torch.Tensor | None = None, **options) -> training.Trained:
    return training.train_together(good(), part_of(*GRID) if cells is None else cells, fits, steps, 0, **options)


EVERYTHING = torch.arange(12)


@pytest.fixture(scope="module")
def learned() -> Network:
    return trained(40, [EVERYTHING]).stages[0]


# shapes


@pytest.mark.parametrize("grid", [(8, 16), (18, 22), (5, 7), (1, 9)])
@pytest.mark.parametrize("attention", [True, False])
@torch.inference_mode()
def test_any_grid_comes_back_in_its_shape(grid, attention):
    cells = torch.ones(grid, dtype=torch.bool)
    cells[0, 0] = False
    net = FeatureNet(FINE + COARSE, cells, attention).eval()
    features = torch.randn(3, int(cells.sum()), FINE + COARSE)
    assert net(features).shape == features.shape
    maps = Maps(torch.randn(3, FINE, *grid), torch.randn(3, COARSE, -(-grid[0] // 2), -(-grid[1] // 2)))
    error = Network(net, FINE, cells).eval()(maps)
    assert error.shape == (3, 1, *grid)
    assert error.min() >= 0
    assert torch.isfinite(error).all()


@torch.inference_mode()
def test_what_lies_around_the_part_has_no_say(learned):
    maps = good().maps(torch.tensor([0]))
    other = Maps(maps.fine.clone(), maps.coarse)
    other.fine[..., 0, :] = 50.0
    assert torch.equal(learned(maps), learned(other))


@torch.inference_mode()
def test_batches_agree_with_single_images(learned):
    together = learned(good().maps(torch.arange(4)))
    single = torch.cat([learned(good().maps(torch.tensor([k]))) for k in range(4)])
    assert torch.allclose(together, single, rtol=1e-3, atol=1e-6)


def test_cells_take_their_place_alike_in_training_and_on_the_line():
    net = FeatureNet(FINE + COARSE, part_of(*GRID))
    x = torch.randn(2, int(part_of(*GRID).sum()), 3)
    learning, judging = net.train()._on_grid(x), net.eval()._on_grid(x)
    assert torch.equal(learning, judging)
    assert torch.equal(judging.flatten(1, 2)[:, net.where], x)
    assert judging.count_nonzero() == x.count_nonzero()


def test_unlike_is_one_minus_the_cosine_of_each_layer():
    again, features = torch.randn(2, 5, 9, generator=dice(2)), torch.randn(2, 5, 9, generator=dice(3))
    found = unlike(again, features, 4)
    assert found.shape == (2, 2, 5)
    for layer, channels in zip(found, (slice(0, 4), slice(4, 9)), strict=True):
        cosine = functional.cosine_similarity(again[..., channels], features[..., channels], dim=2)
        assert torch.allclose(layer, 1 - cosine, atol=1e-3)
    assert unlike(features, features, 4).abs().max() < 1e-3


def test_features_of_length_zero_are_no_nan():
    assert torch.isfinite(unlike(torch.zeros(1, 2, 4), torch.zeros(1, 2, 4), 2)).all()


# attention


def reach(attention: bool) -> torch.Tensor:
    """Return which cells (16, 32) of a reconstruction change when the cell in the corner does."""
    cells = torch.ones(16, 32, dtype=torch.bool)
    torch.manual_seed(0)
    net = FeatureNet(4, cells, attention).eval()
    features = torch.randn(1, 512, 4)
    changed = features.clone()
    changed[0, 0] += 3.0
    with torch.inference_mode():
        return ((net(features) - net(changed)).abs().amax(2) > 0).view(16, 32)


def test_attention_looks_over_the_whole_part():
    assert reach(True).all()
    near = torch.zeros(16, 32, dtype=torch.bool)
    near[:8, :8] = True
    assert torch.equal(reach(False), near)


# training


def loss(stage: Network) -> float:
    return float(training.errors(stage, good(), EVERYTHING, 1)[:, 0, part_of(*GRID)].mean())


def test_training_lowers_the_error(learned):
    assert loss(learned) < 0.4 * loss(trained(1, [EVERYTHING]).stages[0])


def test_it_learns_without_attention_too():
    before, after = (loss(trained(steps, [EVERYTHING], attention=False).stages[0]) for steps in (1, 20))
    assert after < 0.8 * before


def test_an_unusual_patch_errs_more_than_others(learned):
    maps = good().maps(torch.tensor([3]))
    maps.fine[0, :, 6:10, 10:14] *= -1
    maps.coarse[0, :, 3:5, 5:7] *= -1
    with torch.inference_mode():
        error = learned(maps)[0, 0]
    row, col = divmod(int(error.argmax()), GRID[1])
    assert 6 <= row < 10
    assert 10 <= col < 14
    elsewhere = error[part_of(*GRID)].median()
    assert error.max() > 3 * elsewhere


def test_a_fit_sees_its_own_images_alone():
    library = good()
    library.fine[7:] = library.coarse[7:] = torch.nan
    stage = training.train_together(library, part_of(*GRID), [torch.arange(7)], 3, 0).stages[0]
    assert all(torch.isfinite(value).all() for value in stage.state_dict().values())


def same(one: Network, two: Network) -> bool:
    arrays = one.state(), two.state()
    return all((arrays[0][name] == arrays[1][name]).all() for name in arrays[0])


def test_the_same_seed_gives_the_same_weights_whatever_the_threads():
    fits = [torch.arange(8), torch.arange(4, 12)]
    one, two = (trained(4, fits, threads=threads).stages for threads in (1, 2))
    assert all(map(same, one, two))
    assert not same(*one)
    other = training.train_together(good(), part_of(*GRID), fits[:1], 4, 1).stages[0]
    assert not same(one[0], other)


def test_training_leaves_torchs_own_dice_alone():
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    trained(1, [EVERYTHING])
    assert torch.equal(torch.rand(3), expected)


def test_a_deadline_cuts_all_networks_alike(monkeypatch):
    monkeypatch.setattr(schedule, "STEPS_MIN", 5)
    told: list[float] = []
    fits = [torch.arange(8), torch.arange(4, 12)]
    cut = trained(5000, fits, deadline=time.monotonic() + 0.7, progress=told.append)
    assert cut.cut
    assert 5 <= cut.steps < 5000
    counts = {int(stage.net.state_dict()["enter.norm.num_batches_tracked"]) for stage in cut.stages}
    assert counts == {cut.steps}
    assert told[-1] == 1.0


def test_without_hurry_nothing_is_cut():
    done = trained(6, [EVERYTHING], deadline=time.monotonic() + 1000)
    assert (done.steps, done.cut) == (6, False)


def test_the_plan_follows_from_the_time_and_the_size_not_from_the_clock():
    assert training.plan(240, 6, 2, 1000) == training.plan(240, 6, 2, 1000) > schedule.STEPS_MIN
    assert training.plan(1, 6, 2, 1000) == schedule.STEPS_MIN
    assert training.plan(1e6, 6, 2, 1000) == training.STEPS_MAX
    assert training.plan(60, 6, 2, 2000) < training.plan(60, 6, 2, 1000)  # more cells
    assert training.plan(60, 6, 1, 2000) < training.plan(60, 6, 2, 2000)  # fewer threads


# what travels


def test_held_out_errors_are_what_the_line_sees_whatever_the_threads(learned):
    one, two = (training.errors(learned, good(), torch.tensor([1, 5]), threads) for threads in (1, 2))
    assert torch.equal(one, two)
    with torch.inference_mode():
        assert torch.equal(one[1:], learned(good().maps(torch.tensor([5]))))


@pytest.mark.parametrize("attention", [True, False])
def test_state_round_trip_is_bit_identical(attention):
    stage = trained(2, [EVERYTHING], attention=attention).stages[0]
    again = Network.make(json.loads(json.dumps(stage.meta())), stage.state())
    maps = good().maps(torch.tensor([2]))
    with torch.inference_mode():
        assert torch.equal(stage(maps), again(maps))


def test_weights_of_the_other_kind_are_refused():
    stage = trained(1, [EVERYTHING], attention=False).stages[0]
    with pytest.raises(RuntimeError, match=r"blocks\.0"):
        Network.make(stage.meta() | {"attention": True}, stage.state())


def test_tokens_hold_the_parts_cells_alone():
    maps = good().maps(torch.tensor([0]))
    cells = part_of(*GRID)
    found = tokens(maps, torch.nonzero(cells.flatten())[:, 0])
    assert torch.equal(found[0, :, :FINE], maps.fine[0][:, cells].T)
