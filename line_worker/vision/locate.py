"""Where the part is: what differs from the fitted background, without its shadow, in one piece.

With `background` nothing here knows what the part looks like, and no labels are needed. With `head` a trained network
says which pixels are part, and its answer takes the place of the thresholded deviation. `full` is for texture that
fills the frame: there is no part to find. Geometry is in pixels of the image as given, pixel centres at whole numbers
(OpenCV's convention).
"""

from __future__ import annotations

import functools
from typing import Literal, NamedTuple, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.vision.background import (
    FIT_SIDE,
    LEVELS,
    Image,
    Plane,
    border_ring,
    deviation,
    fit_background,
    levels,
    shrink,
    steepness,
)

Mask = NDArray[np.uint8]
Method = Literal["background", "head", "full"]

LOCATE_SIDE = 256  # long side used for locating
SMOOTHING = 0.7  # pixels: standard deviation of the blur against the sensor's noise
LEVELS_OF_DEVIATION = 200.0  # steps per unit of deviation in which Otsu's threshold is sought
COARSE = 0.75  # the coarse mask is where the deviation exceeds this share of Otsu's threshold
CONTRAST_MIN = 4.0  # Otsu's threshold must be this many sigmas of the border ring
OUTLINE_MAX = 0.30  # at most this share of the frame's outline may be foreground
AREA_MIN, AREA_MAX = 0.002, 0.75  # of the frame
SHARE_MIN = 0.60  # the largest blob's share of all foreground
CORE_MIN = 0.3  # what is left without the shadow must be this share of the blob, or the shadow test is not trusted
EDGE_MIN = 0.08  # gradient (deviation per pixel) that a shadow does not have
THRESHOLD_MIN = 0.02  # deviation, where a network finds parts that hardly differ from their background


class Segmenter(Protocol):
    """Who sees where the part is; `line_worker.vision.head.Head` does."""

    least: float  # share of the frame below which what is seen is no part
    most: float  # and above which

    def segment(self, picture: Image | Plane) -> Plane:
        """Return the chance that each pixel of (h, w[, C]) gray levels shows the part, (h, w) in 0..1."""
        ...


class Located(NamedTuple):
    """Where the part lies in an image; maps have LOCATE_SIDE on their long side.

    found: whether there is a part that can be posed; when not, `why` says why not and the geometry is zero.
    shape: (H, W) of the image. scale: map pixels per image pixel. surface: float32 (C, 6), background in gray levels.
    mask: uint8 (h, w), 1 on the part and about one map pixel around it. signed, deviation: float32 (h, w), distance
    from the background in units of it. threshold: deviation that separates the part from its shadow. soft: float32
    (h, w), the chance of each map pixel to be part, when a network says so.
    centre: (x, y), area: both in image pixels.
    angle: of the long axis, radians. elongation: long over short axis of the ellipse with the part's moments.
    """

    found: bool
    why: str
    shape: tuple[int, int]
    scale: float
    surface: Plane
    mask: Mask
    signed: Plane
    deviation: Plane
    threshold: float = 0.0
    centre: tuple[float, float] = (0.0, 0.0)
    angle: float = 0.0
    elongation: float = 1.0
    area: float = 0.0
    soft: Plane | None = None


def locate(
    image: Image, method: Method = "background", white: float | None = None, head: Segmenter | None = None
) -> Located:
    """Find the part in `image`: uint8 or uint16, (H, W) or (H, W, 3). `white` is full scale, by default the type's.

    `head` is the network that the method of that name needs. A picture without one separate part is not an error:
    `found` is False then.
    """
    white = float(np.iinfo(image.dtype).max) if white is None else white
    small, scale = shrink(image, LOCATE_SIDE)
    if method == "full":
        return whole_frame(image, scale, small.shape[:2])
    return locate_small(levels(small, white), scale, (image.shape[0], image.shape[1]), head)


def whole_frame(image: Image, scale: float, size: tuple[int, ...]) -> Located:
    """Return what stands for a located part when texture fills the frame."""
    height, width = image.shape[:2]
    zero = np.zeros(size[:2], np.float32)
    surface = np.zeros((1 if image.ndim == 2 else 3, 6), np.float32)
    surface[:, 0] = LEVELS
    centre = ((width - 1) / 2, (height - 1) / 2)
    mask = np.ones(size[:2], np.uint8)
    return Located(True, "", (height, width), scale, surface, mask, zero, zero, centre=centre, area=height * width)


def locate_small(small: Image | Plane, scale: float, shape: tuple[int, int], head: Segmenter | None = None) -> Located:
    """Find the part in an image already scaled by `scale` to LOCATE_SIDE, in gray levels; `shape` is the original's."""
    if head is not None:
        return segmented(small, scale, shape, head)
    surface = fit_background(shrink(small, FIT_SIDE)[0])
    signed, away = deviation(cv2.GaussianBlur(small, (0, 0), SMOOTHING), surface)
    empty = Located(False, "", shape, scale, surface, np.zeros(away.shape, np.uint8), signed, away)
    coarse_threshold, why = _contrast(away)
    if why:
        return empty._replace(why=why)
    blob, why = _blob(away, coarse_threshold)
    if why:
        return empty._replace(why=why)
    threshold, mask = _without_shadow(blob, signed, away, coarse_threshold)
    share = float(mask.mean())
    if not AREA_MIN < share < AREA_MAX:
        return empty._replace(why=f"what differs from the background fills {share:.1%} of the frame")
    return _measured(empty._replace(found=True, threshold=threshold, mask=mask))


