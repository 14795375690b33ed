"""The light on the background: a quadratic surface fitted to what the frame's border shows, and what differs from it.

Everything is in gray levels of 0..255, whatever the camera's bit depth, and in coordinates that run from -1 to 1 over
the frame, so that one fit serves every resolution of the picture.
"""

from __future__ import annotations

import functools
from typing import cast

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Image = NDArray[np.uint8] | NDArray[np.uint16]

LEVELS = 255.0
FIT_SIDE = 64  # long side used for the fit, and grid on which the surface is evaluated
RING = 0.06  # width of the border ring that must show background, as a share of the long side
RING_FITS, FRAME_FITS = 2, 3
FIT_PIXELS_MIN = 40
FLOOR = 64.0  # u = (I - bg) / max(bg, FLOOR): a ratio on bright backgrounds, a difference on dark ones


def shrink(image: Image | Plane, side: int) -> tuple[Image | Plane, float]:
    """Return `image` scaled so that its long side is `side`, and the scale (new pixels per old pixel)."""
    height, width = image.shape[:2]
    size = small_size((height, width), side)
    return cast(Image, cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)), side / max(height, width)


def small_size(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Return (h, w) of a picture (H, W) scaled so that its long side is `side`."""
    scale = side / max(shape)
    return max(2, round(shape[0] * scale)), max(2, round(shape[1] * scale))


def levels(image: Image | Plane, white: float) -> Plane | NDArray[np.uint8]:
    """Return `image` with `white` at 255; an 8-bit image that has it there already is returned as it is."""
    if image.dtype == np.uint8 and white == LEVELS:
        return cast(NDArray[np.uint8], image)
    return image.astype(np.float32) * np.float32(LEVELS / white)


def steepness(image: Image | Plane) -> Plane:
    """Return Scharr's gradient magnitude, float32 of the image's shape; its kernel weighs 32.

    Not cv2.magnitude: its last bit depends on where in memory the image lies, and scores are to be the same bits.
    """
    gx, gy = cv2.Scharr(image, cv2.CV_32F, 1, 0), cv2.Scharr(image, cv2.CV_32F, 0, 1)
    steep: Plane = np.sqrt(gx * gx + gy * gy)
    return steep


def quadratic(x: Plane, y: Plane) -> Plane:
    """Return the terms (1, x, y, x^2, xy, y^2) along a last axis."""
    return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], -1)


def _centres(n: int) -> Plane:
    return ((np.arange(n) + 0.5) / n * 2 - 1).astype(np.float32)


@functools.cache
def fit_terms(height: int, width: int) -> Plane:
    """Return the terms at every pixel centre of a small grid, (height * width, 6)."""
    y, x = np.meshgrid(_centres(height), _centres(width), indexing="ij")
    terms = quadratic(x, y).reshape(-1, 6)
    terms.setflags(write=False)
    return terms


@functools.cache
def border_ring(height: int, width: int) -> NDArray[np.bool_]:
    """Return (height, width), True on the frame's border."""
    k = max(1, round(RING * max(height, width)))
    ring = np.ones((height, width), np.bool_)
    ring[k:-k, k:-k] = False
    ring.setflags(write=False)
    return ring


def fit_background(image: Image | Plane, covered: NDArray[np.bool_] | None = None) -> Plane:
    """Fit a quadratic surface to the background of a small image (h, w) or (h, w, C) in gray levels; return (C, 6).

    Fits the border ring first, so that a large part cannot bend the surface, then the whole frame; each time the pixels
    within three robust sigmas of the surface are the ones to fit next. Where it is known what the part has `covered`,
    (h, w), all else is fitted from the start, which also holds on a pattern of dark and bright.
    """
    height, width = image.shape[:2]
    values = image.reshape(height * width, -1).astype(np.float32)
    terms, ring = fit_terms(height, width), border_ring(height, width).reshape(-1)
    bare = np.ones_like(ring) if covered is None else ~covered.reshape(-1)
    if covered is None or bare.sum() < FIT_PIXELS_MIN:
        away = np.abs(values - np.median(values[ring], 0)).max(1)
        use = ring & (away < max(20.0, 3 * 1.4826 * float(np.median(away[ring]))))
    else:
        ring = use = bare
    for step in range(RING_FITS + FRAME_FITS):
        if use.sum() < FIT_PIXELS_MIN:
            use = ring
        surface = _least_squares(terms[use], values[use])
        residual = np.abs(values - terms @ surface).max(1)
        near = residual < 3 * (1.4826 * float(np.median(residual[use])) + 0.5)
        use = near & (ring if step + 1 < RING_FITS else bare)
    return np.ascontiguousarray(surface.T, np.float32)


def _least_squares(terms: Plane, values: Plane) -> Plane:
    normal = terms.T @ terms + np.float32(1e-6) * np.eye(6, dtype=np.float32)
    try:
        return np.linalg.solve(normal, terms.T @ values).astype(np.float32)
    except np.linalg.LinAlgError:  # too few pixels to tell every term: the smallest surface through them
        return np.linalg.lstsq(terms, values, rcond=1e-6)[0].astype(np.float32)


def background(surface: Plane, height: int, width: int) -> Plane:
    """Evaluate a fitted surface (C, 6) on a frame: (height, width, C), exact on a coarse grid, bilinear between."""
    k = max(1, round(max(height, width) / FIT_SIDE))
    rows, cols = max(2, height // k), max(2, width // k)
    coarse = (fit_terms(rows, cols) @ surface.T).reshape(rows, cols, -1)
    fine: Plane = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return fine.reshape(height, width, -1)


def deviation(image: Image | Plane, surface: Plane) -> tuple[Plane, Plane]:
    """Return how far `image` (h, w[, C]) in gray levels lies from the background, in units of it.

    Both are (h, w): the signed mean over the channels, and the largest absolute value over them.
    """
    height, width = image.shape[:2]
    light = background(surface, height, width)
    values = image.reshape(height, width, -1).astype(np.float32)
    u = np.divide(values - light, np.maximum(light, np.float32(FLOOR)), dtype=np.float32)
    if u.shape[2] == 1:
        return u[..., 0], np.abs(u[..., 0])
    return u.mean(2), np.abs(u).max(2)
