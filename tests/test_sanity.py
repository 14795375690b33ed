"""A station that goes blind is found out, by its reason; good parts and defective ones are seen as before."""

from __future__ import annotations

import functools
import json
import math
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from line_worker.images import read_image
from line_worker.source.drawing import DEFECTS, draw_part
from line_worker.verdicts import Reason
from line_worker.vision.rectify import Rectifier
from line_worker.vision.sanity import Commissioned, Measures, measure

SCREW = Path(__file__).parents[2] / "shared" / "data" / "screw"
GOOD = Measures(exposure=0.7, dark=0.0, bright=0.01, focus=1.2)


class Station(NamedTuple):
    """A kind of part drawn one way, what was learned from 16 good images of it, and what they measured."""

    kind: str
    options: dict
    rectifier: Rectifier
    commissioned: Commissioned

    def draw(self, seed: int, defect: str = "") -> np.ndarray:
        return draw_part(np.random.default_rng(seed), self.kind, defect, **self.options).image

    def measure(self, image: np.ndarray) -> Measures:
        return measured(self.rectifier, image)

    def check(self, image: np.ndarray) -> Reason:
        return self.commissioned.check(self.measure(image))


def measured(rectifier: Rectifier, image: np.ndarray) -> Measures:
    return measure(image, rectifier.rectify(image).canonical, rectifier.template_mask, rectifier.frame.white)


@functools.cache
def commission(kind: str, **options) -> Station:
    locate, pose = ("full", "none") if kind == "weave" else ("background", "rigid")
    images = [draw_part(np.random.default_rng(seed), kind, **options).image for seed in range(16)]
    rectifier = Rectifier.learn(images[:6], locate=locate, pose=pose)
    commissioned = Commissioned.of([measured(rectifier, image) for image in images])
    return Station(kind, options, rectifier, commissioned)


STATIONS = {
    "bracket": ("bracket", {}),
    "pin": ("pin", {}),
    "gear 16 bit": ("gear", {"bits": 16}),
    "badge colour": ("badge", {"colour": True}),
    "bracket dark": ("bracket", {"dark": True}),
    "weave": ("weave", {}),
}


@pytest.fixture(params=STATIONS)
def station(request) -> Station:
    kind, options = STATIONS[request.param]
    return commission(kind, **options)


def exposed(image: np.ndarray, factor: float) -> np.ndarray:
    """Return what a sensor makes of `factor` times the light: clipped at full scale."""
    return np.clip(image * factor, 0, np.iinfo(image.dtype).max).astype(image.dtype)


def test_good_parts_are_seen_as_good(station):
    assert [station.check(station.draw(seed)) for seed in range(100, 105)] == [Reason.NONE] * 5


def test_defects_are_left_to_the_score(station):
    seen = {(d, seed): station.check(station.draw(seed, d)) for d in DEFECTS for seed in (200, 201)}
    assert set(seen.values()) == {Reason.NONE}, seen


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_half_and_double_exposure_are_refused(station, factor):
    for seed in (300, 301):
        assert station.check(exposed(station.draw(seed), factor)) is Reason.EXPOSURE


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_lamp_may_age_a_little(station, factor):
    assert station.check(exposed(station.draw(310), factor)) is Reason.NONE


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_covered_lens_and_a_blown_out_frame_are_refused(station, level):
    image = station.draw(320)
    frame = np.full_like(image, int(level * np.iinfo(image.dtype).max))
    assert station.check(frame) is Reason.EXPOSURE
    seen = station.measure(frame)
    assert (seen.dark, seen.bright) == (1 - level, level)


def test_a_blurred_picture_is_refused_and_a_slightly_soft_one_is_not(station):
    for seed in (400, 401):
        image = station.draw(seed)
        assert station.check(cv2.GaussianBlur(image, (0, 0), 0.5)) is Reason.NONE
        assert station.check(cv2.GaussianBlur(image, (0, 0), 3)) is Reason.FOCUS


@pytest.mark.parametrize("kind", ["bracket", "weave"])
def test_noise_does_not_hide_a_lens_out_of_focus(kind):
    """A lens blurs the scene, not the sensor's noise, which has as much fine structure as the part."""
    station = commission(kind)
    for seed in (410, 411):
        soft = cv2.GaussianBlur(station.draw(seed), (0, 0), 3).astype(np.float32)
        noisy = soft + np.random.default_rng(seed).normal(0, 2.5, soft.shape)
        assert station.check(np.clip(np.rint(noisy), 0, 255).astype(np.uint8)) is Reason.FOCUS


