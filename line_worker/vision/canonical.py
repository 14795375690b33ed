"""The canonical picture of a part: straightened, background-divided, always the same size."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.vision.background import FLOOR, LEVELS, Image, Plane, quadratic
from line_worker.vision.geometry import Matrix, Pose, rotation

LONG_SIDE = 1024  # the canonical picture is never longer
PIXELS = 200 << 10  # nor larger: what a CPU looks at in time
ALIGN = 32  # its sides are multiples of this, which convolutions like
CELL = 16  # the background is evaluated on cells of this many pixels


def canonical_size(width: float, height: float) -> tuple[tuple[int, int], float]:
    """Return (H, W) for a box of (width, height) pixels, rounded up to whole cells, and its pixels per image pixel."""
    scale = min(1.0, LONG_SIDE / max(width, height), (PIXELS / (width * height)) ** 0.5)
    rows, cols = (-int(-side * scale // ALIGN) * ALIGN for side in (height, width))
    return (rows, cols), scale


def canonical_matrix(pose: Pose, size: tuple[int, int], scale: float) -> Matrix:
    """Return float64 (2, 3): canonical pixel (x, y) of a part in `pose` to image pixel."""
    turn = rotation(pose.angle) / scale
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    return np.hstack([turn, (np.array([pose.x, pose.y]) - turn @ middle)[:, None]])


def straighten(image: Image, matrix: Matrix, size: tuple[int, int]) -> Image | Plane:
    """Return the pixels of `image` that `matrix` points at, (H, W[, C]), same type; the frame's edge is continued."""
    height, width = image.shape[:2]
    smaller = averaged((height, width), float(np.hypot(matrix[0, 0], matrix[1, 0])))
    if smaller != (height, width):
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
        factors = np.array([image.shape[1] / width, image.shape[0] / height])
        matrix = matrix * factors[:, None]
        matrix[:, 2] += 0.5 * factors - 0.5
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out: Image = cv2.warpAffine(image, matrix, size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return out


def averaged(shape: tuple[int, int], step: float) -> tuple[int, int]:
    """Return (h, w) of the picture that is sampled, for `step` image pixels per canonical pixel.

    It is averaged first: sampling every third pixel would let noise and fine texture through.
    """
    shrink = max(1, int(step + 1e-9))
    return shape[0] // shrink, shape[1] // shrink


def divide_background(
    pixels: Image | Plane, surface: Plane, matrix: Matrix, shape: tuple[int, int], white: float
) -> NDArray[np.float32]:
    """Return 1 + (I - bg) / max(bg, FLOOR) for canonical `pixels`: I / bg, except on dark backgrounds.

    surface (C, 6) is the background in gray levels, shape the frame's (H, W), white the camera's full scale.
    """
    height, width = pixels.shape[:2]
    x, y = np.meshgrid(*((np.arange(n // CELL) + 0.5) * CELL - 0.5 for n in (width, height)))
    frame_x = (matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2] + 0.5) / shape[1] * 2 - 1
    frame_y = (matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2] + 0.5) / shape[0] * 2 - 1
    light = quadratic(frame_x.astype(np.float32), frame_y.astype(np.float32)) @ surface.T
    floored = np.maximum(light, np.float32(FLOOR))
    gain, rest = (
        cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR).reshape(pixels.shape)
        for part in (np.float32(LEVELS / white) / floored, 1 - light / floored)
    )
    divided: Plane = cv2.multiply(pixels, gain, dtype=cv2.CV_32F)
    divided += rest
    return divided
