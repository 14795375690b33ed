"""A defect that no bundle may miss, painted on a live picture: a large spot in the middle of what is judged.

The spot is as far from the part's own brightness as the picture allows, a fifth of the part's size across, and lies
where the part is broad, so that it hides neither the outline nor the pose.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

SIZE = 0.2  # its diameter, of the side of a square of the part's area
SMALLEST = 6.0  # canonical pixels across
BROAD = 0.6  # it lies where the part is at least so broad, of its broadest place
CORNERS = 24


def paint_spot(
    image: NDArray[Any], matrix: NDArray[np.float64], judged: NDArray[np.bool_], white: float, seed: int
) -> NDArray[Any]:
    """Return a copy of `image`, (H, W) or (H, W, 3) uint8 or uint16, with a spot at a place that `seed` chooses.

    matrix: (2, 3), canonical pixel (x, y) -> image pixel. judged: bool (h, w), the canonical pixels that count.
    Raises ValueError when nothing is judged.
    """
    place, radius = _place(judged, seed)
    turns = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    circle = place + radius * np.stack([np.cos(turns), np.sin(turns)], 1)
    outline = circle @ matrix[:, :2].T + matrix[:, 2]
    spot = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(spot, [np.rint(outline).astype(np.int32)], 1)
    around = cv2.dilate(spot, np.ones((3, 3), np.uint8), iterations=2) > 0
    painted = image.copy()
    bright = around.any() and float(np.median(image[around])) > white / 2
    painted[spot > 0] = 0 if bright else int(white)
    return painted


def _place(judged: NDArray[np.bool_], seed: int) -> tuple[NDArray[np.float64], float]:
    """Return the spot's centre (x, y) and radius in canonical pixels."""
    if not judged.any():
        raise ValueError("no pixel of the part is judged, so no defect can be painted on it")
    framed = np.pad(judged.astype(np.uint8), 1)  # the frame's edge is an edge, too
    depth = cv2.distanceTransform(framed, cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, cols = np.nonzero(depth >= BROAD * depth.max())
    chosen = int(np.random.default_rng(seed).integers(len(rows)))
    diameter = max(SMALLEST, SIZE * math.sqrt(np.count_nonzero(judged)))
    return np.array([cols[chosen], rows[chosen]], np.float64), diameter / 2
