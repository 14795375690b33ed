"""How a part is located and posed is chosen from the good images alone, with figures for the report."""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest

from calib.choosing import Chosen, choose, direction_agreement, unlikeness
from line_worker.errors import ConfigError, DatasetError
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision.rectify import Rectifier
from line_worker.vision.template import look

SIZE = (120, 160)
SCALE = 8  # shapes are drawn larger and averaged down: a part may lie at any fraction of a pixel


def drawn(kind: str, count: int = 10, **options) -> list[np.ndarray]:
    return [draw_part(np.random.default_rng(seed), kind, **{"size": SIZE, **options}).image for seed in range(count)]


def polygon(corners: int, radius: float) -> np.ndarray:
    angle = np.arange(corners) * 2 * np.pi / corners
    return radius * np.stack([np.cos(angle), np.sin(angle)], -1)


def box(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])


def disc(rng) -> list:
    return [(polygon(90, 34), 105), (polygon(90, 17), 80)]


def nut(rng) -> list:
    return [(polygon(6, 36), 105), (polygon(60, 17), None)]


def rod(rng) -> list:
    return [(box(-40, -4, 40, 4), 105), (box(-40, -9, -30, 9), 95)]


def sign(rng) -> list:
    """A plate on which only what is written tells the direction."""
    letters = box(-30, -10, -24, 10), box(-30, 5, -12, 10), box(5, -9, 11, 9)
    return [(box(-38, -17, 38, 17), 110), *((letter, 60) for letter in letters)]


def berry(rng) -> list:
    """A roundish outline that varies by a twentieth, and nothing that tells the direction."""
    angle = np.arange(90) * 2 * np.pi / 90
    bumps = sum(rng.normal(0, 0.025) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in range(2, 6))
    return [(polygon(90, 29) * (1 + bumps)[:, None], 105)]


def photograph(pieces, rng, turn: float, shift, bright: bool = False) -> np.ndarray:
    """Return (H, W) uint8: pieces turned and shifted on a plain mat, lit from one side, with shadow and noise."""
    c, s = np.cos(turn), np.sin(turn)
    middle = (np.array(SIZE[::-1]) - 1) / 2 + shift
    cover, level = np.zeros((2, SIZE[0] * SCALE, SIZE[1] * SCALE), np.float32)
    for points, value in pieces:
        where = [np.round((points @ [[c, s], [-s, c]] + middle + 0.5) * SCALE).astype(np.int32)]
        cv2.fillPoly(cover, where, 0.0 if value is None else 1.0)
        cv2.fillPoly(level, where, float(value or 0) * (1.9 if bright else 1))
    cover, level = (cv2.resize(plane, SIZE[::-1], interpolation=cv2.INTER_AREA) for plane in (cover, level))
    relief = cv2.GaussianBlur(cover, (0, 0), 1)
    lit = 0.2 * (cv2.Sobel(relief, cv2.CV_32F, 1, 0) + cv2.Sobel(relief, cv2.CV_32F, 0, 1)).clip(-1, 1)
    shadow = cv2.GaussianBlur(np.roll(cover, (1, 1), (0, 1)), (0, 0), 1.5)
    mat = 25 if bright else 190
    picture = (level * (1 + lit) + (1 - cover) * mat * (1 - 0.2 * shadow)) * (1 + rng.normal(0, 0.015))
    grain = cv2.GaussianBlur(rng.standard_normal(SIZE), (0, 0), 1) * 5 * cover
    return np.rint(picture + grain + rng.normal(0, 1.5, SIZE)).clip(0, 255).astype(np.uint8)


def shaped(shape, count: int = 10, turns: float = np.pi, moves: float = 8, bright: bool = False) -> list[np.ndarray]:
    images = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        pieces, turn, shift = shape(rng), rng.uniform(-turns, turns), rng.uniform(-moves, moves, 2)
        images.append(photograph(pieces, rng, turn, shift, bright))
    return images


def chosen(images, locate: str = "auto", pose: str = "auto", progress=lambda _: None) -> Chosen:
    return choose(images, [f"{k}.png" for k in range(len(images))], locate, pose, progress)


@pytest.mark.parametrize("pose", ["none", "translate", "rigid"])
def test_drawn_parts_get_the_pose_that_they_were_drawn_in(pose):
    got = chosen(drawn("bracket", pose=pose, colour=pose == "none", dark=pose == "translate"))
    assert (got.locate, got.pose) == ("background", pose)
    assert "10 of 10" in got.why[0]
    assert got.why[1].startswith(f"pose {pose}: ")
    assert all(f"with {tried}" in got.why[1] for tried in ("none", "translate", "rigid"))


def test_round_parts_are_not_turned():
    got = chosen(shaped(disc))
    assert (got.locate, got.pose) == ("background", "translate")


def test_symmetric_parts_are():
    got = chosen(shaped(nut, bright=True))
    assert (got.locate, got.pose) == ("background", "rigid")


def test_what_has_no_direction_gets_none_drawn_by_its_outline():
    got = chosen(shaped(berry))
    assert (got.locate, got.pose) == ("background", "translate")
    assert "do not agree on directions" in got.why[1]


def test_a_few_degrees_are_a_turn_if_the_picture_shows_them():
    assert chosen(shaped(rod, turns=0.05)).pose == "rigid"
    assert chosen(shaped(rod, turns=0.001)).pose == "translate"


def test_templates_learned_apart_agree_on_the_direction_of_what_has_one():
    def agreement(shape):
        return direction_agreement([look(image, 255.0) for image in shaped(shape)])

    assert agreement(rod) < 0.5
    assert agreement(disc) is None


