"""Painted defects lie on the part, are as large and as strong as asked, and leave everything else as it was."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from calib import painting
from calib.painting import CONTRASTS, KINDS, SIZES, TooSmall, on_part, paint, part_size

GROUND, METAL = 1.0, 0.6
SPAN = (0.4, 0.8)
SURFACE = ("scratch", "pit", "smear")
HEIGHT, WIDTH = 160, 400


def plate(channels: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a gray or colour plate with a hole and a soft shadow, its mask with margin, and where its metal is."""
    metal = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.rectangle(metal, (20, 20), (379, 139), 1, cv2.FILLED)
    solid = metal.copy()
    cv2.circle(metal, (300, 80), 20, 0, cv2.FILLED)
    shadow = 1 - 0.1 * cv2.GaussianBlur(np.roll(solid, 4, 0).astype(np.float32), (0, 0), 4)
    picture = np.where(metal > 0, np.float32(METAL), shadow).astype(np.float32)
    mask = cv2.dilate(solid, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))) > 0
    if channels == 3:
        picture = picture[..., None] * np.array([0.9, 1.0, 1.0], np.float32)
    return np.ascontiguousarray(picture), mask, metal > 0


def texture(channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    shape = (120, 200) if channels == 1 else (120, 200, 3)
    noise = np.random.default_rng(9).normal(METAL, 0.03, shape).astype(np.float32)
    return noise, np.ones((120, 200), np.bool_)


def painted(seed: int, kind: str, size: float = 0.10, contrast: float = 0.25, channels: int = 1):
    picture, mask, _ = plate(channels)
    return paint(np.random.default_rng(seed), picture, mask, kind, size, contrast, SPAN)


def longest(where: np.ndarray) -> float:
    """Return the longest extent of a shape in pixels."""
    points = np.argwhere(where).astype(np.float64)
    return float(np.sqrt(((points[:, None] - points[None]) ** 2).sum(2)).max()) + 1


def change(seed: int, kind: str, size: float, contrast: float) -> np.ndarray:
    return np.abs(painted(seed, kind, size, contrast).picture - plate()[0])


def test_the_part_is_its_metal_not_the_margin_nor_the_hole_nor_the_shadow():
    picture, mask, metal = plate()
    body = on_part(picture, mask, SPAN)
    assert (body & metal).sum() > 0.97 * metal.sum()
    assert (body & ~metal).sum() < 0.01 * metal.sum()


def test_a_highlight_as_bright_as_the_background_belongs_to_the_part():
    picture, mask, _ = plate()
    picture[60:64, 40:200] = GROUND
    assert on_part(picture, mask, SPAN)[62, 45:195].all()


def test_a_part_as_bright_as_its_background_is_the_mask_without_its_margin():
    picture, mask, metal = plate()
    faint = (1 + 0.01 * (picture - 1)).astype(np.float32)
    body = on_part(faint, mask, SPAN)
    assert body[metal].all()
    assert body.sum() < mask.sum()


@pytest.mark.parametrize("kind", SURFACE)
@pytest.mark.parametrize("size", SIZES)
def test_a_surface_defect_lies_on_the_metal(kind, size):
    metal = plate()[2]
    shares = [(metal & (done := painted(seed, kind, size)).mask).sum() / done.mask.sum() for seed in range(12)]
    assert min(shares) > 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_changes_outside_the_mask(kind, channels):
    picture, template, _ = plate(channels)
    before = picture.copy()
    for seed in range(6):
        done = paint(np.random.default_rng(seed), picture, template, kind, 0.1, 0.6, SPAN)
        differs = (done.picture != picture).reshape(HEIGHT, WIDTH, -1).any(2)
        assert np.array_equal(differs, done.mask)
        assert done.mask.any()
        assert not (done.mask & ~template).any()
        assert done.picture.dtype == np.float32
    assert np.array_equal(picture, before)


@pytest.mark.parametrize("kind", SURFACE)
@pytest.mark.parametrize("size", SIZES)
def test_size_is_the_extent_at_half_height(kind, size):
    asked = size * part_size(plate()[1])
    measured = [longest((seen := change(seed, kind, size, 0.25)) > 0.5 * seen.max()) for seed in range(12)]
    assert np.median(measured) == pytest.approx(asked, abs=1.0 + 0.08 * asked)


@pytest.mark.parametrize("kind", SURFACE)
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_contrast_is_the_largest_change(kind, contrast):
    asked = contrast * (SPAN[1] - SPAN[0])
    measured = [change(seed, kind, 0.05, contrast).max() for seed in range(8)]
    assert np.allclose(measured, asked, rtol=0.05)


def test_kinds_look_as_they_are_called():
    """A scratch is thin, a pit round with a soft rim, a smear mostly rim."""
    area, rim = {}, {}
    for kind in SURFACE:
        seen = [change(seed, kind, 0.10, 0.25) for seed in range(8)]
        area[kind] = np.mean([(c > 0.5 * c.max()).sum() / longest(c > 0.5 * c.max()) ** 2 for c in seen])
        rim[kind] = np.mean([((c > 0.05 * c.max()) & (c < 0.95 * c.max())).sum() / (c > 0).sum() for c in seen])
    assert area["scratch"] < 0.2
    assert area["pit"] > 0.55
    assert 0.2 < rim["pit"] < 0.65 < rim["smear"]


@pytest.mark.parametrize("kind", SURFACE)
def test_defects_are_darker_and_brighter(kind):
    signs = {np.sign((painted(seed, kind).picture - plate()[0]).sum()) for seed in range(16)}
    assert signs == {-1.0, 1.0}


def test_a_defect_without_room_below_is_brighter():
    picture, mask, metal = plate()
    picture[metal] = 0.05
    done = [paint(np.random.default_rng(seed), picture, mask, "pit", 0.1, 0.6, (0.05, 0.8)) for seed in range(12)]
    assert all((d.picture >= picture).all() and (d.picture - picture).max() > 0.4 for d in done)


def test_values_stay_physical():
    rng = np.random.default_rng(2)
    picture = rng.uniform(0.0, 1.0, (120, 200)).astype(np.float32)
    for seed in range(12):
        done = paint(np.random.default_rng(seed), picture, np.ones_like(picture, bool), "pit", 0.1, 1.0, (0.3, 0.7))
        changed = done.picture[done.mask]
        assert changed.min() >= 0.0
        assert changed.max() <= max(0.8 + 1e-6, picture.max())


@pytest.mark.parametrize("size", SIZES)
def test_a_missing_piece_is_a_bite_out_of_the_outer_edge(size):
    picture, mask, metal = plate()
    asked = size * part_size(mask)
    for seed in range(16):
        done = paint(np.random.default_rng(seed), picture, mask, "missing", size, None, SPAN)
        lost = metal & (done.picture > 0.5 * (METAL + GROUND) + 0.05)
        assert 0.15 * asked**2 < lost.sum() < 0.9 * asked**2
        assert np.hypot(*(np.argwhere(lost) - (80, 300)).T).min() > 40  # not out of the hole
        beyond = cv2.dilate((~metal).astype(np.uint8), np.ones((3, 3))) > 0
        assert (lost & beyond).any()
        assert longest(lost) < 1.25 * asked + 2


def test_a_bite_shows_the_shadow_beside_the_part():
    picture, mask, metal = plate()
    dim = np.where(metal, picture, picture - np.float32(0.15)).astype(np.float32)
    done = paint(np.random.default_rng(1), dim, mask, "missing", 0.1, None, SPAN)
    hole = cv2.erode((metal & done.mask).astype(np.uint8), np.ones((5, 5))) > 0
    assert np.allclose(done.picture[hole], 0.82, atol=0.05)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_texture_can_be_painted_anywhere(kind, channels):
    picture, mask = texture(channels)
    done = [paint(np.random.default_rng(seed), picture, mask, kind, 0.1, 0.6, SPAN) for seed in range(40)]
    assert all(d.mask.any() for d in done)
    centres = np.array([np.argwhere(d.mask).mean(0) for d in done])
    assert (np.ptp(centres, axis=0) > 0.6 * np.array(mask.shape)).all()


def test_missing_texture_is_a_smooth_patch_of_the_mean():
    picture, mask = texture(3)
    done = paint(np.random.default_rng(0), picture, mask, "missing", 0.1, None, SPAN)
    inner = cv2.erode(done.mask.astype(np.uint8), np.ones((5, 5))) > 0
    assert inner.sum() > 50
    assert np.allclose(done.picture[inner], picture.mean((0, 1)), atol=1e-6)


def test_colour_parts_are_tinted_now_and_then():
    picture = plate(3)[0]
    unequal = []
    for seed in range(24):
        difference = np.abs(painted(seed, "pit", channels=3).picture - picture).max((0, 1))
        assert difference.max() == pytest.approx(0.1, rel=0.05)  # the strongest channel has the contrast asked for
        unequal.append(bool(np.ptp(difference) > 0.005))
    assert 4 < sum(unequal) < 20


@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_decides_alone(kind):
    first, again, other = (painted(seed, kind) for seed in (4, 4, 5))
    assert np.array_equal(first.picture, again.picture)
    assert not np.array_equal(first.mask, other.mask)


@pytest.mark.parametrize("kind", KINDS)
def test_contrasts_share_their_place(kind):
    faint, strong = (painted(7, kind, contrast=contrast) for contrast in (0.1, 0.6))
    assert (faint.mask & strong.mask).sum() > 0.9 * strong.mask.sum()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pixels", [0, 1, 9])
def test_a_tiny_part_is_refused(kind, pixels):
    picture, mask = np.ones((32, 32), np.float32), np.zeros((32, 32), np.bool_)
    mask[0, :pixels] = True
    with pytest.raises(TooSmall, match=f"a {kind} of .* pixels"):
        paint(np.random.default_rng(0), picture, mask, kind, 0.1, 0.25, SPAN)


def test_bites_out_of_a_round_part_stay_in_the_mask():
    disc = cv2.circle(np.zeros((120, 120), np.uint8), (60, 60), 40, 1, cv2.FILLED)
    mask = cv2.dilate(disc, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))) > 0
    ground = np.random.default_rng(0).normal(GROUND, 0.01, disc.shape)
    picture = np.where(disc > 0, METAL, ground).astype(np.float32)
    for seed in range(20):
        done = paint(np.random.default_rng(seed), picture, mask, "missing", 0.2, None, SPAN)
        assert not (done.mask & ~mask).any()


