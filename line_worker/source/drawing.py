"""Draws parts that look like photographs of parts, good and defective, for the demo, the synthetic source and the tests.

A part is painted once in its own coordinates (alpha, height, albedo), given a surface and perhaps a flaw, and then
photographed: lit from a dome that is a little stronger on one side, placed in the frame with a soft shadow, and passed
through a sensor with noise. The same generator state draws the same picture.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.errors import ConfigError
from line_worker.source.flaws import FLAWS
from line_worker.source.shapes import OUTLINES, Part, paint, weave

Plane = NDArray[np.float32]
Pose = Literal["rigid", "translate", "none"]

KINDS = (*OUTLINES, "weave")
DEFECTS = ("missing", *FLAWS)
VISIBLE = 0.015  # a pixel that the defect moved by more than this share of full scale counts as changed
MAT = (0.77, 0.76, 0.74)  # BGR of the light mat that parts lie on
DARK_MAT = (0.075, 0.070, 0.070)
READ_NOISE, SHOT_NOISE = 0.0045, 0.0055  # standard deviations in shares of full scale, in the dark and at full scale


class Drawn(NamedTuple):
    """A picture and the truth about it.

    image: uint8 or uint16, (H, W) or (H, W, 3) BGR. defect: "" for a good part. mask: bool (H, W), pixels that the
    defect changed. matrix: float64 (2, 3), part coordinates (pixels, origin at the part's centre) to image pixels.
    """

    image: NDArray[np.uint8] | NDArray[np.uint16]
    defect: str
    mask: NDArray[np.bool_]
    matrix: NDArray[np.float64]


class _Scene(NamedTuple):
    """What differs from picture to picture: where the part lies and how it is lit."""

    matrix: NDArray[np.float64]  # as in Drawn
    mat: Plane  # (3,) or (): the mat's colour
    exposure: float
    slope: tuple[float, float]  # change of the light across half the frame
    light: tuple[float, float]  # side of the dome that is brighter, in part coordinates
    shadow: tuple[float, float]  # offset in pixels


def draw_part(
    rng: np.random.Generator,
    kind: str = "bracket",
    defect: str = "",
    size: tuple[int, int] = (480, 640),
    colour: bool = False,
    pose: Pose = "rigid",
    bits: Literal[8, 16] = 8,
    dark: bool = False,
) -> Drawn:
    """Draw one part of `kind` on a frame of `size` (H, W), with `defect` or without ("").

    `pose` says how it lies: anywhere and anyhow, moved only, or always the same. `dark` takes a dark mat.
    Raises ConfigError for an unknown kind or defect.
    """
    _check(kind, defect)
    seed = int(rng.integers(2**63))
    part = _part(seed, kind, size, colour)
    scene = _scene(rng, kind, size, colour, pose, dark)
    picture = clean = _photograph(part, scene, size)
    if defect == "missing":
        picture = _photograph(_part(seed, kind, size, colour, int(rng.integers(2**31))), scene, size)
    elif defect:
        picture = _photograph(FLAWS[defect](rng, part), scene, size)
    changed = np.abs(picture - clean).reshape(*size, -1).max(2) > VISIBLE
    mask = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8)) > 0
    return Drawn(_sensor(rng, picture, bits), defect, mask, scene.matrix)


def _check(kind: str, defect: str) -> None:
    problems = []
    if kind not in KINDS:
        problems.append(f"kind {kind!r} cannot be drawn; choose one of {', '.join(KINDS)}")
    if defect not in ("", *DEFECTS):
        problems.append(f"defect {defect!r} cannot be drawn; choose one of {', '.join(DEFECTS)}, or none")
    if problems:
        raise ConfigError("drawing", problems)


def _radius(size: tuple[int, int]) -> float:
    return 0.36 * min(size)


def _part(seed: int, kind: str, size: tuple[int, int], colour: bool, missing: int | None = None) -> Part:
    """Return the part with its surface; the same seed gives the same surface with and without a missing feature."""
    rng = np.random.default_rng(seed)
    if kind == "weave":
        margin = max(size) // 16
        return weave(rng, (size[0] + 2 * margin, size[1] + 2 * margin), colour, missing is not None)
    pieces = OUTLINES[kind]()
    if missing is not None:
        optional = [i for i, piece in enumerate(pieces) if piece.optional]
        del pieces[optional[missing % len(optional)]]
    part = paint(pieces, _radius(size), colour)
    return _round(part) if kind == "pin" else part
