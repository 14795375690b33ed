"""The memory of good parts: distances and K-means against slow versions, and what a place or all places know."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from calib import memory as building
from calib import reduction
from calib.features import Library
from calib.schedule import single_threaded
from line_worker.vision.features import Maps
from line_worker.vision.memory import Memory, nearest
from line_worker.vision.reduction import Reduction

ROWS, COLS = 16, 24
CHANNELS = 5  # of each layer
OFF = 0.15  # noise of a good part's features, in units of their spread


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


@pytest.fixture(autouse=True)
def _as_scarce_for_few_cells_as_for_many(monkeypatch):
    monkeypatch.setattr(building, "SHARED", ROWS * COLS)


def dice(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noisy(fine: torch.Tensor, coarse: torch.Tensor, seed: int) -> Library:
    """Return features (N, C, ...) with noise of their own in each image."""
    generator = dice(seed)
    return Library(*((x + OFF * torch.randn(x.shape, generator=generator)).half() for x in (fine, coarse)))


def aligned(count: int = 20) -> Library:
    """Return features of parts in canonical pose: every place has its own look, the same in all images."""
    generator = dice(1)
    fine = torch.randn(1, CHANNELS, ROWS, COLS, generator=generator).expand(count, -1, -1, -1)
    coarse = torch.randn(1, CHANNELS, ROWS // 2, COLS // 2, generator=generator).expand(count, -1, -1, -1)
    return noisy(fine, coarse, 2)


def texture(count: int = 20) -> Library:
    """Return features of a texture with forty looks, of which each place of each image shows any."""
    generator = dice(3)
    looks = torch.randn(40, CHANNELS, generator=generator)
    shown = torch.randint(0, 40, (count, ROWS // 4, COLS // 4), generator=generator)
    coarse = looks[shown].permute(0, 3, 1, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    return noisy(coarse.repeat_interleave(2, 2).repeat_interleave(2, 3), coarse, 4)


EVERYWHERE = torch.ones(ROWS, COLS, dtype=torch.bool)


@pytest.fixture
def cells() -> torch.Tensor:
    inside = torch.zeros(ROWS, COLS, dtype=torch.bool)
    inside[2:10, 1:14] = True
    inside[4, 5] = False  # a hole
    return inside


def filled(library: Library, cells: torch.Tensor, placed: bool) -> tuple[reduction.Reduced, Memory]:
    reduced = reduction.reduce(library, cells, 0)
    return reduced, building.build(reduced, cells, torch.arange(len(library.fine)), placed, 0)


# distances


def test_nearest_is_the_nearest():
    queries, bank = torch.randn(3, 7, 4, generator=dice(0)), torch.randn(3, 5, 4, generator=dice(1))
    found = nearest(queries, bank, bank.square().sum(2))
    slow = [[min(float(((q - b) ** 2).sum()) for b in bank[g]) for q in queries[g]] for g in range(3)]
    assert torch.allclose(found, torch.tensor(slow), atol=1e-5)


@pytest.mark.parametrize("placed", [True, False])
def test_distances_against_a_loop_over_cells(cells, placed):
    groups = int(cells.sum()) if placed else 1
    bank = torch.randn(groups, 6, 4, generator=dice(2)).half().float()
    memory = Memory(bank, cells)
    reduced = torch.randn(2, 4, ROWS, COLS, generator=dice(3))
    slow = torch.zeros(2, 1, ROWS, COLS)
    for b in range(2):
        for n, (row, col) in enumerate(torch.nonzero(cells).tolist()):
            own = bank[n if placed else 0]
            slow[b, 0, row, col] = (own - reduced[b, :, row, col]).norm(dim=1).min()
    assert torch.allclose(memory.distances(reduced), slow, atol=1e-5)


def test_a_prototype_itself_is_at_distance_zero_never_nan(cells):
    bank = 100 * torch.randn(1, 6, 4, generator=dice(2)).half().float()
    memory = Memory(bank, cells)
    found = memory.distances(memory.bank[0, 3][None, :, None, None].expand(1, -1, ROWS, COLS))
    assert torch.isfinite(found).all()
    assert found.max() < 1e-3 * float(bank.norm(dim=2).max())


def test_the_error_is_smoothed_over_the_part_alone(cells):
    bank = torch.zeros(1, 1, 4)
    memory = Memory(bank, cells)
    error = memory(torch.ones(1, 4, ROWS, COLS))
    assert error.shape == (1, 1, ROWS, COLS)
    assert torch.allclose(error[0, 0][cells], torch.full((int(cells.sum()),), 2.0), atol=1e-5)  # to its very border


def test_reduction_projects_both_layers_pooled():
    fine, coarse = torch.randn(2, 3, 8, 12, generator=dice(4)), torch.randn(2, 5, 4, 6, generator=dice(5))
    basis = torch.randn(8, 4, generator=dice(6))

    def pooled(x: torch.Tensor) -> torch.Tensor:
        rows, cols = x.shape[2:]
        means = [
            x[:, :, max(0, r - 1) : r + 2, max(0, c - 1) : c + 2].mean((2, 3)) for r in range(rows) for c in range(cols)
        ]
        return torch.stack(means, 2).view(x.shape)

    wide = torch.nn.functional.interpolate(pooled(coarse), (8, 12), mode="bilinear")
    expected = torch.einsum("bcij,cd->bdij", torch.cat([pooled(fine), wide], 1), basis)
    assert torch.allclose(Reduction(basis, 3)(Maps(fine, coarse)), expected, atol=1e-5)


# K-means


def slow_kmeans(samples: np.ndarray, count: int, rounds: int) -> np.ndarray:
    centres = samples[:count].copy()
    for _ in range(rounds):
        owner = np.argmin(np.linalg.norm(samples[:, None] - centres, axis=2), axis=1)
        centres = np.array([samples[owner == k].mean(0) if (owner == k).any() else c for k, c in enumerate(centres)])
    return centres


@pytest.mark.parametrize("total", [60, 9000])  # the latter more than are compared at once
def test_kmeans_against_a_slow_version(total):
    samples = torch.randn(3, total, 2, generator=dice(7))
    found = building.kmeans(samples, 5, 4)
    assert found.shape == (3, 5, 2)
    for mine, own in zip(found, samples, strict=True):
        assert np.allclose(mine.numpy(), slow_kmeans(own.double().numpy(), 5, 4), atol=1e-3)


def test_an_empty_centre_stays_where_it_was():
    samples = torch.tensor([[[1.0], [1.0], [5.0], [6.0]]])  # two centres start on the same spot: one gets nothing
    centres = building.kmeans(samples, 3, 3)
    assert sorted(centres.flatten().tolist()) == [1.0, 1.0, 5.5]


def test_fewer_samples_than_centres_are_their_own_centres():
    samples = torch.randn(2, 3, 4, generator=dice(8))
    assert torch.allclose(building.kmeans(samples, 64, 5), samples, atol=1e-6)


# what it knows


@pytest.mark.parametrize("placed", [True, False])
def test_a_foreign_patch_is_far(placed):
    library = aligned()
    reduced, memory = filled(library, EVERYWHERE, placed)
    good = library.maps(torch.tensor([0]))
    fine, coarse = good.fine.clone(), good.coarse.clone()
    fine[0, :, 4:8, 8:12] = coarse[0, :, 2:4, 4:6] = 4.0
    near, far = (memory(reduced.reduction(maps)) for maps in (good, Maps(fine, coarse)))
    assert far[0, 0, 5:7, 9:11].min() > 3 * near.max()
    assert torch.allclose(far[0, 0, :, :2], near[0, 0, :, :2], atol=1e-5)


def test_a_good_patch_in_another_place_is_far_only_where_places_are_known():
    good = aligned().maps(torch.tensor([0]))
    moved = Maps(good.fine.roll((8, 12), (2, 3)), good.coarse.roll((4, 6), (2, 3)))  # every look is somewhere else
    inside = (slice(None), 0, slice(3, 5), slice(3, 9))  # away from the seams
    further = {}
    for placed in (True, False):
        reduced, memory = filled(aligned(), EVERYWHERE, placed)
        typical, found = (memory.distances(reduced.reduction(maps))[inside].mean() for maps in (good, moved))
        further[placed] = float(found / typical)
    assert further[True] > 3
    assert further[False] < 1.5


@pytest.mark.parametrize(("library", "expected"), [(aligned, True), (texture, False)])
def test_parts_are_remembered_by_place_and_texture_as_a_whole(library, expected):
    reduced = reduction.reduce(library(), EVERYWHERE, 0)
    placed, ratio, _ = building.place(reduced, EVERYWHERE, torch.arange(4), torch.arange(4, 20), 0)
    assert placed is expected
    assert (ratio <= building.PLACED) is expected


def test_held_out_distances_are_what_the_line_sees_whatever_the_threads(cells):
    reduced, memory = filled(aligned(6), cells, True)
    one, two = (reduction.errors(memory, reduced, torch.tensor([1, 4]), threads) for threads in (1, 2))
    assert torch.equal(one, two)
    with torch.inference_mode():
        direct = memory(reduced.reduction(aligned(6).maps(torch.tensor([4]))))
    assert torch.allclose(one[1:], direct, atol=2e-2 * float(direct.max()))  # the library keeps half precision


# size


@pytest.mark.parametrize("images", [1, 3])
def test_few_images_are_enough_to_build(images, cells):
    reduced, memory = filled(aligned(images), cells, True)
    around = math.prod(2 * reach + 1 for reach in building.window(ROWS, COLS))
    assert memory.bank.shape[:2] == (int(cells.sum()), min(building.PROTOTYPES, images * around))
    assert torch.isfinite(reduction.errors(memory, reduced, torch.tensor([0]), 1)).all()


def test_a_bank_is_never_larger_than_the_bundle_has_room_for(monkeypatch, cells):
    room = 40 << 10
    monkeypatch.setattr(building, "BANK_BYTES", room)
    _, memory = filled(aligned(), cells, True)
    kept = memory.state()["bank"]
    assert kept.dtype == np.float16
    assert 0.8 * room < kept.nbytes <= room
    assert kept.shape[1] < building.PROTOTYPES


def test_a_shared_bank_has_one_set_of_prototypes(monkeypatch, cells):
    monkeypatch.setattr(building, "SHARED", 30)
    _, memory = filled(texture(), cells, False)
    assert memory.bank.shape == (1, 30, 2 * CHANNELS)


def test_long_parts_forgive_more_along_their_length():
    assert building.window(10, 40) == (1, 3)
    assert building.window(20, 30) == (2, 2)


def test_only_the_parts_cells_make_the_basis(cells):
    library = aligned()
    dirty = Library(library.fine.clone(), library.coarse.clone())
    dirty.fine[..., 15:] = 100.0  # beyond what a cell of the part averages over
    bases = [reduction.reduce(one, cells, 0).reduction.basis for one in (library, dirty)]
    assert torch.equal(*bases)
    assert torch.allclose(bases[0].T @ bases[0], torch.eye(2 * CHANNELS), atol=1e-5)


# what travels


@pytest.mark.parametrize("placed", [True, False])
def test_state_round_trip_is_bit_identical(placed, cells):
    reduced, memory = filled(aligned(), cells, placed)
    again = Memory.make(json.loads(json.dumps(memory.meta())), memory.state())
    planes = reduced.planes(torch.tensor([2]))
    assert torch.equal(memory(planes), again(planes))


def test_half_precision_changes_distances_by_little(cells):
    bank = torch.randn(1, 50, 96, generator=dice(10))
    memory = Memory(bank, cells)
    reduced = torch.randn(1, 96, ROWS, COLS, generator=dice(11))
    queries = reduced.flatten(2)[0].T[cells.flatten()]
    exact = torch.cdist(queries, bank[0]).amin(1)
    assert not torch.equal(memory.bank, bank)
    assert torch.allclose(memory.distances(reduced)[0, 0][cells], exact, rtol=1e-3)


def test_the_same_seed_fills_the_same_bank(cells):
    one, two, other = (
        building.build(reduction.reduce(aligned(), cells, 0), cells, torch.arange(20), True, seed).bank
        for seed in (5, 5, 6)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