def test_a_wire_is_too_narrow_for_a_pit_but_not_for_a_scratch():
    metal = np.zeros((60, 1000), np.uint8)
    metal[28:32, 20:980] = 1
    mask = cv2.dilate(metal, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (9, 9))) > 0
    picture = np.where(metal > 0, np.float32(METAL), np.float32(GROUND))
    with pytest.raises(TooSmall, match="too narrow"):
        paint(np.random.default_rng(0), picture, mask, "pit", 0.2, 0.25, SPAN)
    done = paint(np.random.default_rng(0), picture, mask, "scratch", 0.1, 0.25, SPAN)
    assert (done.mask & (metal > 0)).sum() > 0.9 * done.mask.sum()


def test_a_part_cut_by_the_frame_is_painted_within_it():
    picture, mask = np.full((64, 64), METAL, np.float32), np.ones((64, 64), np.bool_)
    picture[:, :20], mask[:, :16] = GROUND, False
    for seed in range(20):
        done = paint(np.random.default_rng(seed), picture, mask, KINDS[seed % 4], 0.2, 0.25, SPAN)
        assert done.mask.any()
        assert not (done.mask & ~mask).any()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"kind": "dent"}, "choose one of scratch, pit, smear, missing"),
        ({"span": (0.8, 0.8)}, "is no range"),
        ({"span": (np.nan, 0.8)}, "is no range"),
        ({"contrast": None}, "contrast None of a pit"),
        ({"contrast": 0.0}, "contrast 0.0 of a pit"),
        ({"mask": np.ones((3, 3), np.bool_)}, "does not fit"),
    ],
)
def test_arguments_are_checked(wrong, says):
    picture, mask, _ = plate()
    given = {"mask": mask, "kind": "pit", "size": 0.1, "contrast": 0.25, "span": SPAN, **wrong}
    with pytest.raises(ValueError, match=says):
        paint(np.random.default_rng(0), picture, **given)


def test_the_smallest_defect_of_a_long_part_is_about_one_cell():
    area = 0.45 * 320 * 1024  # a screw fills about this much of its canonical picture
    assert 6 < SIZES[0] * np.sqrt(area) < 10
    assert painting.SMALLEST < 6
