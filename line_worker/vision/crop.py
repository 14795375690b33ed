"""Crop: from an anomaly map to boxes, overlays and crops that a person understands at a glance."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.verdicts import Reason, Verdict, verdict_of

if TYPE_CHECKING:
    from line_worker.vision.inspection import Inspected

MAX_BOXES = 8
EDGE = 0.6  # a region reaches down to this share of the threshold around a peak above it
HEAT = 0.5  # opacity of the heat where the map is far above the threshold
CONTEXT = 0.5  # of a box's side, shown around it in a crop
COLOURS = {Verdict.PASS: (80, 160, 40), Verdict.FAIL: (40, 40, 220), Verdict.NO_DECISION: (0, 150, 230)}  # BGR

Map = NDArray[np.float32]
Picture = NDArray[np.uint8]


class Box(NamedTuple):
    """An anomalous region, in pixels of the original image, and why it is one, at its worst cell.

    zone: (row, col) of that cell. error: its error, 1 being usual; neighbours: the mean error around it; limit:
    the error at which this zone alone would fail the part; sigma: the error's distance from the zone's usual one.
    """

    x: int
    y: int
    w: int
    h: int
    zone: tuple[int, int]
    error: float
    neighbours: float
    limit: float
    sigma: float


class Figures(NamedTuple):
    """Why a cell is unusual; see Box."""

    error: float
    neighbours: float
    limit: float
    sigma: float


Explain = Callable[[int, int], Figures]  # row, col


def find_boxes(
    decision: Map,
    explain: Explain,
    threshold: float,
    matrix: NDArray[np.float64],
    canonical: tuple[int, int],
    image: tuple[int, int],
) -> tuple[Box, ...]:
    """Return the regions of a decision map (rows, cols) above `threshold`, worst first, at most MAX_BOXES.

    explain: the figures behind a cell. matrix: (2, 3), canonical pixel -> original pixel. canonical, image: (H, W) of
    both.
    """
    above = decision > (threshold * EDGE if threshold > 0 else threshold)
    count, labels = cv2.connectedComponents(above.astype(np.uint8))
    places = np.argwhere(above)  # few: all that follows is about these cells
    values, owners = decision[above], labels[above]
    peaks = np.full(count, -np.inf, np.float32)
    np.maximum.at(peaks, owners, values)
    worst = sorted((label for label in range(1, count) if peaks[label] > threshold), key=lambda k: -peaks[k])
    boxes = []
    for label in worst[:MAX_BOXES]:
        mine = owners == label
        row, col = places[mine][values[mine].argmax()].tolist()
        frame = _frame(places[mine], decision.shape, matrix, canonical, image)
        boxes.append(Box(*frame, (row, col), *explain(row, col)))
    return tuple(boxes)


def _frame(
    cells: NDArray[np.int64],
    grid: tuple[int, ...],
    matrix: NDArray[np.float64],
    canonical: tuple[int, int],
    image: tuple[int, int],
) -> tuple[int, int, int, int]:
    """Return x, y, w, h around cells (n, 2), rows and columns of `grid`, in the original image, at least a pixel."""
    side = np.array([canonical[1] / grid[1], canonical[0] / grid[0]])
    first = (cells[:, ::-1] * side - 0.5) @ matrix[:, :2].T + matrix[:, 2]  # where their first corners lie
    edges = matrix[:, :2] * side  # (2, 2): how far x and y move along each side of a cell
    top = np.array([image[1], image[0]])
    low = np.clip(np.floor(first.min(0) + np.minimum(edges, 0).sum(1)), 0, top - 1).astype(int)
    high = np.clip(np.ceil(first.max(0) + np.maximum(edges, 0).sum(1)), low + 1, top).astype(int)
    (x, y), (w, h) = low.tolist(), (high - low).tolist()
    return x, y, w, h


def to_original(
    canonical: Map, matrix: NDArray[np.float64], image: tuple[int, int], outside: float, flags: int = cv2.INTER_LINEAR
) -> Map:
    """Return a canonical map (H, W) in the frame of the original image (H, W), `outside` where it has no value."""
    warped: Map = cv2.warpAffine(
        canonical, matrix, image[::-1], flags=flags, borderMode=cv2.BORDER_CONSTANT, borderValue=outside
    )
    return warped


def overlay(image: NDArray[Any], inspected: Inspected) -> Picture:
    """Return `image` as uint8 BGR with the verdict in words, the anomaly as heat and a box around each region."""
    picture = to_bgr(image)
    verdict = verdict_of(inspected.reason)
    if verdict is Verdict.FAIL:
        picture = _heated(picture, inspected)
    thick = max(1, round(max(picture.shape) / 400))
    for box in inspected.boxes:
        margin = 2 * thick
        corners = (box.x - margin, box.y - margin), (box.x + box.w + margin, box.y + box.h + margin)
        cv2.rectangle(picture, *corners, COLOURS[verdict], thick)
    return captioned(picture, _caption(inspected), COLOURS[verdict])


def crops(image: NDArray[Any], inspected: Inspected) -> list[Picture]:
    """Return each box of `inspected` cut out of `image` with half a side of context, uint8 BGR."""
    picture = to_bgr(image)
    cut = []
    for box in inspected.boxes:
        dx, dy = round(box.w * CONTEXT) + 8, round(box.h * CONTEXT) + 8
        rows = slice(max(0, box.y - dy), box.y + box.h + dy)
        cut.append(picture[rows, max(0, box.x - dx) : box.x + box.w + dx].copy())
    return cut


def to_bgr(image: NDArray[Any]) -> Picture:
    """Return a gray or BGR image of 8 or 16 bit as uint8 BGR; 16 bit is stretched to its own brightest pixel."""
    if image.dtype != np.uint8:
        image = (image * (255 / max(1, int(image.max())))).astype(np.uint8)
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image.copy())


def smaller_bgr(image: NDArray[Any], longest: int) -> Picture:
    """Return `to_bgr` of an image scaled down until its longer side is at most `longest`."""
    scale = min(1.0, longest / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return to_bgr(cv2.resize(image, size, interpolation=cv2.INTER_AREA) if scale < 1 else image)


def _heated(picture: Picture, inspected: Inspected) -> Picture:
    """Tint what is above the threshold's edge red, the more the further it is above."""
    if inspected.anomaly is None or inspected.matrix is None or inspected.threshold <= 0:
        return picture
    size = picture.shape[0], picture.shape[1]
    height = to_original(inspected.anomaly / inspected.threshold, inspected.matrix, size, 0.0)
    alpha = HEAT * np.clip((height - EDGE) / (1.5 - EDGE), 0, 1)[..., None]
    heat = np.array((0, 40, 255), np.float32)
    tinted: Picture = (picture * (1 - alpha) + heat * alpha).astype(np.uint8)
    return tinted


def _caption(inspected: Inspected) -> str:
    verdict = verdict_of(inspected.reason)
    if verdict is Verdict.NO_DECISION:
        return f"NO DECISION: {inspected.reason.name}"
    relation = ">" if inspected.reason is Reason.ANOMALY else "<="
    return f"{verdict.value}  score {inspected.score:.2f} {relation} limit {inspected.threshold:.2f}"


def captioned(picture: Picture, text: str, colour: tuple[int, int, int]) -> Picture:
    """Return the picture under a banner with `text`, as large as the width allows."""
    width = picture.shape[1]
    (base, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 1.0, 2)
    scale = min(1.0 * width / 640, 0.94 * width / base)
    thick = max(1, round(2 * scale))
    (_, tall), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    banner = np.full((2 * tall + below, width, 3), colour, np.uint8)
    place = (round(0.03 * width), tall + (tall + below) // 2 - below // 2)
    cv2.putText(banner, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), thick, cv2.LINE_AA)
    return np.concatenate([banner, picture])