def test_a_blank_sheet_of_the_right_brightness_has_no_focus():
    station = commission("weave")
    level = round(255 * float(np.mean(station.commissioned.exposure)))
    seen = station.measure(np.full_like(station.draw(0), level))
    assert seen.focus == 0
    assert station.commissioned.check(seen) is Reason.FOCUS


@pytest.mark.parametrize("factor", [0.6, 1.25])
def test_focus_does_not_depend_on_exposure(factor):
    station = commission("bracket")
    image = station.draw(420)
    plain, other = station.measure(image), station.measure(exposed(image, factor))
    assert other.focus == pytest.approx(plain.focus, rel=0.05)
    assert other.exposure == pytest.approx(factor * plain.exposure, rel=0.02)


@pytest.mark.parametrize("level", [0, 255])
def test_a_frame_with_a_part_missing_or_blinded_is_refused(level):
    """A transfer that stopped or a reflection: the median of the frame does not see it."""
    station = commission("weave")
    image = station.draw(430)
    image[-image.shape[0] // 6 :] = level
    seen = station.measure(image)
    assert station.commissioned.exposure[0] < seen.exposure < station.commissioned.exposure[1]
    assert station.commissioned.check(seen) is Reason.EXPOSURE


def test_exposure_is_that_of_the_background_and_on_a_dark_mat_that_of_the_part():
    mask = np.zeros((64, 96), np.bool_)
    mask[16:48, 16:80] = True
    for ground, part in ((200, 60), (20, 120), (0, 120)):
        frame = np.full((256, 256), ground, np.uint8)
        canonical = np.where(mask, 1 + (part - ground) / max(ground, 64), 1).astype(np.float32)
        assert measure(frame, canonical, mask, 255).exposure == pytest.approx(max(ground, part) / 255, abs=1e-4)


def test_a_colour_frame_is_clipped_where_its_brightest_channel_is():
    frame = np.zeros((64, 64, 3), np.uint8)
    frame[:16, :, 2], frame[16:32, :, 0] = 255, 90
    seen = measure(frame, frame.astype(np.float32) / 255, np.ones((64, 64), np.bool_), 255)
    assert (seen.bright, seen.dark) == (0.25, 0.5)


def test_focus_is_one_for_step_edges_and_little_depends_on_one_defect():
    columns = np.arange(256) // 16 % 2 * 0.5
    canonical = np.tile(columns, (128, 1)).astype(np.float32)
    canonical = np.roll(canonical, 3, 1)  # an edge inside every block
    frame, mask = np.full((64, 64), 128, np.uint8), np.ones(canonical.shape, np.bool_)
    seen = measure(frame, canonical, mask, 255)
    assert seen.focus == pytest.approx(1, rel=0.4)
    scratched = canonical.copy()
    scratched[40:44, 40:200] += np.random.default_rng(0).normal(0, 0.3, (4, 160)).astype(np.float32)
    assert measure(frame, scratched, mask, 255).focus == pytest.approx(seen.focus, rel=0.2)


def test_a_part_thinner_than_a_block_has_focus():
    canonical, mask = np.ones((64, 256), np.float32), np.zeros((64, 256), np.bool_)
    mask[28:33] = True
    canonical[30, ::4] = 0.5
    assert measure(np.full((64, 256), 200, np.uint8), canonical, mask, 255).focus > 1


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (33, 17), (75, 130)])
def test_pictures_of_any_size_are_measured(shape):
    frame = np.random.default_rng(0).integers(60, 200, shape).astype(np.uint8)
    seen = measure(frame, frame.astype(np.float32) / 255, np.ones(shape, np.bool_), 255)
    assert all(math.isfinite(value) for value in seen)


def test_ranges_are_finite_and_hold_what_they_were_made_from(station):
    assert all(math.isfinite(limit) for limits in station.commissioned for limit in limits)
    low, high = station.commissioned.focus
    assert 0 < low < high
    assert station.commissioned.exposure[0] > 0


@pytest.mark.parametrize("count", [2, 20])
def test_few_images_that_agree_leave_the_least_room_not_none(count):
    ranges = Commissioned.of([GOOD] * count)
    assert ranges.exposure == pytest.approx((0.7 * math.exp(-0.2), 0.7 * math.exp(0.2)))
    assert ranges.bright == pytest.approx((0, 0.11))
    assert ranges.focus[0] == pytest.approx(1.2 * math.exp(-0.3))


