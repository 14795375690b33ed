"""What the segmentation network is shown: good pictures with their masks, varied, and pictures of the empty station.

No picture of an empty station is asked of the user. It is made from the good ones: where the part lies, other good
pictures show the background, brought to this picture's light; where none does, the fitted background stands for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from line_worker.vision.background import FIT_SIDE, FLOOR, LEVELS, Plane, background, fit_background, shrink

DONORS = 6  # good pictures that are asked what lies under a part
RIM = 9  # map pixels around the part that go with it, where its outline is blurred
FEATHER = 1.5  # sigma in map pixels by which what is put in its place is blended in, within the rim
ZOOM, SHIFT = 0.12, 0.08  # share either way; share of the picture's sides
EXPOSURE, CONTRAST, SLOPE = 0.5, 0.2, 0.15  # of the natural logarithm of the light; the last across half the frame
NOISE_MAX, BLUR_MAX = 5.0, 1.2  # gray levels, pixels
SHADOW_MAX, SHADOW_SIZES = 0.45, (0.08, 0.4)  # light that a shadow takes at most; its size in shares of the long side


class Example(NamedTuple):
    """A picture (h, w) or (h, w, C) in gray levels, and the share of each pixel that is part, (h, w) in 0..1."""

    picture: Plane
    part: Plane


def emptied(examples: Sequence[Example], dice: np.random.Generator) -> list[Example]:
    """Return each example with the part painted out."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (RIM, RIM))
    covered = [cv2.dilate((one.part > 0.02).astype(np.uint8), disc) for one in examples]
    lights = [_light(one.picture, part) for one, part in zip(examples, covered, strict=True)]
    return [_without_part(examples, covered, lights, k, dice) for k in range(len(examples))]


def _light(picture: Plane, covered: np.ndarray) -> Plane:
    """Return the background fitted to what is not covered, (h, w, C)."""
    small, hidden = shrink(picture, FIT_SIDE)[0], shrink(covered.astype(np.float32), FIT_SIDE)[0] > 0
    return background(fit_background(small, hidden), *picture.shape[:2])


def _without_part(
    examples: Sequence[Example],
    covered: Sequence[np.ndarray],
    lights: Sequence[Plane],
    k: int,
    dice: np.random.Generator,
) -> Example:
    picture = examples[k].picture
    light = lights[k].reshape(picture.shape)
    hidden = covered[k] > 0
    empty = picture.copy()
    empty[hidden] = (light + _grain(picture - light, covered[k], dice))[hidden]
    for donor in dice.permutation(len(examples))[:DONORS]:
        shows = hidden & (covered[donor] == 0)
        ratio = (light + FLOOR) / (lights[donor].reshape(picture.shape) + FLOOR)
        empty[shows] = (examples[donor].picture * ratio)[shows]
        hidden &= ~shows
    inside = np.maximum(0, 2 * cv2.GaussianBlur(covered[k].astype(np.float32), (0, 0), FEATHER) - 1)
    weight = inside.reshape(*inside.shape, *[1] * (picture.ndim - 2))
    return Example(picture + weight * (empty - picture), np.zeros_like(examples[k].part))


def _grain(residual: Plane, covered: np.ndarray, dice: np.random.Generator) -> Plane:
    """Return noise as strong as what the background shows of it where nothing covers it."""
    seen = np.abs(residual[covered == 0])
    strength = 1.4826 * float(np.median(seen)) if seen.size else 0.0
    return np.float32(strength) * dice.standard_normal(residual.shape, np.float32)


def varied(example: Example, dice: np.random.Generator) -> Example:
    """Return `example` as the camera might show it: turned, mirrored, moved, in other light, with other noise."""
    picture, part = _moved(example, dice)
    shape = (*part.shape, *[1] * (picture.ndim - 2))
    picture = picture * _relit(part.shape, dice).reshape(shape)
    if dice.random() < 0.5:
        middle = np.median(picture)
        picture = middle + (picture - middle) * np.exp(dice.uniform(-CONTRAST, CONTRAST))
    if dice.random() < 0.3:
        picture = cv2.GaussianBlur(picture, (0, 0), dice.uniform(0.3, BLUR_MAX))
    noise = dice.standard_normal(picture.shape, np.float32) * np.float32(dice.uniform(0, NOISE_MAX))
    return Example(np.clip(picture + noise, 0, LEVELS).astype(np.float32), part)


def _moved(example: Example, dice: np.random.Generator) -> Example:
    height, width = example.part.shape
    turn, zoom = dice.uniform(-np.pi, np.pi), np.exp(dice.uniform(-ZOOM, ZOOM))
    c, s = zoom * np.cos(turn), zoom * np.sin(turn)
    matrix = np.array([[c, -s], [s, c]]) @ np.diag([dice.choice([-1.0, 1.0]), 1.0])
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = dice.uniform(-SHIFT, SHIFT, 2) * (width, height)
    move = np.hstack([matrix, (middle + shift - matrix @ middle)[:, None]])
    picture, part = (
        cv2.warpAffine(plane, move, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
        for plane in example
    )
    return Example(picture, part)


def _relit(shape: tuple[int, ...], dice: np.random.Generator) -> Plane:
    """Return by what the light changes, (h, w): exposure, a slope across the frame, perhaps a soft shadow."""
    height, width = shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None]
    down, across = dice.uniform(-SLOPE, SLOPE, 2).astype(np.float32)
    light: Plane = np.exp(np.float32(dice.uniform(-EXPOSURE, EXPOSURE / 2)) + down * y + across * x)
    if dice.random() < 0.5:
        light = light * (1 - _shadow(x * width, y * height, max(height, width), dice))
    return light


def _shadow(x: Plane, y: Plane, side: int, dice: np.random.Generator) -> Plane:
    """Return the share of the light that a soft round or long shadow takes."""
    turn = dice.uniform(0, np.pi)
    u, v = np.cos(turn) * x + np.sin(turn) * y, np.cos(turn) * y - np.sin(turn) * x
    u, v = u - dice.uniform(-1, 1) * side * 0.8, v - dice.uniform(-1, 1) * side * 0.8
    long, short = dice.uniform(*SHADOW_SIZES, 2) * 2 * side
    depth = np.float32(dice.uniform(0, SHADOW_MAX))
    shadow: Plane = depth * np.exp(-((u / long) ** 2 + (v / short) ** 2)).astype(np.float32)
    return shadow
