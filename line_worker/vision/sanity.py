"""Sanity: is this frame a picture like those that the station was commissioned on, whatever the part in it looks like?

A station may go blind without an error anywhere: a lamp fails, a lens is bumped or covered, sunlight comes in. The four
measures here are figures of the whole frame or medians over the part, so that a defect does not move them and becomes
FAIL, not NO_DECISION; what good images span, with room to spare, is what they may be on the line.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.verdicts import Reason
from line_worker.vision.background import FLOOR, LEVELS, Image, Plane, border_ring

SAMPLES = 128  # pixels looked at along the long side for exposure: a median does not need every pixel
DARK, BRIGHT = 0.01, 0.995  # shares of full scale at which a pixel tells nothing any more

HALVINGS = 4  # sharpness is measured in blocks of 2**4 canonical pixels square
TOP = 0.25  # share of the part's blocks that count: those with most structure; in others there is only noise
STEP_EDGES = 6.0  # makes the sharpness of step edges 1
FAINT = 1e-10  # least structure, far below one gray level, so that a blank picture is not 0 / 0

SIGMAS = 6.0
EXPOSURE_SLACK = 0.2  # log: a lamp may age by a fifth; canonical pictures do not change by that
CLIPPED_SLACK = 0.1  # share of the frame
FOCUS_SLACK = 0.3  # log: a blur of 1.5 to 2 canonical pixels on step edges
FOCUS_ROOM = 3.0  # log, upwards
LEAST = 1e-4  # floor under logarithms, half a level of 12 bits

Range = tuple[float, float]


class Measures(NamedTuple):
    """What one frame is like.

    exposure: brightness of the background or of the part, the larger, as a share of full scale; of the frame where
    texture fills it. dark, bright: share of the frame's pixels at or below 1 %, at or above 99.5 % of full scale.
    focus: fine structure of the part over its coarse structure, 0 when there is none; 1 for step edges, a third for
    what is blurred beyond recognition, above 1 for fine texture; the exposure cancels out.
    """

    exposure: float
    dark: float
    bright: float
    focus: float


class Commissioned(NamedTuple):
    """The range (low, high) of each measure on the line; made by `of` from good images."""

    exposure: Range
    dark: Range
    bright: Range
    focus: Range

    @classmethod
    def of(cls, measures: Sequence[Measures]) -> Commissioned:
        """Return the ranges around what good images measured; raises ValueError for none or one that is not finite."""
        values = np.array(measures, np.float64)
        if not len(values) or not np.isfinite(values).all():
            raise ValueError(f"ranges need at least one good image and finite measures; got {len(values)}")
        exposure, dark, bright, focus = values.T
        # Dark and bright pixels are bounded above only: what fewer of them say about the light, exposure says better.
        # Focus has so much room upwards that only snow is outside: a sharper picture hides nothing, and a scratched or
        # dirty part may look sharper than good ones but has to FAIL.
        return cls(
            _around_log(exposure, EXPOSURE_SLACK, EXPOSURE_SLACK),
            (0.0, _around(dark, CLIPPED_SLACK)[1]),
            (0.0, _around(bright, CLIPPED_SLACK)[1]),
            _around_log(focus, FOCUS_SLACK, FOCUS_ROOM),
        )

    def check(self, m: Measures) -> Reason:
        """Return NONE, EXPOSURE or FOCUS; a measure that is not finite is never NONE."""
        if not (_within(m.exposure, self.exposure) and _within(m.dark, self.dark) and _within(m.bright, self.bright)):
            return Reason.EXPOSURE
        return Reason.NONE if _within(m.focus, self.focus) else Reason.FOCUS

    def meta(self) -> dict[str, Any]:
        """Return what `from_meta` needs; JSON keeps it exactly."""
        return {name: list(limits) for name, limits in self._asdict().items()}

    @classmethod
    def from_meta(cls, meta: Mapping[str, Any]) -> Commissioned:
        """Return the ranges that gave `meta()`; raises KeyError, TypeError or ValueError for anything else."""
        pairs = ((name, *meta[name]) for name in cls._fields)
        return cls(**{name: (float(low), float(high)) for name, low, high in pairs})


def measure(image: Image, canonical: Plane, mask: NDArray[np.bool_], white: float) -> Measures:
    """Measure a frame, uint8 or uint16 (H, W) or (H, W, 3) with `white` as full scale.

    canonical: its rectified picture, float32 (H', W') or (H', W', 3). mask: bool (H', W'), where the part is in it; all
    True when texture fills the frame.
    """
    planes = _planes(image) / np.float32(white)
    peak = planes.max(0)
    return Measures(
        exposure=_exposure(planes.mean(0), canonical, mask),
        dark=float((peak <= DARK).mean()),
        bright=float((peak >= BRIGHT).mean()),
        focus=_focus(canonical, mask),
    )


def sampling(shape: tuple[int, ...]) -> slice:
    """Return which rows, and which columns, of a picture (H, W) are looked at for exposure."""
    step = -(-max(shape[:2]) // SAMPLES)
    return slice(step // 2, None, step)


def _sampled(picture: NDArray[Any]) -> NDArray[Any]:
    every = sampling(picture.shape)
    return picture[every, every]


def _planes(picture: NDArray[Any]) -> Plane:
    """Return sampled pixels as (C, h, w), which numpy reduces ten times as fast as (h, w, C)."""
    few = np.atleast_3d(_sampled(picture))
    return few.transpose(2, 0, 1).astype(np.float32, order="C")


def _exposure(gray: Plane, canonical: Plane, mask: NDArray[np.bool_]) -> float:
    """Return the brightness of the scene from sampled gray levels (h, w) in 0..1."""
    if mask.all():
        return float(np.median(gray))
    ground = float(np.median(gray[border_ring(*gray.shape)]))
    # On a black mat only the part shows how much light there is. Its picture has been divided by the background.
    part = float(np.median(_planes(canonical).mean(0)[_sampled(mask)])) - 1
    return float(np.maximum(ground, ground + part * max(ground, FLOOR / LEVELS)))


def _focus(canonical: Plane, mask: NDArray[np.bool_]) -> float:
    """Return the median over the part's most structured blocks of fine over coarse structure.

    Structure is the energy of differences between neighbours in the picture at 1/2, 1/4 and 1/8 of its size. A ramp
    has 4 times as much at each smaller size, a step edge 2 times, noise a quarter. At 1/2 the sensor's noise, which a
    lens out of focus does not blur, is too weak to count; two coarse sizes, since a weave may vanish in one of them.
    """
    half = _gray(_halved(canonical))
    quarter = _halved(half)
    use = focus_blocks(mask)
    pictures = (half, quarter, _halved(quarter))
    fine, middle, coarse = (_halved(_structure(p), HALVINGS - k)[use] for k, p in enumerate(pictures, 1))
    structure = np.maximum(middle + coarse, np.float32(FAINT))
    top = np.argsort(structure)[-math.ceil(TOP * len(structure)) :]
    return STEP_EDGES * float(np.median(fine[top] / structure[top]))


def focus_blocks(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which blocks belong to the part: those half full, or the fullest of a part thinner than a block."""
    inside = _halved(mask.view(np.uint8) * np.uint8(255), HALVINGS)
    return np.asarray(inside >= min(128, int(inside.max())))