def test_a_black_frame_among_the_good_images_does_not_open_the_ranges():
    rng = np.random.default_rng(3)
    good = [GOOD._replace(exposure=0.7 + e, focus=1.2 + f) for e, f in rng.normal(0, (0.01, 0.03), (20, 2))]
    for ranges in (Commissioned.of(good), Commissioned.of([*good, Measures(0.0, 1.0, 0.0, 0.0)])):
        assert ranges.check(GOOD) is Reason.NONE
        assert ranges.check(GOOD._replace(exposure=0.45)) is Reason.EXPOSURE
        assert ranges.check(GOOD._replace(dark=0.3)) is Reason.EXPOSURE
        assert ranges.check(GOOD._replace(focus=0.6)) is Reason.FOCUS


def test_two_lamps_are_both_commissioned():
    ranges = Commissioned.of([GOOD] * 15 + [GOOD._replace(exposure=0.5)] * 5)
    assert ranges.check(GOOD) is ranges.check(GOOD._replace(exposure=0.5)) is Reason.NONE


def test_however_much_good_images_vary_darkness_is_refused():
    ranges = Commissioned.of([GOOD._replace(exposure=e, focus=e) for e in np.linspace(0.1, 0.9, 20)])
    assert ranges.check(GOOD._replace(exposure=0.0)) is Reason.EXPOSURE
    assert ranges.check(GOOD._replace(focus=0.0)) is Reason.FOCUS


def test_exposure_is_named_before_focus_and_sharper_is_no_fault():
    ranges = Commissioned.of([GOOD] * 20)
    assert ranges.check(GOOD._replace(exposure=0.1, focus=0.1)) is Reason.EXPOSURE
    assert ranges.check(GOOD._replace(focus=3 * GOOD.focus)) is Reason.NONE
    assert ranges.check(GOOD._replace(dark=0.0, bright=0.0)) is Reason.NONE


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("name", "reason"),
    [("exposure", "EXPOSURE"), ("dark", "EXPOSURE"), ("bright", "EXPOSURE"), ("focus", "FOCUS")],
)
def test_a_measure_that_is_not_finite_never_passes(name, reason, bad):
    everything = Commissioned(*[(-math.inf, math.inf)] * 4)
    assert everything.check(GOOD) is Reason.NONE
    assert everything.check(GOOD._replace(**{name: bad})) is Reason[reason]
    assert Commissioned.of([GOOD] * 20)._replace(**{name: (math.nan, math.nan)}).check(GOOD) is Reason[reason]


def test_a_canonical_picture_with_a_hole_of_nan_never_passes():
    station = commission("bracket")
    image = station.draw(440)
    canonical = station.rectifier.rectify(image).canonical.copy()
    middle = tuple(slice(side // 3, 2 * side // 3) for side in canonical.shape)
    canonical[middle] = np.nan
    seen = measure(image, canonical, station.rectifier.template_mask, 255)
    assert station.commissioned.check(seen) in (Reason.EXPOSURE, Reason.FOCUS)


def test_ranges_come_back_from_json(station):
    again = Commissioned.from_meta(json.loads(json.dumps(station.commissioned.meta(), allow_nan=False)))
    assert again == station.commissioned
    assert type(again.focus) is tuple


@pytest.mark.parametrize(
    "change", [{"focus": None}, {"focus": [1.0]}, {"focus": [1.0, 2.0, 3.0]}, {"dark": ["low", "high"]}], ids=str
)
def test_damaged_ranges_are_refused(change):
    with pytest.raises((TypeError, ValueError)):
        Commissioned.from_meta(Commissioned.of([GOOD]).meta() | change)
    with pytest.raises(KeyError):
        Commissioned.from_meta({})


@pytest.mark.parametrize("measures", [[], [GOOD, GOOD._replace(focus=math.nan)]], ids=["none", "nan"])
def test_ranges_are_not_made_from_nothing_or_nan(measures):
    with pytest.raises(ValueError, match="finite"):
        Commissioned.of(measures)


@pytest.mark.data
@pytest.mark.skipif(not SCREW.is_dir(), reason="the screw images are not beside the checkout (../shared/data/screw)")
def test_screws_good_and_bad_are_inside_ranges_from_sixteen():
    """Their backgrounds differ by a fifth, and good ones of the test set are darker than most."""
    learn = [read_image(file) for file in sorted((SCREW / "train" / "good").iterdir())[::20]]
    rectifier = Rectifier.learn(learn[::2], locate="background", pose="rigid")
    ranges = Commissioned.of([measured(rectifier, image) for image in learn])
    for file in sorted((SCREW / "test").glob("*/*.webp"))[::13]:
        image = read_image(file)
        assert ranges.check(measured(rectifier, image)) is Reason.NONE
        assert ranges.check(measured(rectifier, cv2.GaussianBlur(image, (0, 0), 3))) is Reason.FOCUS
