"""Poses, points and samples: canonical coordinates are image pixels with the origin in the middle of the part.

image point = magnification R(angle) p + (x, y). Angles in radians, pixel centres at whole numbers (OpenCV's
convention), so a picture scaled by s shows image point q at (q + 0.5) s - 0.5.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]
Points = NDArray[np.float32]  # (n, 2)
Matrix = NDArray[np.float64]

ROWS = 64  # cv2.remap takes points as a picture, whose sides are bounded


class Pose(NamedTuple):
    """Where a part lies; magnification stays 1 except where a part's size is being measured."""

    angle: float
    x: float
    y: float
    magnification: float = 1.0

    def matrix(self) -> Matrix:
        """Return float64 (2, 3), canonical to image coordinates."""
        turn = self.magnification * rotation(self.angle)
        return np.hstack([turn, [[self.x], [self.y]]])


class Layer(NamedTuple):
    """A float32 picture (h, w) of part of an image: image point q shows at (q + 0.5) scale - 0.5 - offset."""

    values: Plane
    scale: float
    offset: tuple[float, float] = (0.0, 0.0)


def rotation(angle: float) -> Matrix:
    """Return the 2x2 rotation by `angle`."""
    c, s = float(np.cos(angle)), float(np.sin(angle))
    return np.array([[c, -s], [s, c]])


def wrap(angle: float) -> float:
    """Return the same angle in -pi..pi."""
    return float((angle + np.pi) % (2 * np.pi) - np.pi)


def grid(half_width: float, half_height: float, step: float) -> NDArray[np.float32]:
    """Return canonical points (ny, nx, 2) at the centres of square cells of side `step` around the origin."""
    axes = [(np.arange(round(2 * half / step)) + 0.5) * step - half for half in (half_width, half_height)]
    return np.stack(np.meshgrid(*axes), -1).astype(np.float32)


def to_layer(points: Points, pose: Pose, layer: Layer) -> Points:
    """Return where canonical points (..., 2) show in `layer`."""
    matrix = pose.matrix() * layer.scale
    matrix[:, 2] += 0.5 * layer.scale - 0.5 - np.array(layer.offset)
    shown: Points = cv2.transform(points.reshape(1, -1, 2), matrix)  # three times as fast as numpy's product
    return shown.reshape(points.shape)


def sample(values: Plane, where: Points) -> Plane:
    """Return `values` (h, w) at pixel positions (..., 2), bilinear, 0 outside."""
    flat = where.reshape(-1, 2)
    padded = np.empty((-(-len(flat) // ROWS) * ROWS, 2), np.float32)
    padded[: len(flat)], padded[len(flat) :] = flat, flat[-1]
    read: Plane = cv2.remap(values, padded.reshape(ROWS, -1, 2), None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return read.reshape(-1)[: len(flat)].reshape(where.shape[:-1])


def read(layer: Layer, points: Points, pose: Pose) -> Plane:
    """Return the layer's values at canonical points (..., 2) of a part that lies in `pose`."""
    return sample(layer.values, to_layer(points, pose, layer))