def _halved(picture: NDArray[Any], times: int = 1) -> NDArray[Any]:
    for _ in range(times):
        size = max(2, picture.shape[1] // 2), max(2, picture.shape[0] // 2)
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)  # at one half the mean of 2 x 2 pixels
    return picture


def _gray(picture: Plane) -> Plane:
    if picture.ndim == 2:
        return picture
    gray: Plane = cv2.transform(picture, np.full((1, 3), 1 / 3))
    return gray


def _structure(picture: Plane) -> Plane:
    """Return the squared differences to the right and lower neighbour, of the picture's shape, 0 at its end."""
    corner = picture[:-1, :-1]
    across, down = picture[:-1, 1:] - corner, picture[1:, :-1] - corner
    structure = np.zeros_like(picture)
    structure[:-1, :-1] = across * across + down * down
    return structure


def _within(value: float, limits: Range) -> bool:
    return math.isfinite(value) and limits[0] <= value <= limits[1]


def _spread(values: NDArray[np.float64]) -> float:
    """Return a robust standard deviation (n,).

    The larger of what the median deviation and what the deciles of a normal distribution say: the first is 0 when most
    values are equal, and two lamps or two batches of parts show in the second only.
    """
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
    return max(1.4826 * float(np.median(np.abs(values - middle))), float(high - low) / 2.563)


def _around(values: NDArray[np.float64], *slacks: float) -> Range:
    """Return median -+ SIGMAS robust deviations, at least `slacks` down and up (one for both)."""
    middle, reach = float(np.median(values)), SIGMAS * _spread(values)
    return middle - max(reach, slacks[0]), middle + max(reach, slacks[-1])


def _around_log(values: NDArray[np.float64], down: float, up: float) -> Range:
    """Return the same for positive values on a scale of ratios, so that however much they vary, 0 is outside."""
    low, high = _around(np.log(np.maximum(values, LEAST)), down, up)
    return math.exp(low), math.exp(high)
