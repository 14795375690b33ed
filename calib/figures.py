"""Pictures for the report: heat maps and parts as data URIs, the score histogram as inline SVG."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

BINS = 40
WIDTH, HEIGHT, FOOT = 760, 260, 46  # of the histogram, SVG units
THUMBNAIL = 480  # long side of a picture, pixels
QUALITY = 85
OUTLINE = (0, 200, 60)  # BGR
OPACITY = 0.65  # of the heat where the map reaches the limit

Map = NDArray[np.float32]
Picture = NDArray[np.uint8]


def uri(picture: Picture) -> str:
    """Return a uint8 BGR picture as a data URI (JPEG: a report with a dozen parts stays under a megabyte)."""
    data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


def part(canonical: Map, low: float, high: float) -> Picture:
    """Return a canonical picture (H, W) or (H, W, 3) as uint8 BGR, `low` black and `high` white, thumbnail size."""
    scaled = np.clip((canonical - low) / (high - low), 0, 1)
    gray = (255 * scaled).astype(np.uint8)
    picture = cv2.cvtColor(gray, cv2.COLOR_GRAY2BGR) if gray.ndim == 2 else gray
    size = thumbnail_size(picture.shape[0], picture.shape[1])
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))


def thumbnail_size(height: int, width: int) -> tuple[int, int]:
    """Return (w, h) with the long side THUMBNAIL."""
    scale = THUMBNAIL / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def heat(values: Map, mask: NDArray[np.bool_], size: tuple[int, int]) -> tuple[Picture, float, float]:
    """Return zone values (rows, cols) as colours at `size` (w, h), and the values of the darkest and brightest."""
    low, high = (float(v) for v in np.percentile(values[mask], [1, 99]))
    scaled = np.clip((values - low) / max(high - low, 1e-9), 0, 1)
    colours = cv2.applyColorMap((255 * scaled).astype(np.uint8), cv2.COLORMAP_VIRIDIS)
    colours[~mask] = 255
    return np.asarray(cv2.resize(colours, size, interpolation=cv2.INTER_NEAREST)), low, high


def marked(picture: Picture, decision: Map, threshold: float) -> Picture:
    """Return the part with heat where the decision map nears or passes the threshold."""
    size = picture.shape[1], picture.shape[0]
    share = cv2.resize(decision / max(threshold, 1e-9), size, interpolation=cv2.INTER_LINEAR)
    alpha = OPACITY * np.clip((share - 0.5) / 0.5, 0, 1)[..., None]
    red = np.array((30, 30, 230), np.float32)
    return np.asarray((picture * (1 - alpha) + red * alpha).astype(np.uint8))


def outlined(picture: Picture, mask: Picture) -> Picture:
    """Return the picture with the outline of `mask`, (h, w) of any size, on it."""
    whole = cv2.resize(mask, (picture.shape[1], picture.shape[0]), interpolation=cv2.INTER_NEAREST)
    contours = cv2.findContours(whole, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    return np.asarray(cv2.drawContours(picture.copy(), contours, -1, OUTLINE, 2, cv2.LINE_AA))


def histogram(scores: Sequence[float], threshold: float) -> str:
    """Return an SVG of the scores of good parts, those above the threshold in another colour."""
    low, high = min(*scores, threshold), max(*scores, threshold)
    span = max(high - low, 1e-9) * 1.08
    counts, edges = np.histogram(scores, BINS, (low, low + span))
    top = max(int(counts.max()), 1)

    def at(value: float) -> float:
        return 40 + (WIDTH - 60) * (value - low) / span

    def tall(count: float) -> float:
        return (HEIGHT - FOOT - 24) * count / top

    floor = HEIGHT - FOOT
    bars = "".join(
        f'<rect class="{"bad" if left >= threshold else "good"}" x="{at(left):.1f}" y="{floor - tall(count):.1f}" '
        f'width="{at(right) - at(left) - 1:.1f}" height="{tall(count):.1f}"><title>{count} images</title></rect>'
        for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True)
    )
    ticks = "".join(
        f'<text x="{at(value):.1f}" y="{floor + 16}" text-anchor="middle">{value:.1f}</text>'
        for value in np.linspace(low, low + span, 7)
    )
    line, side = at(threshold), "end" if at(threshold) > WIDTH / 2 else "start"
    label = line + (-6 if side == "end" else 6)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="score histogram">{bars}'
        f'<line class="axis" x1="40" y1="{floor}" x2="{WIDTH - 20}" y2="{floor}"/>{ticks}'
        f'<text x="34" y="{floor - tall(top) + 4:.1f}" text-anchor="end">{top}</text>'
        f'<text x="34" y="{floor}" text-anchor="end">0</text>'
        f'<line class="limit" x1="{line:.1f}" y1="6" x2="{line:.1f}" y2="{floor}"/>'
        f'<text class="limit" x="{label:.1f}" y="16" text-anchor="{side}">limit {threshold:.2f}</text>'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">score: {escape("how unusual the part is")}</text>'
        "</svg>"
    )
