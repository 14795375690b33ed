"""Paints defects on good parts, so that a line without a single bad part can know what it will see.

A defect is a cover of 0..1 in its own coordinates (along, across), laid on the part at a random place and angle. Its
size is its largest extent at half its height, its contrast the change where it is strongest, as a share of the good
parts' own range of brightness: both can be measured in the picture, and the tests do.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

KINDS = ("scratch", "pit", "smear", "missing")
SIZES = (0.02, 0.05, 0.10)  # of the part's size; the smallest is one cell of 8 pixels on a screw of 320 x 960
CONTRASTS = (0.10, 0.25, 0.60)  # of the good parts' range: barely visible, visible, conspicuous

SMALLEST = 2.0  # pixels: below, a defect is one pixel's noise
HEADROOM = 0.25  # share of the good parts' range by which a defect may leave it: no camera gives less than black
STANDS_OUT = 0.05  # share of that range by which the part differs from its background, at the least
MUCH = 0.5  # and of what most of it does: a soft shadow differs less
MARGIN = 9  # pixels; the template mask is this much wider than the part, both sides together
BODY_LEAST = 0.25  # of the mask: a part of which less differs from the background is as bright as that
FAR = 1e-3  # weight of the usual background where none is near
TRIES = 100  # places looked at for one that holds the defect
ON_PART = (0.9, 0.5)  # share of a defect that lies on the part: enough, and the least when no place holds more
BITE = (0.3, 0.2)  # the same for a bite, half of which lies in the air
THIN, THINNEST = 1 / 16, 2.0  # width of a scratch, of its length and in pixels
BEND = 0.6  # a scratch leaves its chord by up to 15 % of its length
TINTED = 0.5  # share of defects on colour parts that change the channels unequally

Canonical = NDArray[np.float32]
Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Painted(NamedTuple):
    """A canonical picture with one defect, and the pixels bool (H, W) that differ from the good part."""

    picture: Canonical
    mask: Mask


class TooSmall(ValueError):
    """The defect finds no place on the part, or would be smaller than the picture can show."""


class _Stamp(NamedTuple):
    """A defect's cover (0..1) of the window rows x cols of the picture, and its area before the frame cut it."""

    rows: slice
    cols: slice
    cover: Plane
    area: float


def paint(
    rng: np.random.Generator,
    canonical: Canonical,
    mask: Mask,
    kind: str,
    size: float,
    contrast: float | None,
    span: tuple[float, float],
) -> Painted:
    """Return a copy of `canonical`, float32 (H, W) or (H, W, 3), with one defect of `kind` at a random place.

    mask: bool (H, W), where the part may lie; True everywhere for texture. size: share of `part_size`. contrast: share
    of `span`, the (low, high) brightness of good parts, darker or brighter at random; for `missing` without meaning.
    A missing piece shows the background beside the part, in texture a smooth patch of the mean brightness.
    Raises ValueError for arguments out of range, and TooSmall, one as well, when the part has no place for the defect.
    """
    _check(canonical, mask, kind, contrast, span)
    pixels = size * part_size(mask)
    if pixels < SMALLEST:
        raise TooSmall(
            f"a {kind} of {pixels:.1f} pixels is smaller than the {SMALLEST:g} that can be painted: the part is only "
            f"{part_size(mask):.0f} pixels in size. Take larger pictures or a larger defect"
        )
    body = on_part(canonical, mask, span)
    if kind == "missing":
        return _missing(rng, canonical, mask, body, pixels, span)
    stamp = _place(rng, kind, pixels, body, _on(body), ON_PART)
    cover = stamp.cover * body[stamp.rows, stamp.cols]
    return _pasted(canonical, stamp, _shaded(rng, canonical[stamp.rows, stamp.cols], cover, contrast or 0.0, span))


def part_size(mask: Mask) -> float:
    """Return the part's size in canonical pixels: the side of a square of its area."""
    return math.sqrt(np.count_nonzero(mask))


def on_part(canonical: Canonical, mask: Mask, span: tuple[float, float]) -> Mask:
    """Return the pixels (H, W) that this picture's part covers; of texture every one.

    The mask holds every place where good parts lie, with a margin and its holes. This part is what differs from the
    background, 1.0, with highlights as bright as that closed; where little does, all but the margin.
    """
    if mask.all():
        return mask
    core = cv2.erode(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (MARGIN, MARGIN))) > 0
    differs = (_away(canonical, 1.0) > _clearly(canonical, core, span)) & core
    closed = cv2.morphologyEx(differs.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)) > 0
    return np.asarray(closed & core if np.count_nonzero(closed) > BODY_LEAST * np.count_nonzero(core) else core)


def _away(picture: Canonical, ground: Canonical | float) -> Plane:
    """Return how far (H, W) the channel that differs most is from `ground`."""
    away = np.abs(picture - ground)
    return np.asarray(np.maximum.reduce(cv2.split(away)) if away.ndim == 3 else away)  # far faster than max(2)


