"""Drawn parts: the truth that comes with each picture is true, and defects are where it says."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest

from line_worker.errors import ConfigError
from line_worker.source.drawing import DEFECTS, KINDS, draw_part

SIZE = (240, 320)


def draw(seed: int, *args, **options):
    return draw_part(np.random.default_rng(seed), *args, **{"size": SIZE, **options})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_shape_type_and_determinism(kind, colour, bits):
    a, b = (draw(5, kind, "scratch", colour=colour, bits=bits) for _ in range(2))
    assert a.image.shape == ((*SIZE, 3) if colour else SIZE)
    assert a.image.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert np.array_equal(a.image, b.image)
    assert np.array_equal(a.mask, b.mask)
    assert not np.array_equal(a.image, draw(6, kind, "scratch", colour=colour, bits=bits).image)


def test_sixteen_bits_show_the_same_part():
    eight, sixteen = draw(1).image, draw(1, bits=16).image
    assert np.abs(sixteen / 257 - eight).max() <= 0.51


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_visible_where_the_mask_says_and_nowhere_else(kind, defect):
    for seed in range(3):
        bad = draw(seed, kind, defect, pose="none")
        # the same part without its defect: same seed, so the same surface, place and light
        good = draw(seed, kind, pose="none")
        change = cv2.blur(np.abs(bad.image.astype(np.float32) - good.image), (5, 5))
        assert 8 < bad.mask.sum() < (0.2 if kind == "weave" else 0.06) * bad.mask.size
        assert change[bad.mask].mean() > 2.5 * change[~bad.mask].mean()
        assert bad.defect == defect


@pytest.mark.parametrize("kind", KINDS)
def test_good_parts_have_no_defect_and_differ_a_little(kind):
    one, other = (draw(seed, kind, pose="none") for seed in (0, 1))
    assert one.defect == ""
    assert not one.mask.any()
    difference = np.abs(one.image.astype(int) - other.image)
    assert 0 < difference.mean() < 16


def on_canvas(drawn) -> np.ndarray:
    """Bring a picture back into part coordinates by its matrix."""
    to_part = drawn.matrix.copy()
    to_part[:, 2] += to_part[:, :2] @ [-90, -90]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    straight = cv2.warpAffine(drawn.image, to_part, (181, 181), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return cv2.GaussianBlur(straight.astype(np.float32), (0, 0), 1)


@pytest.mark.parametrize("kind", ["bracket", "pin", "gear", "badge"])
def test_the_matrix_is_the_pose(kind):
    window = cv2.createHanningWindow((181, 181), cv2.CV_32F)
    still = on_canvas(draw(0, kind, pose="none"))
    for seed in range(1, 5):
        other = on_canvas(draw(seed, kind))
        shift, _ = cv2.phaseCorrelate(still, other, window)
        assert np.hypot(*shift) < 0.35
        difference = np.abs(still - other)[8:-8, 8:-8]
        assert difference.mean() < 0.6 * np.abs(still - np.rot90(other))[8:-8, 8:-8].mean()


def test_pose_none_and_translate_do_what_they_say():
    still, moved, turned = ([draw(s, pose=pose).matrix for s in range(8)] for pose in ("none", "translate", "rigid"))
    assert np.ptp(still, axis=0).max() == 0
    assert np.ptp(moved, axis=0)[:, :2].max() == 0
    assert np.ptp(moved, axis=0)[:, 2].min() > 5
    assert np.ptp(turned, axis=0)[0, 0] > 0.5
    assert np.allclose([np.linalg.det(m[:, :2]) for m in turned], 1)


def test_parts_leave_a_border_of_background():
    for kind in set(KINDS) - {"weave"}:
        for seed in range(12):
            image = draw(seed, kind).image
            border = np.concatenate(
                [image[:8].ravel(), image[-8:].ravel(), image[:, :8].ravel(), image[:, -8:].ravel()]
            )
            assert border.min() > 140


def test_a_dark_mat_is_dark():
    assert np.median(draw(0, dark=True).image) < 30 < 150 < np.median(draw(0).image)


def test_unknown_words_are_listed_all_at_once():
    with pytest.raises(ConfigError) as caught:
        draw(0, "screw", "rust")
    assert len(caught.value.problems) == 2
    assert "bracket" in str(caught.value)
    assert "scratch" in str(caught.value)


def test_drawing_needs_no_torch():
    code = "import sys, line_worker.source.drawing; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
