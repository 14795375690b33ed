"""Evidence: what was held against which limit, as pictures beside the original that a person can compare with it.

`anomaly_map` shows how far each place is on its way to the limit, `zone_limits` how much error each zone of the part
may have: where good parts vary much, much is allowed. Both lie as the part lay, and are drawn small: a cell is several
pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.vision.crop import Picture, captioned, smaller_bgr, to_original

if TYPE_CHECKING:
    from line_worker.vision.inspection import Inspected

LONGEST = 512  # pixels of a picture's longer side
HOTTEST = 2.0  # times the limit: the end of the scale
FLAT = 0.01  # of the limit: zones that differ by less are one; distances to a memory have none
DIM = 0.25  # of the original, where nothing is judged
BANNER = (60, 60, 60)  # BGR

Map = NDArray[np.float32]


def anomaly_map(image: NDArray[Any], inspected: Inspected) -> Picture | None:
    """Return how unusual each place of an anomaly was, uint8 BGR; a white line runs where its limit is reached."""
    if inspected.cells is None or inspected.allowed is None or inspected.threshold <= 0:
        return None
    judged = np.where(np.isfinite(inspected.allowed), inspected.cells / inspected.threshold, np.nan)
    picture, share = _placed(image, inspected, judged)
    shown = _coloured(picture, share / HOTTEST, np.isfinite(share))
    above = (np.nan_to_num(share, nan=0.0) > 1).astype(np.uint8)
    edges, _ = cv2.findContours(above, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(shown, edges, -1, (255, 255, 255), 1)
    return captioned(shown, f"yellow: {HOTTEST:g} x the limit; white line: the limit", BANNER)


def zone_limits(image: NDArray[Any], inspected: Inspected) -> Picture | None:
    """Return the error that each zone may have, uint8 BGR, from the strictest zone (dark) to the most tolerant."""
    if inspected.allowed is None:
        return None
    judged = inspected.allowed[np.isfinite(inspected.allowed)]
    if not judged.size:
        return None
    low, high = (float(value) for value in np.percentile(judged, (2, 98)))
    allowed = np.where(np.isfinite(inspected.allowed), inspected.allowed, np.nan).astype(np.float32)
    picture, limits = _placed(image, inspected, allowed)
    if high - low < FLAT * abs(high):
        shown = _coloured(picture, np.full_like(limits, 0.5), np.isfinite(limits))
        return captioned(shown, f"error allowed: {high:.2f} everywhere", BANNER)
    shown = _coloured(picture, (limits - low) / (high - low), np.isfinite(limits))
    return captioned(shown, f"error allowed: dark {low:.2f}, yellow {high:.2f}", BANNER)


def _placed(image: NDArray[Any], inspected: Inspected, cells: Map) -> tuple[Picture, Map]:
    """Return the original, small, and `cells` over it, NaN where there are none."""
    assert inspected.matrix is not None
    picture = smaller_bgr(image, LONGEST)
    height, width = inspected.canonical
    over = cv2.resize(cells.astype(np.float32), (width, height), interpolation=cv2.INTER_NEAREST)
    matrix = inspected.matrix * (picture.shape[1] / image.shape[1])
    size = picture.shape[0], picture.shape[1]
    return picture, to_original(over, matrix, size, float("nan"), cv2.INTER_NEAREST)


def _coloured(picture: Picture, values: Map, judged: NDArray[np.bool_]) -> Picture:
    """Return `values`, 0 to 1, in colours that also the colour-blind can order, over a dim picture elsewhere."""
    levels = (255 * np.clip(np.nan_to_num(values), 0, 1)).astype(np.uint8)
    colours = cv2.applyColorMap(levels, cv2.COLORMAP_CIVIDIS)
    return np.where(judged[..., None], colours, (picture * DIM).astype(np.uint8)).astype(np.uint8)
