"""What the backbone is shown and what becomes of it: brightness, colour, bit depth, and channels that count alike."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from calib import features as learning
from calib import pretrained
from calib.schedule import single_threaded
from line_worker.vision.arrays import part
from line_worker.vision.backbone import Backbone
from line_worker.vision.cells import batch
from line_worker.vision.features import CLIP, Features, Maps, tokens
from line_worker.vision.rectify import Rectifier

SIZE = (64, 96)
EVERYWHERE = np.ones(SIZE, np.bool_)


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return pretrained.load(None)


def canonicals(count: int = 8, low: float = 0.3, high: float = 0.9, colour: bool = False) -> list[np.ndarray]:
    """Return pictures of blotches between `low` and `high`, different in every picture."""
    rng = np.random.default_rng(3)
    blotches = rng.random((count, SIZE[0] // 8, SIZE[1] // 8, *((3,) if colour else ()))).astype(np.float32)
    return list(low + (high - low) * blotches.repeat(8, 1).repeat(8, 2))


@pytest.fixture(scope="module")
def learned(backbone) -> Features:
    return learning.learn_features(backbone, canonicals(), EVERYWHERE)


# brightness


@pytest.mark.parametrize(
    ("low", "high"),
    [(0.1, 0.9), (0.2, 1.15), (0.9, 1.0), (1.0, 4.0), (0.4, 9.0), (-0.5, 1.2), (1.5, 2.5), (1.0, 1.0)],
)
def test_parts_and_background_come_into_the_backbones_range(low, high):
    gain, offset = learning.brightness(canonicals(low=low, high=high), EVERYWHERE)
    shown = [gain * value + offset for value in (low, high, 1.0)]
    assert min(shown) >= 0
    assert max(shown) <= 1
    assert gain > 0


@pytest.mark.parametrize(("low", "high", "least"), [(0.1, 0.9, 0.5), (0.3, 3.0, 0.5), (1.0, 9.0, 0.6)])
def test_the_range_is_used(low, high, least):
    gain, _ = learning.brightness(canonicals(low=low, high=high), EVERYWHERE)
    assert gain * (max(high, 1) - min(low, 1)) > least


def test_parts_brighter_than_a_bright_background_keep_their_distance_from_it():
    gain, offset = learning.brightness(canonicals(low=0.8, high=1.2), EVERYWHERE)
    assert gain * 1.2 + offset - (gain * 1.0 + offset) > 0.1


def test_only_the_part_sets_the_range():
    template = np.zeros(SIZE, np.bool_)
    template[16:48, 16:80] = True
    plain = canonicals()
    dazzled = [picture.copy() for picture in plain]
    for picture in dazzled:
        picture[:8] = 50.0
    assert learning.brightness(dazzled, template) == learning.brightness(plain, template)


def test_a_few_hot_pixels_do_not_set_the_range():
    plain = canonicals()
    hot = [picture.copy() for picture in plain]
    hot[0][5, 5:9] = 60.0
    assert learning.brightness(hot, EVERYWHERE)[0] == pytest.approx(learning.brightness(plain, EVERYWHERE)[0], rel=0.02)


@torch.inference_mode()
def test_sixteen_bits_are_seen_as_eight(backbone):
    rng = np.random.default_rng(0)
    eight = [rng.integers(0, 256, SIZE, np.uint8) for _ in range(4)]
    sixteen = [image.astype(np.uint16) * 257 for image in eight]
    seen = []
    for images in (eight, sixteen):
        rectifier = Rectifier.learn(images, locate="full", pose="none")
        straight = [rectifier.rectify(image).canonical for image in images]
        features = learning.learn_features(backbone, straight, rectifier.template_mask)
        seen.append(features(batch(straight)))
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(*seen, strict=True))


@torch.inference_mode()
def test_what_lies_around_the_part_is_painted_over(backbone):
    template = np.zeros(SIZE, np.bool_)
    template[:, :40] = True
    features = learning.learn_features(backbone, canonicals(), template)
    clean, dirty = canonicals()[0], canonicals()[0].copy()
    dirty[:, 60:] = 0.0
    assert all(torch.equal(a, b) for a, b in zip(features(batch([clean])), features(batch([dirty])), strict=True))
    dirty[:, 30:36] = 0.0
    assert not torch.equal(features(batch([clean])).fine, features(batch([dirty])).fine)


# channels


@torch.inference_mode()
def test_channels_are_standardised_over_good_parts(learned):
    for plane in learned(batch(canonicals())):
        mean, std = plane.mean((0, 2, 3)), plane.std((0, 2, 3))
        assert mean.abs().max() < 0.05
        assert ((std > 0.9) & (std < 1.1)).all()


@torch.inference_mode()
def test_statistics_are_those_of_the_part_alone(backbone):
    template = np.zeros(SIZE, np.bool_)
    template[:, :32] = True
    features = learning.learn_features(backbone, canonicals(), template)
    fine = features(batch(canonicals())).fine
    inside = fine[:, :, features.cells].flatten(2)
    assert features.cells.sum() == 8 * 4
    assert inside.mean((0, 2)).abs().max() < 0.05
    assert fine[:, :, ~features.cells].mean((0, 2)).abs().max() > 0.2


@torch.inference_mode()
def test_a_channel_that_never_moves_does_not_blow_up(backbone):
    flat = [np.full(SIZE, 0.5, np.float32) for _ in range(4)]
    features = learning.learn_features(backbone, flat, EVERYWHERE)
    for plane in features(batch(canonicals())):
        assert torch.isfinite(plane).all()
        assert plane.abs().max() == CLIP


# colour


@torch.inference_mode()
def test_colour_is_seen_where_gray_is_the_same(backbone):
    pictures = canonicals(colour=True)
    features = learning.learn_features(backbone, pictures, EVERYWHERE)
    gray, stained = np.full((*SIZE, 3), 0.6, np.float32), np.full((*SIZE, 3), 0.6, np.float32)
    stained[24:40, 40:56] += np.array([0.3, 0.0, -0.3], np.float32)  # the same mean of the channels
    difference = (features(batch([stained])).fine - features(batch([gray])).fine).square().mean(1)[0].sqrt()
    assert difference[3:5, 5:7].mean() > 1.0
    assert difference[0, 0] < 0.2 * difference[3:5, 5:7].mean()


@torch.inference_mode()
def test_the_backbone_gets_red_first(backbone):
    features = Features(backbone, 1.0, 0.0, torch.ones(SIZE).bool(), torch.zeros(152), torch.ones(152))
    bgr = torch.zeros(1, 3, *SIZE)
    bgr[:, 0] = 0.9  # blue
    rgb = torch.stack([torch.zeros(SIZE), torch.zeros(SIZE), torch.full(SIZE, 0.9)])[None]
    assert torch.allclose(features.raw(bgr)[0], backbone(rgb)[0], atol=0.01)
    assert not torch.allclose(features.raw(bgr)[0], backbone(bgr)[0], atol=1.0)


@torch.inference_mode()
def test_gray_is_seen_as_gray_in_colour(learned):
    gray = batch(canonicals())
    for one, three in zip(learned(gray), learned(gray.expand(-1, 3, -1, -1)), strict=True):
        assert torch.allclose(one, three, atol=1e-4)  # its stem adds the three channels' weights first


# what travels


@torch.inference_mode()
def test_state_round_trip_is_bit_identical(learned):
    again = Features.make(json.loads(json.dumps(learned.meta())), learned.state())
    picture = batch(canonicals())[:1]
    assert all(torch.equal(a, b) for a, b in zip(learned(picture), again(picture), strict=True))
    assert torch.equal(again.cells, learned.cells)


@torch.inference_mode()
def test_the_library_holds_what_the_line_will_see_whatever_the_threads(learned):
    told: list[float] = []
    one, two = (learning.extract(learned, canonicals(), threads, told.append) for threads in (1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    fine, coarse = learned(batch(canonicals()[3:4]))
    maps = one.maps(torch.tensor([3]))
    assert torch.equal(maps.fine, fine.half().float())
    assert torch.equal(maps.coarse, coarse.half().float())
    assert told[-1] == 1.0


def test_tokens_are_both_layers_at_the_chosen_cells():
    fine, coarse = torch.rand(2, 3, 4, 6), torch.arange(2.0)[:, None, None, None].expand(2, 5, 2, 3)
    found = tokens(Maps(fine, coarse), torch.tensor([0, 7, 23]))
    assert found.shape == (2, 3, 8)
    assert torch.equal(found[:, :, :3], torch.stack([fine[:, :, 0, 0], fine[:, :, 1, 1], fine[:, :, 3, 5]], 1))
    assert torch.equal(found[1, :, 3:], torch.ones(3, 5))


def test_parts_of_a_state_are_found_by_their_whole_prefix():
    arrays = {"memory.bank": np.zeros(1), "memory2.bank": np.ones(1), "memory.a.b": np.full(1, 2.0)}
    assert sorted(part(arrays, "memory")) == ["a.b", "bank"]
