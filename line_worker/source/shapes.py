"""Outlines of the drawn parts, as polygons in units of the part's radius, and the flat relief they are painted into.

A part is a list of pieces painted one over the other: metal, a raised feature, or a cut that shows the background.
Pieces marked `optional` are the features that the defect "missing" leaves out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Colour = tuple[float, float, float]

SUPERSAMPLE = 2
THREADS = 34  # threads of the weave across the short side
SUBPIXEL_BITS = 4
STEEL: Colour = (0.56, 0.55, 0.53)
RED: Colour = (0.16, 0.15, 0.62)
BLUE: Colour = (0.52, 0.30, 0.14)
CREAM: Colour = (0.72, 0.82, 0.86)
BRONZE: Colour = (0.17, 0.29, 0.38)


class Part(NamedTuple):
    """A part in its own pixels, all float32: alpha (S, T) in 0..1, height (S, T) in sheet thicknesses, albedo 0..1."""

    alpha: NDArray[np.float32]
    height: NDArray[np.float32]
    albedo: NDArray[np.float32]  # (S, T) or (S, T, 3) BGR

    def times(self, factor: NDArray[np.float32]) -> Part:
        """Return the part with its albedo multiplied by `factor`, (S, T) or what broadcasts to it."""
        return self._replace(albedo=self.albedo * (factor[..., None] if self.albedo.ndim == 3 else factor))


class Piece(NamedTuple):
    """A polygon (n, 2) at a height (0 cuts through to the background) with an albedo in BGR."""

    points: Points
    height: float = 1.0
    albedo: Colour = STEEL
    optional: bool = False


def circle(x: float, y: float, radius: float, n: int = 64) -> Points:
    """Return a regular polygon (n, 2) around (x, y)."""
    angle = np.arange(n) * (2 * np.pi / n)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], -1)


def box(x0: float, y0: float, x1: float, y1: float, corner: float = 0.0) -> Points:
    """Return a rectangle whose corners are rounded with radius `corner`."""
    quarter = np.linspace(0, np.pi / 2, 8 if corner else 1)
    centres = [
        (x1 - corner, y1 - corner),
        (x0 + corner, y1 - corner),
        (x0 + corner, y0 + corner),
        (x1 - corner, y0 + corner),
    ]
    arcs = [
        np.stack([cx + corner * np.cos(quarter + k * np.pi / 2), cy + corner * np.sin(quarter + k * np.pi / 2)], -1)
        for k, (cx, cy) in enumerate(centres)
    ]
    return np.concatenate(arcs)


def turned(points: Points, angle: float) -> Points:
    """Return the points rotated about the origin by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    rotated: Points = points @ np.array([[c, s], [-s, c]])
    return rotated


def bracket() -> list[Piece]:
    """An L-shaped bracket with holes, a slot and an embossed rib."""
    return [
        Piece(box(-0.82, 0.22, 0.84, 0.66, 0.08)),
        Piece(box(-0.82, -0.66, -0.36, 0.66, 0.08)),
        Piece(np.array([[-0.40, -0.02], [-0.40, 0.28], [-0.06, 0.28]])),
        Piece(box(-0.25, 0.40, 0.12, 0.48, 0.04), 1.6, optional=True),
        Piece(circle(-0.59, 0.44, 0.13), 0, optional=True),
        Piece(circle(-0.59, -0.42, 0.10), 0, optional=True),
        Piece(box(0.34, 0.37, 0.66, 0.52, 0.075), 0, optional=True),
    ]


def pin() -> list[Piece]:
    """A turned pin: head, groove, shaft with a cross hole, and a chamfered tip."""
    return [
        Piece(box(-0.72, -0.105, 0.80, 0.105, 0.02)),
        Piece(box(-0.96, -0.20, -0.70, 0.20, 0.05)),
        Piece(np.array([[0.78, -0.105], [0.97, -0.045], [0.97, 0.045], [0.78, 0.105]]), optional=True),
        Piece(box(-0.50, -0.155, -0.42, 0.155, 0.02), optional=True),
        Piece(circle(0.52, 0.0, 0.05, 32), 0, optional=True),
        Piece(box(-0.02, -0.14, 0.03, -0.075), 0),
        Piece(box(-0.02, 0.075, 0.03, 0.14), 0),
    ]


def gear() -> list[Piece]:
    """A spur gear with 18 teeth, a raised hub, a keyed bore and one timing hole."""
    tooth = np.array([[0.70, -0.11], [0.93, -0.055], [0.93, 0.055], [0.70, 0.11]])
    teeth = [Piece(turned(tooth, k * np.pi / 9), optional=True) for k in range(18)]
    return [
        *teeth,
        Piece(circle(0, 0, 0.75, 96)),
        Piece(circle(0, 0, 0.38), 1.6),
        Piece(circle(0, 0, 0.20), 0),
        Piece(box(-0.055, -0.28, 0.055, -0.10), 0, optional=True),
        Piece(circle(0.40, 0.40, 0.075, 32), 0, optional=True),
    ]


