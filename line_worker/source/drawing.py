"""Draws parts, good and defective, that look like photographs: for the demo, the synthetic source and the tests.

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
VISIBLE = 0.03  # a pixel that the defect moved by more than this share of full scale counts as changed
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
    mat: Plane  # (3,) or (1,): the mat's colour
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
    picture = _photograph(part, scene, size)
    mask = np.zeros(size, np.bool_)
    if defect:
        missing = int(rng.integers(2**31))
        flawed = _part(seed, kind, size, colour, missing) if defect == "missing" else FLAWS[defect](rng, part)
        clean, picture = picture, _photograph(flawed, scene, size)
        mask = _changed(clean, picture)
    return Drawn(_sensor(rng, picture, bits), defect, mask, scene.matrix)


def _changed(before: Plane, after: Plane) -> NDArray[np.bool_]:
    """Return (H, W) where any channel differs visibly over a few pixels: texture that merely moved does not count."""
    planes = cv2.split(cv2.blur(cv2.absdiff(before, after), (3, 3)))
    moved = np.max([plane > VISIBLE for plane in planes], axis=0)
    opened = cv2.morphologyEx(moved.astype(np.uint8), cv2.MORPH_OPEN, np.ones((2, 2), np.uint8))
    closed = cv2.morphologyEx(opened, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return np.asarray(closed > 0)


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
        margin = max(size) // 24
        cloth = weave(rng, (size[0] + 2 * margin, size[1] + 2 * margin), colour, missing is not None)
        return _finish(rng, kind, cloth)
    pieces = OUTLINES[kind]()
    if missing is not None:
        optional = [i for i, piece in enumerate(pieces) if piece.optional]
        del pieces[optional[missing % len(optional)]]
    part = paint(pieces, _radius(size), colour)
    part = _round(part) if kind == "pin" else part
    return _finish(rng, kind, part)


def _finish(rng: np.random.Generator, kind: str, part: Part) -> Part:
    """Give the part a surface of its own: its texture, and a batch that is a little lighter or darker."""
    factor = _grain(rng, kind, part) * np.float32(1 + rng.normal(0, 0.015))
    return part.times(factor)


def _round(part: Part) -> Part:
    """Give a flat outline the relief and the falling light of a turned bar."""
    depth = cv2.distanceTransform((part.alpha > 0.5).astype(np.uint8), cv2.DIST_L2, 5)
    bar = depth / max(float(depth.max()), 1.0)
    dome: Plane = np.sqrt(np.clip(bar * (2 - bar), 0, 1))
    return part.times(0.55 + 0.55 * dome)


def _grain(rng: np.random.Generator, kind: str, part: Part) -> Plane:
    """Return the surface's texture as a factor around 1, (S, T) or what broadcasts to it: no two parts share it."""
    rows, cols = part.alpha.shape
    if kind == "pin":  # turning marks run round the bar
        return _around_one(rng.standard_normal((1, cols), np.float32), 0.025)
    noise = rng.standard_normal((rows, cols), np.float32)
    if kind == "bracket":
        return _around_one(cv2.blur(noise, (31, 1)), 0.022 * np.sqrt(31))
    if kind == "washer":
        y, x = np.ogrid[:rows, :cols]
        ring = np.sqrt((x - cols / 2) ** 2 + (y - rows / 2) ** 2).astype(np.intp)
        return _around_one(rng.standard_normal(rows + cols, np.float32)[ring], 0.02)
    return _around_one(cv2.GaussianBlur(noise, (0, 0), 0.9), 0.045)


def _around_one(noise: Plane, deviation: float) -> Plane:
    return np.float32(1) + np.float32(deviation) * noise


