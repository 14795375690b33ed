"""The defects that drawn parts can have, each a function of a generator and a Part to a Part.

Every flaw lies on the metal (alpha of one), is large enough for a person to see at 480x640 and grows with the part.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.source.shapes import Part

Plane = NDArray[np.float32]


def _depth(part: Part) -> Plane:
    """Return how far inside the metal each pixel lies; 0 outside and at the canvas' border, which may be unseen."""
    depth: Plane = cv2.distanceTransform((part.alpha > 0.99).astype(np.uint8), cv2.DIST_L2, 3)
    rows, cols = (side // 12 for side in depth.shape)
    depth[:rows] = depth[-rows:] = 0
    depth[:, :cols] = depth[:, -cols:] = 0
    return depth


def _pick(rng: np.random.Generator, where: NDArray[np.bool_]) -> tuple[float, float]:
    """Return a random (x, y) where `where` holds."""
    rows, cols = np.nonzero(where)
    k = int(rng.integers(len(rows)))
    return float(cols[k]), float(rows[k])


def _spot(rng: np.random.Generator, part: Part, inset: float) -> tuple[float, float]:
    """Return a random (x, y) on the part, `inset` pixels or more from its edges where there is such a place."""
    depth = _depth(part)
    return _pick(rng, depth >= min(inset, 0.8 * float(depth.max())))


def _scale(part: Part) -> float:
    return float(min(part.alpha.shape)) / 375  # 1.0 for a part on a 480x640 frame


def scratch(rng: np.random.Generator, part: Part) -> Part:
    """A thin curved groove: a bright burr beside a dark line."""
    scale = _scale(part)
    x, y = _spot(rng, part, 8 * scale)
    along = np.linspace(-0.5, 0.5, 24)[:, None] * rng.uniform(55, 110) * scale
    angle, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-0.004, 0.004) / scale
    direction = np.array([np.cos(angle), np.sin(angle)])
    normal = np.array([-direction[1], direction[0]])
    line = np.array([x, y]) + along * direction + bend * along**2 * normal
    groove, burr = np.zeros(part.alpha.shape, np.uint8), np.zeros(part.alpha.shape, np.uint8)
    width = max(1, round(rng.uniform(1.6, 2.6) * scale))
    for canvas, points in ((groove, line), (burr, line + 1.6 * scale * normal)):
        cv2.polylines(canvas, [np.round(points * 16).astype(np.int32)], False, 255, width, cv2.LINE_AA, 4)
    depth = np.float32(rng.uniform(0.35, 0.5))
    light = np.float32(0.7 / 255) * depth * cv2.subtract(burr, groove).astype(np.float32)
    return part.times(1 - depth * groove.astype(np.float32) / np.float32(255) + light)


def pit(rng: np.random.Generator, part: Part) -> Part:
    """A small round hole in the surface with a raised rim."""
    scale = _scale(part)
    radius = rng.uniform(4.0, 7.5) * scale
    x, y = _spot(rng, part, 1.5 * radius)
    rows, cols = np.ogrid[: part.alpha.shape[0], : part.alpha.shape[1]]
    distance = np.sqrt((cols - x) ** 2 + (rows - y) ** 2).astype(np.float32) / np.float32(radius)
    bowl = np.exp(-(distance**4)).astype(np.float32)
    return part.times(1 - np.float32(0.45) * bowl)._replace(height=part.height - np.float32(0.7) * bowl)


def stain(rng: np.random.Generator, part: Part) -> Part:
    """An irregular film of oil or rust: darker, soft inside and with a drying edge."""
    scale = _scale(part)
    x, y = _spot(rng, part, 12 * scale)
    size = rng.uniform(16, 30) * scale
    angle = np.arange(48) * (2 * np.pi / 48)
    lobes = sum(rng.uniform(-0.2, 0.2) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in range(2, 6))
    outline = np.stack([x + size * (1 + lobes) * np.cos(angle), y + size * (0.75 + lobes) * np.sin(angle)], -1)
    film = np.zeros(part.alpha.shape, np.uint8)
    cv2.fillPoly(film, [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(film.astype(np.float32) / 255, (0, 0), 1.5 * scale)
    inner = cv2.GaussianBlur(soft, (0, 0), 4 * scale)
    strength = np.float32(rng.uniform(0.22, 0.34))
    factor = 1 - strength * (soft - np.float32(0.35) * inner * soft)
    if part.albedo.ndim == 2:
        return part.times(factor)
    rust = part.albedo * (1 - (1 - factor)[..., None] * np.array([1.5, 1.1, 0.6], np.float32))
    return part._replace(albedo=rust)


def _rim(rng: np.random.Generator, part: Part) -> tuple[float, float]:
    """Return a random (x, y) at the part's outline, or anywhere when it has none."""
    edge = (_depth(part) > 0) & (cv2.erode(part.alpha, np.ones((3, 3))) < 0.99)
    return _pick(rng, edge) if edge.any() else _spot(rng, part, 0)


def _facing(part: Part, x: float, y: float) -> float:
    """Return the direction (radians) that the outline faces at (x, y); 0 where there is none."""
    soft = cv2.GaussianBlur(part.alpha, (0, 0), 3)
    gx, gy = (cv2.Sobel(soft, cv2.CV_32F, *order)[int(y), int(x)] for order in ((1, 0), (0, 1)))
    return float(np.arctan2(gy, gx))


def deformation(rng: np.random.Generator, part: Part) -> Part:
    """A bent or dented place: everything near a spot on the outline is pushed in or pulled out."""
    scale = _scale(part)
    x, y = _rim(rng, part)
    angle = _facing(part, x, y) + np.pi * rng.integers(2)
    push = rng.uniform(11, 16) * scale
    rows, cols = np.indices(part.alpha.shape, np.float32)
    reach = np.float32(rng.uniform(28, 42) * scale)
    bump = np.float32(push) * np.exp(-((cols - np.float32(x)) ** 2 + (rows - np.float32(y)) ** 2) / (2 * reach**2))
    from_x, from_y = cols - np.float32(np.cos(angle)) * bump, rows - np.float32(np.sin(angle)) * bump
    moved = [cv2.remap(plane, from_x, from_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for plane in part]
    return Part(*moved)


FLAWS: dict[str, Callable[[np.random.Generator, Part], Part]] = {
    "scratch": scratch,
    "pit": pit,
    "stain": stain,
    "deformation": deformation,
}
