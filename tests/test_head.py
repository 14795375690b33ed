"""The trained network finds parts where no background can be fitted, and says that there is none when there is none.

Parts lie on a slatted belt, with a bolt head at the border: a pattern with edges everywhere, and a second thing.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest
import torch

from calib import head as training
from calib.choosing import choose
from calib.examples import Example, emptied
from calib.head import Taught, learn_head, teach
from line_worker.errors import DatasetError
from line_worker.source.drawing import draw_part
from line_worker.source.shapes import OUTLINES, paint
from line_worker.verdicts import Reason
from line_worker.vision.head import Head
from line_worker.vision.locate import LOCATE_SIDE, largest, locate
from line_worker.vision.rectify import Rectifier

SIZE = (160, 320)
STEPS = 110
BRIGHT, DARK = {}, {"colour": True, "dark": True, "bits": 16}


@pytest.fixture(autouse=True, scope="module")
def _briefly():
    patch = pytest.MonkeyPatch()
    patch.setattr(training, "STEPS", STEPS)
    yield
    patch.undo()


def cover(matrix: np.ndarray) -> np.ndarray:
    """Return how much of each pixel a bracket that lies as `matrix` says covers, (H, W) in 0..1."""
    alpha = paint(OUTLINES["bracket"](), 0.36 * min(SIZE), False).alpha
    middle = (np.array(alpha.shape[::-1]) - 1) / 2
    to_frame = np.hstack([matrix[:, :2], (matrix[:, 2] - matrix[:, :2] @ middle)[:, None]])
    return cv2.warpAffine(alpha, to_frame, SIZE[::-1])


def belt(rng, channels: int, dark: bool) -> np.ndarray:
    slats = np.where((np.arange(SIZE[1]) + rng.uniform(0, 16)) % 16 < 6, 0.25, 0.75) * (0.35 if dark else 1)
    scene = np.ones((*SIZE, channels), np.float32) * slats[None, :, None] * np.linspace(0.8, 1, channels)
    where = int(rng.uniform(10, SIZE[1] - 10)), int(rng.choice([6, SIZE[0] - 7]))
    return cv2.circle(scene.astype(np.float32), where, 14, [0.15] * channels, -1, cv2.LINE_AA).reshape(scene.shape)


def scene(seed: int, part: bool = True, colour: bool = False, dark: bool = False, bits: int = 8):
    """Return a picture of a bracket on the belt, or of the belt alone, and the bracket's mask without its holes."""
    rng = np.random.default_rng(seed)
    drawn = draw_part(rng, size=SIZE, colour=colour, dark=dark)
    alpha = cover(drawn.matrix) if part else np.zeros(SIZE, np.float32)
    metal = drawn.image.reshape(*SIZE, -1) / np.float32(255)
    ground = belt(rng, metal.shape[2], dark) * np.exp(rng.normal(0, 0.03))
    picture = ground + alpha[..., None] * (metal - ground) + rng.normal(0, 0.008, metal.shape)
    image = np.rint(np.clip(picture, 0, 1) * (2**bits - 1)).astype(f"uint{bits}")
    return image if colour else image[..., 0], largest((alpha > 0.5).astype(np.uint8))[0]


@functools.cache
def good(dark: bool = False) -> tuple[list[np.ndarray], list[np.ndarray]]:
    images, masks = zip(*(scene(seed, **(DARK if dark else BRIGHT)) for seed in range(24)), strict=True)
    return list(images), list(masks)