def _scene(rng: np.random.Generator, kind: str, size: tuple[int, int], colour: bool, pose: Pose, dark: bool) -> _Scene:
    height, width = size
    turn = 0.0 if pose != "rigid" else rng.uniform(-0.03, 0.03) if kind == "weave" else rng.uniform(-np.pi, np.pi)
    room = np.array(
        [0.02 * min(size)] * 2 if kind == "weave" else [0.14 * width * min(1.0, width / height - 0.8), 0.06 * height]
    )
    room = np.maximum(room, 0.02 * min(size)) * (pose != "none")
    shift = rng.uniform(-1, 1, 2) * room
    c, s = np.cos(turn), np.sin(turn)
    matrix = np.array([[c, -s, (width - 1) / 2 + shift[0]], [s, c, (height - 1) / 2 + shift[1]]])
    mat = np.array(DARK_MAT if dark else MAT, np.float32)
    lx, ly = np.array([-0.8, -0.6]) + rng.normal(0, 0.08, 2)
    return _Scene(
        matrix=matrix,
        mat=mat if colour else mat.mean(keepdims=True),
        exposure=1 + rng.normal(0, 0.015),
        slope=(0.05 + rng.normal(0, 0.01), 0.03 + rng.normal(0, 0.01)),
        light=(c * lx + s * ly, c * ly - s * lx),
        shadow=(0.011 * min(size), 0.009 * min(size)),
    )


def _shade(height: Plane, light: tuple[float, float]) -> Plane:
    """Return the light that the relief sends back, (S, T): steep places darker, those that face the light less so."""
    relief = cv2.GaussianBlur(height, (0, 0), 1.3)
    gx, gy = cv2.Sobel(relief, cv2.CV_32F, 1, 0, scale=0.125), cv2.Sobel(relief, cv2.CV_32F, 0, 1, scale=0.125)
    toward = gx * np.float32(light[0]) + gy * np.float32(light[1])
    shade: Plane = np.clip(1 - np.float32(0.9) * np.sqrt(gx * gx + gy * gy) - np.float32(0.35) * toward, 0.35, 1.35)
    return shade


def _photograph(part: Part, scene: _Scene, size: tuple[int, int]) -> Plane:
    """Return the scene as a lens sees it, (H, W) or (H, W, 3) in shares of full scale, before the sensor."""
    rows, cols = part.alpha.shape
    to_frame = scene.matrix.copy()
    to_frame[:, 2] -= to_frame[:, :2] @ [(cols - 1) / 2, (rows - 1) / 2]
    cover = cv2.warpAffine(part.alpha, to_frame, size[::-1])
    light = _illumination(scene, size)
    ground = light * (1 - _shadow(cover, scene)) * (1 - cover)
    shade = part.alpha * _shade(part.height, scene.light)
    planes = [
        cv2.warpAffine(shade * albedo, to_frame, size[::-1]) * light + mat * ground
        for albedo, mat in zip(cv2.split(part.albedo), scene.mat, strict=True)
    ]
    picture: Plane = planes[0] if len(planes) == 1 else cv2.merge(planes)
    return picture


def _shadow(cover: Plane, scene: _Scene) -> Plane:
    """Return the soft shadow on the mat, (H, W) in 0..1; it is worked out at a quarter of the size."""
    height, width = cover.shape
    small = cv2.resize(cover, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    shift = np.array([[1, 0, scene.shadow[0] / 4], [0, 1, scene.shadow[1] / 4]])
    soft = cv2.GaussianBlur(cv2.warpAffine(small, shift, small.shape[::-1]), (0, 0), 0.007 * min(height, width))
    shadow: Plane = 0.22 * cv2.resize(soft, (width, height), interpolation=cv2.INTER_LINEAR)
    return shadow


def _illumination(scene: _Scene, size: tuple[int, int]) -> Plane:
    """Return the light's fall-off over the frame, (H, W) around 1."""
    y = np.linspace(-1, 1, size[0], dtype=np.float32)[:, None]
    x = np.linspace(-1, 1, size[1], dtype=np.float32)[None]
    down, across = scene.slope[1] * y - 0.03 * y * y, scene.slope[0] * x - 0.03 * x * x
    return np.asarray(scene.exposure * (1 + down + across), np.float32)


def _sensor(rng: np.random.Generator, picture: Plane, bits: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Add read and shot noise and quantise to `bits`."""
    noise = rng.standard_normal(picture.shape, np.float32)
    noise *= np.float32(READ_NOISE) + np.float32(SHOT_NOISE) * picture
    noise += picture
    full = 2**bits - 1
    noise *= np.float32(full)
    levels = np.rint(np.clip(noise, 0, full, out=noise), out=noise)
    return levels.astype(np.uint8) if bits == 8 else levels.astype(np.uint16)
