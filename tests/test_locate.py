"""The part is found by what differs from the background, whatever it is, and nothing else is taken for a part."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from line_worker.source.drawing import draw_part
from line_worker.vision.background import FIT_SIDE, background, deviation, fit_background, shrink
from line_worker.vision.locate import LOCATE_SIDE, locate

SIZE = (240, 320)
KINDS = ("bracket", "pin", "gear", "washer", "badge")


def draw(seed: int, kind: str = "bracket", **options):
    return draw_part(np.random.default_rng(seed), kind, **{"size": SIZE, **options})


def flat(level: int, shape: tuple[int, ...] = SIZE) -> np.ndarray:
    return np.full(shape, level, np.uint8)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"colour": True}, {"bits": 16}, {"dark": True}], ids=str)
def test_every_kind_of_part_is_found_where_it_is(kind, options):
    for seed in range(6):
        drawn = draw(seed, kind, **options)
        found = locate(drawn.image)
        assert found.found, found.why
        reach = 0.36 * SIZE[0]
        assert np.hypot(*(np.array(found.centre) - drawn.matrix[:, 2])) < 0.5 * reach
        assert 0.08 * reach**2 < found.area < np.pi * reach**2
        assert found.mask.shape == found.deviation.shape
        assert max(found.mask.shape) == LOCATE_SIDE


def test_the_mask_is_the_part_without_its_shadow():
    """A rectangle whose shadow is as wide as itself: area, centre, angle and elongation are the rectangle's."""
    image = np.full((480, 640), 200, np.float32)
    corners = cv2.boxPoints(((300, 250), (240, 80), 30))
    shadow = np.zeros_like(image)
    cv2.fillPoly(shadow, [np.int32(corners + 25)], 1.0)
    image -= 36 * cv2.GaussianBlur(shadow, (0, 0), 14)
    cv2.fillPoly(image, [np.int32(np.round(corners))], 90.0)
    found = locate(image.astype(np.uint8))
    assert found.found
    assert 240 * 80 < found.area < 245 * 90  # the mask has a rim of about a map pixel, 2.5 of the image's
    assert found.centre == pytest.approx((300, 250), abs=3)
    assert np.rad2deg(found.angle) == pytest.approx(30, abs=1)
    assert found.elongation == pytest.approx(245 / 87, rel=0.05)


@pytest.mark.parametrize("scale", [0.5, 1, 4])
def test_geometry_is_in_pixels_of_the_image_as_given(scale):
    image = flat(200, (480, 640))
    cv2.rectangle(image, (200, 180), (299, 239), 60, -1)  # x 200..299, y 180..239: centre (249.5, 209.5)
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else 0)
    found = locate(image)
    assert found.centre == pytest.approx((250 * scale - 0.5, 210 * scale - 0.5), abs=0.8 * scale)
    assert 6000 * scale**2 < found.area < 106 * 66 * scale**2 * 1.1  # a rim of a map pixel, 2.5 at scale 1
    assert found.shape == image.shape


def test_why_nothing_is_found():
    one, two = flat(200), flat(200)
    noise = np.random.default_rng(0).normal(128, 20, SIZE).clip(0, 255).astype(np.uint8)
    cv2.circle(two, (80, 120), 30, 60, -1)
    cv2.circle(two, (240, 120), 30, 60, -1)
    beam = flat(200)
    beam[40:220] = 60
    speck = flat(200)
    speck[100:104, 100:104] = 60
    ramp = np.tile(np.linspace(60, 220, SIZE[1]).astype(np.uint8), (SIZE[0], 1))
    for image, why in (
        (one, "nothing stands out"),
        (flat(0), "nothing stands out"),
        (flat(255), "nothing stands out"),
        (ramp, "nothing stands out"),
        (noise, "nothing stands out"),
        (two, "several things"),
        (beam, "border"),
        (speck, "fills 0.1%"),
    ):
        found = locate(image)
        assert not found.found
        assert why in found.why


def test_texture_is_no_part_but_the_whole_frame():
    weave = draw(0, "weave").image
    assert not locate(weave).found
    whole = locate(weave, "full")
    assert whole.found
    assert whole.mask.all()
    assert whole.area == SIZE[0] * SIZE[1]
    assert whole.centre == (159.5, 119.5)


def test_eight_and_sixteen_bits_and_a_twelve_bit_camera_agree():
    eight, sixteen = locate(draw(3).image), locate(draw(3, bits=16).image)
    twelve = locate(draw(3, bits=16).image >> 4, white=4095.0)
    for other in (sixteen, twelve):
        assert other.centre == pytest.approx(eight.centre, abs=0.2)
        assert other.area == pytest.approx(eight.area, rel=0.01)
        assert np.abs(other.signed - eight.signed).max() < 0.02


def test_a_large_part_does_not_bend_the_background():
    """Strong fall-off of the light and a part on a third of the frame: the fitted surface is the light alone."""
    y, x = np.mgrid[-1:1:480j, -1:1:640j]
    light = 190 * (1 + 0.12 * x + 0.08 * y - 0.06 * x * x - 0.05 * y * y)
    image = light.copy()
    cv2.circle(image, (320, 240), 185, 0.0, -1)
    disc = image == 0
    image[disc] = 0.75 * light[disc]
    fitted = background(fit_background(shrink(image.astype(np.uint8), FIT_SIDE)[0]), 480, 640)[..., 0]
    assert np.abs(fitted - light).max() < 1.5


def test_deviation_is_relative_on_bright_and_absolute_on_dark_backgrounds():
    for level, step, want in ((200, -50, -0.25), (100, -25, -0.25), (16, 32, 0.5)):
        image = flat(level, (64, 64))
        image[24:40, 24:40] += np.uint8(step % 256)
        signed, away = deviation(image, fit_background(image))
        assert signed[32, 32] == pytest.approx(want, abs=0.02)
        assert away[32, 32] == abs(signed[32, 32])
        assert away[5, 5] < 0.02


def test_odd_pictures_are_never_an_exception():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (2, 2), (3, 50), (8, 8), (10, 2000), (2000, 10), (31, 33, 3)):
        for dtype in (np.uint8, np.uint16):
            for image in (np.zeros(shape, dtype), rng.integers(0, 256, shape).astype(dtype)):
                assert locate(image).shape == shape[:2]