def segmented(small: Image | Plane, scale: float, shape: tuple[int, int], head: Segmenter) -> Located:
    """Find the part as `locate_small` does, but where `head` sees it."""
    soft = head.segment(small)
    blob, of_all = largest((soft > 0.5).astype(np.uint8))
    near = cv2.dilate(blob, _disc(5))
    surface = fit_background(shrink(small, FIT_SIDE)[0], shrink(near.astype(np.float32), FIT_SIDE)[0] > 0)
    signed, away = deviation(cv2.GaussianBlur(small, (0, 0), SMOOTHING), surface)
    empty = Located(False, "", shape, scale, surface, np.zeros_like(blob), signed, away)
    share = float(blob.mean())
    if share <= max(AREA_MIN, head.least):
        return empty._replace(why="nothing looks like the part")
    if share >= min(AREA_MAX, head.most):
        return empty._replace(why=f"what looks like the part fills {share:.1%} of the frame")
    if of_all < SHARE_MIN:
        return empty._replace(why="several things look like the part")
    threshold = max(THRESHOLD_MIN, _otsu(_quantised(away[near > 0])))
    return _measured(empty._replace(found=True, mask=blob, threshold=threshold, soft=soft * near))


def _contrast(away: Plane) -> tuple[float, str]:
    """Return Otsu's threshold on the deviation and why it cannot be used ("" when it can)."""
    noise = 1.4826 * float(np.median(away[border_ring(*away.shape)])) + 2e-3
    threshold = _otsu(_quantised(away))
    return threshold, "" if threshold / noise >= CONTRAST_MIN else "nothing stands out from the background"


def _blob(away: Plane, threshold: float) -> tuple[Mask, str]:
    """Return the largest blob of foreground and why it is not a part ("" when it may be one)."""
    coarse = (away > COARSE * threshold).astype(np.uint8)
    coarse = cv2.morphologyEx(coarse, cv2.MORPH_CLOSE, _disc(3))
    outline = np.concatenate([coarse[0], coarse[-1], coarse[:, 0], coarse[:, -1]])
    if outline.mean() > OUTLINE_MAX:
        return coarse, "the frame's border does not show the background"
    blob, share = largest(coarse)
    if share < SHARE_MIN:
        return coarse, "several things stand out from the background"
    return blob, ""


def _without_shadow(blob: Mask, signed: Plane, away: Plane, coarse_threshold: float) -> tuple[float, Mask]:
    """Return the threshold between part and shadow, and the blob without its shadow.

    A soft shadow is darker than the background, weak (below a second Otsu threshold inside the blob), without edges.
    """
    inside = cv2.dilate(blob, _disc(5)) > 0
    threshold = _otsu(_quantised(away[inside]))
    steep = steepness(cv2.GaussianBlur(signed, (0, 0), SMOOTHING)) / np.float32(32)
    outside = steep[~inside]
    edge = EDGE_MIN
    if len(outside) > 100:
        k = int(0.995 * len(outside))
        edge = max(edge, 1.5 * float(np.partition(outside, k)[k]))
    part = ((away > threshold) | (steep > edge) | (signed > COARSE * coarse_threshold)) & inside
    core = _filled(cv2.morphologyEx(part.astype(np.uint8), cv2.MORPH_CLOSE, _disc(3)))
    core, _ = largest(cv2.morphologyEx(core, cv2.MORPH_OPEN, _disc(3)))
    return threshold, core if core.sum() > CORE_MIN * blob.sum() else blob


def _measured(located: Located) -> Located:
    """Fill in centre, angle, elongation and area from the mask's moments."""
    moments = cv2.moments(located.mask, True)
    area = moments["m00"]
    a, b, c = moments["mu20"] / area, moments["mu11"] / area, moments["mu02"] / area
    spread = float(np.hypot((a - c) / 2, b))
    x, y = ((moments[m] / area + 0.5) / located.scale - 0.5 for m in ("m10", "m01"))
    return located._replace(
        centre=(x, y),
        angle=float(0.5 * np.arctan2(2 * b, a - c)),
        elongation=float(np.sqrt(((a + c) / 2 + spread) / max(1e-6, (a + c) / 2 - spread))),
        area=area / located.scale**2,
    )


@functools.cache
def _disc(size: int) -> Mask:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)), np.uint8)


def _quantised(away: Plane) -> Mask:
    steps: Mask = np.clip(away * np.float32(LEVELS_OF_DEVIATION), 0, 255).astype(np.uint8)
    return steps


def _otsu(values: Mask) -> float:
    return (
        float(cv2.threshold(values.reshape(1, -1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0])
        / LEVELS_OF_DEVIATION
    )


def largest(mask: Mask) -> tuple[Mask, float]:
    """Return the largest outer contour, filled, and its share of all filled area (0 when there is none)."""
    contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    filled = np.zeros_like(mask)
    if not contours:
        return filled, 0.0
    areas = np.array([cv2.contourArea(c) + len(c) / 2 + 1 for c in contours])
    k = int(np.argmax(areas))
    cv2.drawContours(filled, contours, k, 1, -1)
    return filled, float(areas[k] / areas.sum())


def _filled(mask: Mask) -> Mask:
    filled = np.zeros_like(mask)
    cv2.drawContours(filled, cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0], -1, 1, -1)
    return filled