def test_what_is_written_on_a_bright_part_tells_its_direction():
    """On a dark background every bright place is far from it; the plate itself may lie either way round."""
    rectifier = Rectifier.learn(shaped(sign, bright=True), locate="background", pose="rigid")
    rng = np.random.default_rng(99)
    for degrees in range(0, 360, 40):
        image = photograph(sign(rng), rng, np.deg2rad(degrees), (0, 0), bright=True)
        got = rectifier.rectify(image)
        assert got.reason is Reason.NONE
        assert np.corrcoef(got.canonical[rectifier.template_mask], rectifier.mean[rectifier.template_mask])[0, 1] > 0.97


def test_full_where_no_part_lies_on_a_background():
    got = chosen(drawn("weave"))
    assert (got.locate, got.pose) == ("full", "none")
    assert "10 of 10 good images show no single part" in got.why[0]
    assert got.rectifier.template_mask.all()


def test_full_where_the_frame_cuts_the_part():
    """A strip from the upper to the lower edge stands out from the background, but its ends cannot be seen."""
    images = []
    for seed in range(10):
        rng = np.random.default_rng(seed)
        image = np.full(SIZE, 190.0)
        image[:, 60:100] = 90 + 20 * np.sin(np.arange(SIZE[0]) / 2)[:, None]
        images.append((image + rng.normal(0, 2, SIZE)).astype(np.uint8))
    got = chosen(images)
    assert (got.locate, got.pose) == ("full", "none")
    assert "the frame cuts" in got.why[0]


def test_full_where_good_parts_do_not_look_alike():
    images = [image for kind in ("bracket", "pin", "gear", "badge") for image in drawn(kind, 3)]
    got = chosen(images)
    assert (got.locate, got.pose) == ("full", "none")
    assert got.why[0].startswith("locate full: the good parts do not look alike (")
    got = chosen(images, "background")  # as asked; a part that cannot be posed may still lie in its place
    assert (got.locate, got.pose) == ("background", "none")


def two_parts(image: np.ndarray) -> np.ndarray:
    half = cv2.resize(image, (SIZE[1] // 2, SIZE[0] // 2))
    mat = np.full_like(image, 190)
    mat[30:90, :80], mat[30:90, 80:] = half, half
    return mat


def cut(image: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(image, np.array([[1.0, 0, 75], [0, 1, 0]]), SIZE[::-1], borderMode=cv2.BORDER_REPLICATE)


@pytest.mark.parametrize("spoil", [two_parts, cut, np.zeros_like, lambda image: np.full_like(image, 190)])
def test_odd_images_are_refused_for_a_reason(spoil):
    odd = spoil(drawn("bracket", pose="translate")[3])
    assert bracket().rectify(odd).reason in (Reason.NO_OBJECT, Reason.POSE)


def test_one_odd_image_in_ten_changes_nothing_but_more_leave_full():
    images = drawn("bracket", pose="translate")
    images[3] = two_parts(images[3])
    got = chosen(images)
    assert (got.locate, got.pose) == ("background", "translate")
    assert "9 of 10" in got.why[0]
    images[5], images[6] = np.zeros_like(images[5]), np.full_like(images[6], 190)
    got = chosen(images)
    assert got.locate == "full"
    assert "3 of 10 good images show no single part" in got.why[0]
    with pytest.raises(DatasetError, match=r"3 of 10 good images show no single part.*3\.png, 5\.png, 6\.png"):
        chosen(images, "background")


@functools.cache
def bracket() -> Rectifier:
    return Rectifier.learn(drawn("bracket", pose="translate"), locate="background", pose="translate")


def test_what_is_asked_for_is_done():
    images = drawn("bracket", 5, pose="none")
    got = chosen(images, pose="translate")
    assert (got.locate, got.pose) == ("background", "translate")
    assert got.why[1] == "pose translate, as asked."
    got = chosen(images, "background")
    assert (got.locate, got.pose) == ("background", "none")
    assert "as asked" in got.why[0]
    got = chosen(images, "full")
    assert (got.locate, got.pose) == ("full", "none")
    assert got.rectifier.placer is None


def test_errors_stay_as_they_are():
    images = drawn("weave")
    with pytest.raises(ConfigError, match="pose rigid needs a located part"):
        chosen(images, "full", "rigid")
    with pytest.raises(DatasetError, match="10 of 10 good images show no single part"):
        chosen(images, "background")
    with pytest.raises(DatasetError, match="10 of 10 good images show no single part"):
        chosen(images, pose="rigid")
    with pytest.raises(DatasetError, match=r"1 of 10 good images are not .*: 7\.png"):
        chosen([image[:-1] if k == 7 else image for k, image in enumerate(images)])
    with pytest.raises(DatasetError, match="too few"):
        chosen(images[:1])


def test_the_rectifier_is_the_one_that_learning_gives():
    images = drawn("bracket", pose="translate")
    got, want = chosen(images, pose="translate").rectifier, bracket()
    assert got.meta() == want.meta()
    assert all(np.array_equal(got.state()[name], array) for name, array in want.state().items())


def test_unlikeness_is_the_difference_from_the_mean_part():
    """Half of the parts are darker by a tenth of the background: all are a twentieth away from the mean."""
    images = [np.full(SIZE, 200, np.uint8) for _ in range(4)]
    for k, image in enumerate(images):
        image[40:80, 50:110] = 80 + 20 * (k % 2)
    rectifier = Rectifier.learn(images, locate="background", pose="none")
    assert unlikeness(rectifier, images) == pytest.approx(0.05, rel=0.1)


def test_progress_grows_to_the_end():
    told: list[float] = []
    chosen(drawn("bracket", 4), progress=told.append)
    assert told == sorted(told)
    assert told[-1] == pytest.approx(1)
    assert len(told) > 10
