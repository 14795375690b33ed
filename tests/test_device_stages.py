"""Each stage of the batched inspection does what OpenCV and numpy do one picture at a time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision import background, locate, score
from line_worker.vision.canonical import divide_background, straighten
from line_worker.vision.deciding import Deciding
from line_worker.vision.device import regions, statistics
from line_worker.vision.device.light import Fit, light, terms_over
from line_worker.vision.device.locating import Locating
from line_worker.vision.device.pictures import Blur, Steepness
from line_worker.vision.device.resizing import resizing
from line_worker.vision.device.straightening import Straighten
from line_worker.vision.frame import Frame
from line_worker.vision.score import Rule, Zones
from line_worker.vision.standard import Standard

Plane = np.ndarray


def noise(shape: tuple[int, ...], seed: int = 0) -> Plane:
    rng = np.random.default_rng(seed)
    return np.asarray(cv2.GaussianBlur(rng.integers(0, 256, shape).astype(np.uint8), (0, 0), 1.5))


def up(*pictures: Plane) -> torch.Tensor:
    """Return pictures (h, w) or (h, w, C) as (B, C, h, w)."""
    stacked = torch.from_numpy(np.stack(pictures)).float()
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2).contiguous()


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(120, 160), (60, 80), (48, 64), (50, 70), (96, 128), (240, 320)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shrinking_is_opencvs_to_the_level(size, channels):
    image = noise((240, 320) if channels == 1 else (240, 320, 3))
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA).reshape(*size, channels)
    got = resizing((240, 320), size, "uint8")(up(image))[0].permute(1, 2, 0).numpy()
    assert (got != expected).mean() < 2e-3
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("size", [(384, 512), (96, 160), (70, 130), (101, 128), (96, 140)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_picture_that_is_small_already_is_enlarged_as_opencv_does(size, dtype):
    image = noise((96, 128)).astype(dtype) * (1 if dtype == "uint8" else 13)
    expected = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    got = resizing((96, 128), size, dtype)(up(image))[0, 0].numpy()
    assert np.abs(got - expected).max() <= (1 if dtype == "uint16" else 1e-2)
    assert (np.abs(got - expected) > 1e-2).mean() < (1e-2 if dtype == "uint16" else 1e-3)  # halves of a level


@pytest.mark.parametrize("sigma", [0.7, 1.5])
def test_blurring_is_opencvs(sigma):
    image = noise((90, 120))
    whole = Blur(sigma, True)(up(image))[0, 0].numpy()
    assert np.array_equal(whole, cv2.GaussianBlur(image, (0, 0), sigma))
    fine = Blur(sigma, False)(up(image))[0, 0].numpy()
    assert np.allclose(fine, cv2.GaussianBlur(image.astype(np.float32), (0, 0), sigma), atol=1e-3)


def test_gradients_are_scharrs():
    image = noise((90, 120))
    assert np.allclose(Steepness()(up(image))[0, 0].numpy(), background.steepness(image), atol=1e-2)


@pytest.mark.parametrize("scale", [1.0, 0.8, 0.3])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_canonical_picture_is_opencvs(scale, channels):
    shape, size = (240, 320), (64, 96)
    image = noise(shape if channels == 1 else (*shape, 3))
    surface = np.tile(np.array([120, 20, -9, 3, 2, -4], np.float32), (channels, 1)) + np.arange(channels)[:, None]
    matrices, expected = [], []
    for angle, x, y in ((0.3, 90.2, 33.3), (2.5, 250.7, 120.1), (-1.2, -20.0, 230.0)):  # the last leaves the frame
        c, s = np.cos(angle) / scale, np.sin(angle) / scale
        matrices.append(np.array([[c, -s, x], [s, c, y]]))
        pixels = straighten(image, matrices[-1], size)
        expected.append(divide_background(pixels, surface.astype(np.float32), matrices[-1], shape, 255.0))
    stage = Straighten(Frame(shape, channels, "uint8", 255.0), size, scale)
    surfaces = torch.from_numpy(surface.astype(np.float32)).expand(3, -1, -1)
    got = stage(up(image, image, image), torch.from_numpy(np.stack(matrices)), surfaces)
    away = np.abs(
        got.permute(0, 2, 3, 1).numpy().reshape(3, *size, channels)
        - np.reshape(expected, (*got.shape[:1], *size, channels))
    )
    assert (away > 1e-4).mean() < 2e-3  # pixels that lie between two levels
    assert away.max() < 0.02


# ---- statistics ------------------------------------------------------------------------------------------------------


def test_medians_are_numpys():
    rng = np.random.default_rng(1)
    values, use = rng.normal(size=(4, 101)).astype(np.float32), rng.random((4, 101)) < 0.4
    use[3] = np.arange(101) == 7
    got = statistics.masked_median(torch.from_numpy(values), torch.from_numpy(use)).numpy()
    assert np.allclose(got, [np.median(v[u]) for v, u in zip(values, use, strict=True)])
    assert np.allclose(statistics.median(torch.from_numpy(values[:, :100])).numpy(), np.median(values[:, :100], 1))


def test_small_systems_are_solved_and_singular_ones_give_nothing():
    rng = np.random.default_rng(2)
    roots = rng.normal(size=(5, 6, 6))
    normal, wanted = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(6), rng.normal(size=(5, 6, 3))
    got = statistics.solve(torch.from_numpy(normal), torch.from_numpy(wanted)).numpy()
    assert np.allclose(got, np.linalg.solve(normal, wanted), atol=1e-9)
    nothing = statistics.solve(torch.zeros(1, 3, 3), torch.ones(1, 3, 1))
    assert not nothing.isfinite().any()


def test_otsus_threshold_is_opencvs():
    rng = np.random.default_rng(3)
    values = np.abs(np.concatenate([rng.normal(0.02, 0.02, (3, 900)), rng.normal(0.6, 0.2, (3, 300))], 1))
    values[2] = 0.25  # nothing to separate
    values = values.astype(np.float32)
    got = statistics.otsu(torch.from_numpy(values), torch.ones(3, 1200), 200.0).numpy()
    assert np.allclose(got, [locate._otsu(locate._quantised(v)) for v in values])
    half = torch.arange(1200).expand(3, -1) % 2
    some = statistics.otsu(torch.from_numpy(values), half, 200.0).numpy()
    assert np.allclose(some, [locate._otsu(locate._quantised(v[1::2])) for v in values])


# ---- regions ---------------------------------------------------------------------------------------------------------


def spiral(side: int) -> Plane:
    """Return a line of one pixel that winds inwards, leaving one pixel between its turns."""
    mask, low, high = np.zeros((side, side), np.uint8), 0, side - 1
    while high - low > 4:
        mask[low, low : high + 1] = mask[low : high + 1, high] = mask[high, low : high + 1] = 1
        mask[low + 2 : high + 1, low] = 1
        mask[low + 2, low : low + 3] = 1
        low, high = low + 2, high - 2
    return mask


def comb(side: int) -> Plane:
    mask = np.zeros((side, side), np.uint8)
    mask[::2], mask[1::4, 0], mask[3::4, -1] = 1, 1, 1
    return mask


def random_mask(share: float) -> Plane:
    return (np.random.default_rng(4).random((128, 128)) < share).astype(np.uint8)


def blobs() -> Plane:
    plane = np.random.default_rng(5).standard_normal((128, 128)).astype(np.float32)
    return (cv2.GaussianBlur(plane, (0, 0), 3) > 0).astype(np.uint8)


MASKS = {
    "spiral": spiral(256),
    "spiral, turned": np.ascontiguousarray(spiral(256).T[::-1]),
    "inside of a spiral": 1 - spiral(256),
    "comb": comb(255),
    "comb, turned": np.ascontiguousarray(comb(255)[::-1].T),
    "sparse noise": random_mask(0.41),
    "dense noise": random_mask(0.6),
    "blobs": blobs(),
    "nothing": np.zeros((64, 64), np.uint8),
    "everything": np.ones((64, 64), np.uint8),
}


@pytest.mark.parametrize("name", MASKS)
def test_holes_and_the_largest_piece_are_opencvs(name):
    mask = MASKS[name]
    filled = regions.filled(torch.from_numpy(mask)[None] > 0)
    assert np.array_equal(filled[0].numpy(), locate._filled(mask) > 0)
    piece, share = regions.largest(filled)
    expected, expected_share = locate.largest(mask)
    assert float(share) == pytest.approx(expected_share, abs=0.01)  # OpenCV's comes from the outline's length
    assert np.array_equal(piece[0].numpy(), expected > 0)


def test_pieces_in_a_batch_do_not_touch_each_other():
    masks = [MASKS[name] for name in ("sparse noise", "dense noise", "blobs")]
    together, shares = regions.largest(torch.from_numpy(np.stack(masks)) > 0)
    for mask, piece, share in zip(masks, together, shares, strict=True):
        alone, alone_share = regions.largest(torch.from_numpy(mask)[None] > 0)
        assert torch.equal(piece, alone[0])
        assert share == alone_share[0]


@pytest.mark.parametrize(("name", "operation"), [("closed", cv2.MORPH_CLOSE), ("opened", cv2.MORPH_OPEN)])
def test_morphology_is_opencvs(name, operation):
    mask = random_mask(0.5)
    expected = cv2.morphologyEx(mask, operation, locate._disc(3)) > 0
    assert np.array_equal(getattr(regions, name)(torch.from_numpy(mask)[None] > 0, 3)[0].numpy(), expected)
    grown = cv2.dilate(random_mask(0.02), locate._disc(5)) > 0
    assert np.array_equal(regions.dilate(torch.from_numpy(random_mask(0.02))[None] > 0, 5)[0].numpy(), grown)


# ---- light and part --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", [False, True])
def test_the_background_is_the_same_surface(colour):
    rng = np.random.default_rng(6)
    pictures = [cv2.resize(draw_part(rng, size=(96, 128), colour=colour).image, (64, 48)) for _ in range(3)]
    surfaces = Fit((48, 64))(up(*pictures))
    for picture, surface in zip(pictures, surfaces, strict=True):
        expected = background.fit_background(picture)
        assert np.allclose(surface.numpy(), expected, atol=0.02)  # gray levels
        ground = light(surface[None], terms_over((96, 128)))[0].permute(1, 2, 0).numpy()
        assert np.allclose(ground, background.background(expected, 96, 128), atol=0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_the_same_part_is_found_and_the_same_nothing(dark):
    rng = np.random.default_rng(7)
    pictures = [draw_part(rng, kind, size=(192, 256), dark=dark).image for kind in ("pin", "gear")]
    pictures += [np.full_like(pictures[0], 99), np.hstack([pictures[0][:, ::2], pictures[1][:, ::2]])]
    seen = Locating((192, 256), "uint8")(up(*pictures))
    expected = [locate.locate(picture) for picture in pictures]
    assert seen.found.tolist() == [one.found for one in expected]
    assert seen.found.tolist()[:3] == [True, True, False]
    for k in range(2):
        assert (seen.mask[k].numpy() != (expected[k].mask > 0)).sum() <= 4
        assert np.allclose(seen.centre[k].numpy(), expected[k].centre, atol=0.05)
        assert float(seen.area[k]) == pytest.approx(expected[k].area, rel=2e-3)


# ---- score -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", score.RULES)
def test_decisions_are_those_of_the_standard(name):
    dice = torch.Generator().manual_seed(8)
    mask = torch.rand(20, 30, generator=dice) < 0.7
    mu, sigma = torch.rand(2, 20, 30, generator=dice), torch.rand(2, 20, 30, generator=dice)
    weight = torch.where(torch.rand(20, 30, generator=dice) < 0.9, 1.0, 0.5)
    rule = Rule(name, 2, (0.5, 0.1), (1.5, 0.7))
    standard = Standard(Zones(mu, sigma, mask, weight), rule, 1.0)
    errors = torch.rand(3, 2, 20, 30, generator=dice) * mask
    expected = torch.rand(3, 2, 20, 30, generator=dice) if name == "adaptive" else None
    got = Deciding(standard)(errors, expected)
    assert torch.allclose(got, standard.decisions(errors, expected), atol=1e-6)
    assert got.std() > 0


def test_reasons_fit_into_a_float():
    assert all(int(torch.tensor(float(reason))) == reason for reason in Reason)