def _clearly(canonical: Canonical, core: Mask, span: tuple[float, float]) -> float:
    """Return the difference from the background that tells the part from a soft shadow."""
    usual = float(np.median(_away(canonical, 1.0)[core])) if core.any() else 0.0
    return max(STANDS_OUT * (span[1] - span[0]), MUCH * usual)


def _missing(
    rng: np.random.Generator, canonical: Canonical, mask: Mask, body: Mask, pixels: float, span: tuple[float, float]
) -> Painted:
    """Return the part with a bite out of its edge, or the texture with a bald patch."""
    if mask.all():
        stamp = _place(rng, "missing", pixels, body, _on(body), ON_PART)
        return _replaced(canonical, stamp, stamp.cover, canonical.mean((0, 1)))
    outlines = cv2.findContours(body.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    edge, solid = (cv2.drawContours(np.zeros(mask.shape, np.uint8), outlines, -1, 1, how) for how in (1, cv2.FILLED))
    clearly = _clearly(canonical, body, span)

    def taken(stamp: _Stamp) -> float:
        away = _away(canonical[stamp.rows, stamp.cols], _background(canonical, solid, stamp, pixels))
        return float(stamp.cover[away > clearly].sum()) / stamp.area

    stamp = _place(rng, "missing", pixels, edge > 0, taken, BITE)
    fade = np.clip((MARGIN - 2 * cv2.distanceTransform(1 - solid, cv2.DIST_L2, 3)) / 4, 0, 1) * mask
    ground = _background(canonical, solid, stamp, pixels)
    return _replaced(canonical, stamp, stamp.cover * fade[stamp.rows, stamp.cols], ground)


def _on(body: Mask) -> Callable[[_Stamp], float]:
    """Return the function that says what share of a defect lies on the part."""
    return lambda stamp: float(stamp.cover[body[stamp.rows, stamp.cols]].sum()) / stamp.area


def _background(canonical: Canonical, solid: NDArray[np.uint8], stamp: _Stamp, pixels: float) -> Canonical:
    """Return what the stamp's window would show without the part: the light beside it, its soft shadow included."""
    around = round(pixels) + MARGIN
    top, left = (max(0, s.start - around) for s in (stamp.rows, stamp.cols))
    wide = slice(top, stamp.rows.stop + around), slice(left, stamp.cols.stop + around)
    free = (cv2.dilate(solid[wide], np.ones((MARGIN, MARGIN), np.uint8)) == 0).astype(np.float32)
    picture = canonical[wide]
    usual = np.median(picture[free > 0], axis=0) if free.any() else np.ones(picture.shape[2:])
    light = cv2.GaussianBlur(picture * _like(free, picture), (0, 0), pixels / 2) + FAR * usual
    ground = light / _like(cv2.GaussianBlur(free, (0, 0), pixels / 2) + FAR, picture)
    rows, cols = (slice(s.start - at, s.stop - at) for s, at in ((stamp.rows, top), (stamp.cols, left)))
    return np.asarray(ground[rows, cols], np.float32)


def _replaced(canonical: Canonical, stamp: _Stamp, cover: Plane, ground: Canonical) -> Painted:
    patch = canonical[stamp.rows, stamp.cols]
    return _pasted(canonical, stamp, patch + _like(cover, patch) * (ground - patch))


def _shaded(
    rng: np.random.Generator, patch: Canonical, cover: Plane, contrast: float, span: tuple[float, float]
) -> Canonical:
    """Return `patch` made darker or brighter under `cover`, by the direction drawn if it has room and the other if not.

    Values stay within the good parts' range and its headroom, but for pixels that were beyond it before.
    """
    width = span[1] - span[0]
    darkest, brightest = max(0.0, span[0] - HEADROOM * width), span[1] + HEADROOM * width
    step = contrast * width
    level = float(patch[cover >= 0.5 * cover.max()].mean())
    room = {-1: level - darkest, 1: brightest - level}
    sign = int(rng.choice((-1, 1)))
    if room[sign] < min(step, room[-sign]):
        sign = -sign
    changed = patch + _like(cover, patch) * (sign * step * _tint(rng, patch))
    return np.clip(changed, np.minimum(patch, darkest), np.maximum(patch, brightest)).astype(np.float32)


def _tint(rng: np.random.Generator, patch: Canonical) -> NDArray[np.float32]:
    """Return how much each channel () or (3,) takes part, the strongest fully."""
    weights = rng.uniform(0.4, 1.0, 3)
    if patch.ndim == 2 or rng.random() >= TINTED:
        return np.ones(patch.shape[2:], np.float32)
    return np.asarray(weights / weights.max(), np.float32)


def _place(
    rng: np.random.Generator,
    kind: str,
    pixels: float,
    centres: Mask,
    share: Callable[[_Stamp], float],
    wanted: tuple[float, float],
) -> _Stamp:
    """Return the defect at the first random place whose `share` on the part is enough, or at the best of TRIES."""
    enough, least = wanted
    rows, cols = np.nonzero(centres)
    best, most = None, 0.0
    for _ in range(TRIES if len(rows) else 0):
        k = int(rng.integers(len(rows)))
        x, y = cols[k] + rng.uniform(-0.5, 0.5), rows[k] + rng.uniform(-0.5, 0.5)
        stamp = _stamp(rng, kind, pixels, x, y, centres.shape)
        inside = share(stamp)
        if inside > most:
            best, most = stamp, inside
        if most >= enough:
            break
    if best is None or most < least:
        raise TooSmall(
            f"a {kind} of {pixels:.0f} pixels finds no place on the part, which is too narrow for it. Nothing was "
            "painted; ask for a smaller defect"
        )
    return best


def _stamp(rng: np.random.Generator, kind: str, pixels: float, x: float, y: float, shape: tuple[int, ...]) -> _Stamp:
    """Return the defect with its centre at (x, y), turned at random, cut at the frame."""
    reach = math.ceil(pixels) + 2
    rows, cols = (np.arange(round(at) - reach, round(at) + reach + 1, dtype=np.float32) for at in (y, x))
    angle = rng.uniform(0, 2 * math.pi)
    right, down = (cols - np.float32(x))[None], (rows - np.float32(y))[:, None]
    along = math.cos(angle) * right + math.sin(angle) * down
    across = math.cos(angle) * down - math.sin(angle) * right
    cover = _cover(rng, kind, along, across, pixels)
    tall, wide = ((at >= 0) & (at < side) for at, side in zip((rows, cols), shape, strict=True))
    top, left = int(rows[tall][0]), int(cols[wide][0])
    cut = cover[tall][:, wide]
    return _Stamp(slice(top, top + cut.shape[0]), slice(left, left + cut.shape[1]), cut, float(cover.sum()))


def _cover(rng: np.random.Generator, kind: str, along: Plane, across: Plane, size: float) -> Plane:
    if kind == "scratch":
        return _scratch(rng, along, across, size)
    narrowest, uneven, soft = _ROUND[kind]
    return _edge(_beyond(rng, along, across, size, narrowest, uneven), max(1.0, soft * size))


# narrowest short axis, unevenness of the outline and width of the rim, as shares of the diameter: a small hole or
# spatter, a film that fades towards its edge, a piece broken out
_ROUND = {"pit": (0.8, 0.04, 0.35), "smear": (0.5, 0.05, 0.9), "missing": (0.8, 0.06, 0.0)}


def _scratch(rng: np.random.Generator, along: Plane, across: Plane, length: float) -> Plane:
    """A thin, slightly curved line."""
    width = min(max(THINNEST, THIN * length), length / 2)
    bend = rng.uniform(-BEND, BEND) / length
    aside = np.abs(across - bend * (along**2 - length**2 / 12))
    return np.asarray(_edge(aside - width / 2, 1.0) * _edge(np.abs(along) - length / 2, 1.0))


def _beyond(
    rng: np.random.Generator, along: Plane, across: Plane, diameter: float, narrowest: float, uneven: float
) -> Plane:
    """Return how far (pixels of the long axis) each point lies beyond an uneven ellipse, negative within it."""
    turned = np.arctan2(across, along)
    waves = sum(
        (rng.uniform(-uneven, uneven) * np.cos(k * turned + rng.uniform(0, 2 * math.pi)) for k in range(2, 6)),
        start=np.ones_like(turned),
    )
    away = np.hypot(along, across / rng.uniform(narrowest, 1.0))
    return np.asarray(away - diameter / 2 * waves, np.float32)


def _edge(beyond: NDArray[Any], soft: float) -> Plane:
    """Return 1 inside, 0 outside and 0.5 on the outline, passing smoothly over `soft` pixels."""
    t = np.clip(0.5 - beyond / soft, 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)


def _like(cover: Plane, picture: Canonical) -> Plane:
    """Return `cover` in a shape that meets every channel of `picture`."""
    return cover[..., None] if picture.ndim == 3 else cover


def _pasted(canonical: Canonical, stamp: _Stamp, patch: Canonical) -> Painted:
    picture, mask = canonical.copy(), np.zeros(canonical.shape[:2], np.bool_)
    picture[stamp.rows, stamp.cols] = patch
    window = stamp.rows, stamp.cols
    mask[window] = (picture[window] != canonical[window]).reshape(*stamp.cover.shape, -1).any(2)
    return Painted(picture, mask)


def _check(canonical: Canonical, mask: Mask, kind: str, contrast: float | None, span: tuple[float, float]) -> None:
    if kind not in KINDS:
        raise ValueError(f"defect {kind!r} cannot be painted; choose one of {', '.join(KINDS)}")
    if mask.shape != canonical.shape[:2]:
        raise ValueError(f"a mask of shape {mask.shape} does not fit a picture of shape {canonical.shape[:2]}")
    if not span[0] < span[1]:
        raise ValueError(f"good parts' brightness {span[0]:g} to {span[1]:g} is no range to measure a contrast in")
    if kind != "missing" and not (contrast is not None and 0 < contrast <= 1):
        raise ValueError(f"contrast {contrast} of a {kind} is not a share above 0 and up to 1")