def washer() -> list[Piece]:
    """A flat ring with one notch in its rim and a punched mark."""
    return [
        Piece(circle(0, 0, 0.88, 128)),
        Piece(circle(0, 0, 0.46, 96), 0),
        Piece(box(-0.09, -0.95, 0.09, -0.70, 0.03), 0, optional=True),
        Piece(circle(0.50, 0.44, 0.05, 24), 0.4),
    ]


def badge() -> list[Piece]:
    """An enamelled badge: bronze plate, two coloured fields, a star and a bar."""
    radii = np.where(np.arange(10) % 2, 0.10, 0.24)
    spokes = np.arange(10) * np.pi / 5 - np.pi / 2
    star = np.stack([-0.42 + radii * np.cos(spokes), radii * np.sin(spokes)], -1)
    return [
        Piece(box(-0.86, -0.50, 0.86, 0.50, 0.16), albedo=BRONZE),
        Piece(box(-0.78, -0.42, -0.06, 0.42, 0.10), 0.8, RED),
        Piece(box(0.06, -0.42, 0.78, 0.42, 0.10), 0.8, BLUE),
        Piece(star, 1.2, CREAM, optional=True),
        Piece(box(0.18, -0.26, 0.66, -0.12, 0.04), 1.2, CREAM, optional=True),
        Piece(circle(0.54, 0.16, 0.13, 48), 1.2, CREAM, optional=True),
        Piece(circle(0.26, 0.16, 0.07, 32), 0, optional=True),
    ]


OUTLINES: dict[str, Callable[[], list[Piece]]] = {
    "bracket": bracket,
    "pin": pin,
    "gear": gear,
    "washer": washer,
    "badge": badge,
}


def paint(pieces: list[Piece], radius: float, colour: bool) -> Part:
    """Paint pieces onto a square canvas whose centre is the part's origin.

    Everything is anti-aliased; S = 2 ceil(1.08 radius) + 1.
    """
    half = int(np.ceil(1.08 * radius))
    side = (2 * half + 1) * SUPERSAMPLE
    alpha = np.zeros((side, side), np.uint8)
    height = np.zeros((side, side), np.uint8)
    albedo = np.full((side, side, 3) if colour else (side, side), 140, np.uint8)
    for piece in pieces:
        centre = (half + 0.5) * SUPERSAMPLE - 0.5
        grid = np.round((piece.points * radius * SUPERSAMPLE + centre) * 2**SUBPIXEL_BITS).astype(np.int32)
        shade = (
            piece.albedo if colour else (0.114 * piece.albedo[0] + 0.587 * piece.albedo[1] + 0.299 * piece.albedo[2],)
        )
        cv2.fillPoly(alpha, [grid], 255 if piece.height else 0, shift=SUBPIXEL_BITS)
        cv2.fillPoly(height, [grid], round(100 * piece.height), shift=SUBPIXEL_BITS)
        if piece.height:
            cv2.fillPoly(albedo, [grid], tuple(255 * s for s in shade), shift=SUBPIXEL_BITS)
    size = (2 * half + 1, 2 * half + 1)
    small = [cv2.resize(a, size, interpolation=cv2.INTER_AREA).astype(np.float32) for a in (alpha, height, albedo)]
    return Part(small[0] / 255, small[1] / 100, small[2] / 255)


def weave(rng: np.random.Generator, size: tuple[int, int], colour: bool, missing: bool = False) -> Part:
    """Return a plain weave that fills (H, W) with threads of slightly differing brightness; `missing` drops a weft."""
    height, width = size
    threads = min(size) / THREADS
    rows, cols = np.arange(height) / threads, np.arange(width) / threads
    across = np.abs(np.sin(np.pi * rows)).astype(np.float32)[:, None]
    along = np.abs(np.sin(np.pi * cols)).astype(np.float32)[None]
    weft_on_top = (np.floor(rows)[:, None] + np.floor(cols)[None]) % 2 == 0
    weft_shade, warp_shade = (1 + 0.03 * rng.standard_normal(len(axis) + 1) for axis in (rows, cols))
    weft = across * (0.75 + 0.25 * along) * weft_shade[np.floor(rows).astype(int)].astype(np.float32)[:, None]
    warp = along * (0.75 + 0.25 * across) * warp_shade[np.floor(cols).astype(int)].astype(np.float32)[None]
    dropped = int(rng.uniform(0.3, 0.7) * height)  # drawn always, so that the cloth is otherwise the same
    if missing:
        gone = np.floor(rows) == np.floor(rows[dropped])
        weft[gone] *= 0.12
    relief = np.where(weft_on_top, weft, warp).astype(np.float32)
    cloth = 0.12 + 0.5 * relief
    albedo = cloth[..., None] * np.array([0.78, 0.9, 1.0], np.float32) if colour else cloth
    return Part(np.ones(size, np.float32), 0.4 * relief, albedo)