@functools.cache
def taught(dark: bool = False) -> Taught:
    images, masks = good(dark)
    smalls = [cv2.resize(mask.astype(np.float32), (LOCATE_SIDE, LOCATE_SIDE // 2)) for mask in masks]
    return learn_head(images, [f"{k}.png" for k in range(24)], smalls, 0, 2)


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


@pytest.mark.parametrize("dark", [False, True], ids=["bright gray", "dark colour 16 bit"])
def test_parts_are_found_on_a_patterned_belt_and_no_part_on_an_empty_one(dark):
    head, looks = taught(dark).head, DARK if dark else BRIGHT
    overlaps = []
    for seed in range(100, 112):
        image, mask = scene(seed, **looks)
        assert not locate(image).found
        found = locate(image, "head", head=head)
        assert found.found, found.why
        truth = cv2.resize(mask, found.mask.shape[::-1]) > 0
        overlaps.append(overlap(found.mask > 0, truth))
        assert head.least < mask.mean()
        rows, cols = np.nonzero(mask)
        assert np.hypot(found.centre[0] - cols.mean(), found.centre[1] - rows.mean()) < 8
        nothing = locate(scene(seed, part=False, **looks)[0], "head", head=head)
        assert not nothing.found
        assert nothing.why == "nothing looks like the part"
    assert np.median(overlaps) > 0.8


def test_exposure_does_not_matter():
    image, _ = scene(120)
    want = locate(image, "head", head=taught().head)
    for gain in (0.5, 0.7, 1.2):
        other = locate(np.clip(image * gain, 0, 255).astype(np.uint8), "head", head=taught().head)
        assert overlap(other.mask > 0, want.mask > 0) > 0.85


@pytest.mark.parametrize("level", [0, 40, 128, 255])
def test_a_picture_of_nothing_has_no_part(level):
    nothing = np.full(SIZE, level, np.uint8)
    noise = np.random.default_rng(level).normal(level, 3, SIZE).clip(0, 255).astype(np.uint8)
    assert not locate(nothing, "head", head=taught().head).found
    assert not locate(noise, "head", head=taught().head).found


def test_odd_pictures_are_never_an_exception():
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (3, 50), (8, 8), (10, 2000), (31, 33)):
        assert locate(rng.integers(0, 256, shape).astype(np.uint8), "head", head=Head(1)).shape == shape


@pytest.mark.parametrize("shape", [(1, 1), (8, 8)])
def test_a_network_that_knows_nothing_is_never_an_exception(shape):
    picture = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with torch.random.fork_rng():
        for seed in range(150):  # of some the pixels that are left do not tell a surface
            torch.manual_seed(seed)
            assert locate(picture, "head", head=Head(1)).shape == shape


def test_a_batch_is_each_of_its_pictures():
    head = taught().head
    pictures = torch.rand(3, 1, 90, 131, generator=torch.Generator().manual_seed(0)) * 255
    logits = head(pictures)
    assert logits.shape == (3, 1, 90, 131)
    for k in range(3):
        assert torch.allclose(head(pictures[k : k + 1])[0], logits[k], atol=1e-4)


def test_what_is_much_smaller_or_larger_than_the_part_is_none():
    class Sees:
        least, most = 0.02, 0.12

        def __init__(self, side: int) -> None:
            self.side = side

        def segment(self, picture):
            soft = np.zeros(picture.shape[:2], np.float32)
            soft[20 : 20 + self.side, 30 : 30 + self.side] = 0.9
            return soft

    image, _ = scene(0)
    assert locate(image, "head", head=Sees(22)).why == "nothing looks like the part"  # 22 * 22 of 256 * 128: 1.5 %
    assert locate(image, "head", head=Sees(70)).why == "what looks like the part fills 15.0% of the frame"
    found = locate(image, "head", head=Sees(30))
    assert found.found
    assert found.centre == pytest.approx((44.5 * 1.25 + 0.125, 34.5 * 1.25 + 0.125))
    assert found.area == pytest.approx(30 * 30 * 1.25**2)


def test_it_is_small_and_its_weights_make_it_again():
    head = taught(True).head
    assert 50_000 < sum(weight.numel() for weight in head.parameters()) < 110_000
    again = Head.restore(head.state(), head.meta())
    picture = np.random.default_rng(0).uniform(0, 255, (128, 256, 3)).astype(np.float32)
    assert np.array_equal(again.segment(picture), head.segment(picture))


def examples(count: int) -> list[Example]:
    images, masks = good()
    pairs = zip(images[:count], masks, strict=False)
    return [Example(image.astype(np.float32), mask.astype(np.float32)) for image, mask in pairs]


def test_the_same_seed_gives_the_same_network_whatever_the_threads():
    one, two, other = (teach(examples(6), seed, threads, 3).head.state() for seed, threads in ((1, 1), (1, 2), (2, 1)))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert not all(np.array_equal(one[name], other[name]) for name in one)


def test_a_part_is_painted_out_with_what_others_show_there():
    """A bright box that lies elsewhere in every picture, on stripes: what is left are the stripes."""
    stripes = np.tile(np.where(np.arange(96) % 12 < 6, 60.0, 160.0), (64, 1)).astype(np.float32)
    given = []
    for k in range(4):
        part = np.zeros((64, 96), np.float32)
        part[20:40, 5 + 22 * k : 20 + 22 * k] = 1
        given.append(Example(np.where(part > 0, 250, stripes).astype(np.float32), part))
    for one in emptied(given, np.random.default_rng(0)):
        assert not one.part.any()
        assert np.abs(one.picture - stripes).max() < 12


def test_a_part_that_always_covers_its_place_is_painted_out_with_the_fitted_background():
    part = np.zeros((64, 96), np.float32)
    part[20:40, 40:60] = 1
    light = np.tile(np.linspace(120, 200, 96), (64, 1)).astype(np.float32)
    given = [Example(np.where(part > 0, 30, light).astype(np.float32), part) for _ in range(3)]
    assert np.abs(emptied(given, np.random.default_rng(0))[0].picture - light).max() < 5


def test_held_out_agreement_is_told():
    got = taught()
    assert len(got.agreement.overlaps) == got.agreement.empty == 5
    words = got.words()
    assert "your masks" in words
    assert "5 good images" in words
    assert f"{np.median(got.agreement.overlaps):.3f}" in words
    assert f"in {got.agreement.ghosts} of 5 pictures" in words


def test_masks_that_mark_nothing_in_common_are_refused(monkeypatch):
    monkeypatch.setattr(training, "STEPS", 10)
    images, _ = good()
    rng = np.random.default_rng(0)
    masks = []
    for _ in images:
        x, y = rng.integers(0, 200), rng.integers(0, 80)
        masks.append(cv2.rectangle(np.zeros((128, 256), np.float32), (x, y), (x + 40, y + 30), 1.0, -1))
    with pytest.raises(DatasetError, match=r"does not learn to find the part.*needed 0.7"):
        learn_head(images, [f"{k}.png" for k in range(24)], masks, 0, 2)


def test_without_masks_the_background_must_show_the_parts():
    images, _ = good()
    names = [f"{k}.png" for k in range(24)]
    with pytest.raises(DatasetError, match=r"24 of 24 good images show no single part on a plain.*--masks DIR"):
        learn_head(images, names, None, 0, 2)


def test_a_rectifier_with_a_network_straightens_and_comes_back_from_its_state():
    """Its pose is right to a pixel: the same place of the part lies at the same place of the canonical picture."""
    head, (images, _) = taught().head, good()
    rectifier = Rectifier.learn(images, locate="head", pose="rigid", head=head)
    again = Rectifier.from_state(rectifier.state(), rectifier.meta())
    corners = np.array([[30, 20, 1], [130, 20, 1], [30, 80, 1], [130, 80, 1]]).T
    places = []
    for seed in range(130, 138):
        image, _ = scene(seed)
        got, same = rectifier.rectify(image), again.rectify(image)
        assert got.reason is Reason.NONE
        assert np.array_equal(got.canonical, same.canonical)
        lies = draw_part(np.random.default_rng(seed), size=SIZE).matrix
        places.append(np.linalg.inv(lies[:, :2]) @ (got.matrix @ corners - lies[:, 2:]))
        assert rectifier.rectify(scene(seed, part=False)[0]).reason is Reason.NO_OBJECT
    away = np.linalg.norm(np.array(places) - np.median(places, axis=0), axis=1)
    assert away.max() < 1.5


def test_auto_takes_the_network_where_there_is_one_and_says_how_good_it_is():
    images, _ = good()
    got = choose(images, [f"{k}.png" for k in range(24)], "auto", "auto", taught=taught())
    assert (got.locate, got.pose) == ("head", "rigid")
    assert got.why[0] == "locate head: 24 of 24 good images show one separate part."
    assert got.why[1] == taught().words()
    without = choose(images, [f"{k}.png" for k in range(24)], "auto", "auto")
    assert without.locate == "full"
    assert "train with --masks DIR" in without.why[0]
