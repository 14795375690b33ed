"""What a good part looks like to the pose search, and the search.

Coarse: the located part at 256 pixels, as phi (0 on background and soft shadow, 1 on the part; what the network says,
where one locates) and the signed deviation masked by it; a polar correlation proposes directions, each is refined, the
best correlation wins. Fine: the saturated gradient magnitude at 512 pixels, because every threshold is moved by the
shadow side of the part and gradients are not.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.vision.background import FLOOR, Image, Plane, background, levels, shrink, steepness
from line_worker.vision.geometry import Layer, Matrix, Pose, grid, read, rotation, sample, wrap
from line_worker.vision.locate import LOCATE_SIDE, Located, Segmenter, locate_small
from line_worker.vision.lucas_kanade import Target, choose_target, refine

FINE_SIDE = 512  # long side used for the fine step
PHI_START, PHI_WIDTH = 0.75, 0.5  # phi = clip((d - PHI_START t) / (PHI_WIDTH t), 0, 1)
PHI_BLUR, FINE_BLUR = 1.0, 1.5
EDGE_SATURATION = 0.5  # gradients saturate at this share of a blurred step as high as the part
BOX_MARGIN = 12  # pixels around the part in which gradients are taken
GATE = 9  # map pixels: diameter around the part in which they count, where a network knows it from its surroundings
ANGLES, RADII = 256, 48  # the polar grid
PEAKS, PEAK_DISTANCE, PEAK_DROP = 4, 12, 0.25  # directions tried, their distance in polar steps, drop from the best
PRUNE = 0.2  # directions this far behind before refinement are not refined
COARSE_POINTS, FINE_POINTS = 2048, 8192
COARSE_STEPS, FINE_STEPS = 8, 6
COARSE_TOLERANCE, FINE_TOLERANCE = 0.01, 0.002
DEVIATION_MIN = 0.1  # floor of the deviation in the weights of the correlation


class Look(NamedTuple):
    """An image after locating, with the resolution that the fine step needs."""

    located: Located
    middle: Image | Plane  # gray levels, FINE_SIDE on the long side
    scale: float


class View(NamedTuple):
    """A located part prepared for posing."""

    located: Located
    phi: Layer
    signed: Layer
    edges: Layer


class Found(NamedTuple):
    """A pose, how well it fits (mean of two weighted correlations), and how much better than a mirrored part would."""

    pose: Pose
    quality: float
    handedness: float


def look(image: Image, white: float, head: Segmenter | None = None) -> Look:
    """Locate the part in `image`, whose full scale is `white`: by its background, or where `head` sees it."""
    shrunk, scale = shrink(image, FINE_SIDE)
    middle = levels(shrunk, white)
    small, _ = shrink(middle, LOCATE_SIDE)
    height, width = image.shape[:2]
    return Look(locate_small(small, LOCATE_SIDE / max(height, width), (height, width), head), middle, scale)


def prepare(seen: Look, threshold: float) -> View:
    """Prepare a located part; `threshold` separates part from shadow and is the same for all images of a kind."""
    located = seen.located
    ramp = located.soft
    if ramp is None:
        ramp = np.clip((located.deviation - PHI_START * threshold) / (PHI_WIDTH * threshold), 0, 1).astype(np.float32)
    phi: Plane = cv2.GaussianBlur(ramp, (0, 0), PHI_BLUR)
    signed = np.clip(located.signed, -1, 1) * phi  # the shadow must not decide the direction
    return View(located, Layer(phi, located.scale), Layer(signed, located.scale), _edges(seen, threshold))


def _edges(seen: Look, threshold: float) -> Layer:
    """Return the saturated gradient magnitude around the part, 1 where half a step as high as the part would be."""
    ratio = seen.scale / seen.located.scale
    height, width = seen.middle.shape[:2]
    x, y, w, h = cv2.boundingRect(seen.located.mask)
    x0, y0 = max(0, int(x * ratio) - BOX_MARGIN), max(0, int(y * ratio) - BOX_MARGIN)
    x1, y1 = min(width, int((x + w) * ratio) + BOX_MARGIN), min(height, int((y + h) * ratio) + BOX_MARGIN)
    smooth = cv2.GaussianBlur(seen.middle[y0:y1, x0:x1], (0, 0), FINE_BLUR)
    steep = steepness(smooth)
    light = np.maximum(background(seen.located.surface, height, width)[y0:y1, x0:x1], np.float32(FLOOR))
    relative = steep.reshape(light.shape) * np.float32(edge_gain(threshold)) / light
    edges: Plane = np.minimum(relative.max(2), np.float32(1))
    if seen.located.soft is not None:
        edges *= _gate(seen.located, (width, height))[y0:y1, x0:x1]
    return Layer(edges, seen.scale, (x0, y0))


def _gate(located: Located, size: tuple[int, int]) -> Plane:
    """Return 1 on the part and close to it, 0 elsewhere, on a frame of `size` (W, H): what lies beside it has edges."""
    close = cv2.dilate(located.mask, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GATE, GATE)))
    gate: Plane = cv2.resize(close.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)
    return gate


def edge_gain(threshold: float) -> float:
    """Return what brings Scharr's magnitude, relative to the light, to 1 at EDGE_SATURATION of a step of `threshold`.

    A step of height t, blurred by sigma, is steepest at t / (sigma sqrt(2 pi)); Scharr's kernel weighs 32.
    """
    return FINE_BLUR * math.sqrt(2 * math.pi) / (32 * EDGE_SATURATION * threshold)


def polar_grid(radius: float) -> tuple[Plane, Plane]:
    """Return points (RADII, ANGLES, 2) around the origin and their weights (RADII, 1)."""
    rho = (np.arange(RADII) + 0.5) / RADII * radius
    alpha = np.arange(ANGLES) * 2 * np.pi / ANGLES
    points = rho[:, None, None] * np.stack([np.cos(alpha), np.sin(alpha)], -1)
    return points.astype(np.float32), np.sqrt(rho / rho.mean())[:, None].astype(np.float32)


def polar(view: View, radius: float) -> Plane:
    """Return phi and signed deviation around the part's centre, (2, RADII, ANGLES), weighted by area."""
    points, weights = polar_grid(radius)
    pose = Pose(0.0, *view.located.centre)
    return np.stack([read(view.phi, points, pose) * weights, read(view.signed, points, pose) * weights])


def weighted_correlation(a: Plane, b: Plane, weights: Plane) -> float:
    """Return the correlation coefficient of a and b (n,) under weights (n,)."""
    total = weights.sum()
    a, b = a - (weights * a).sum() / total, b - (weights * b).sum() / total
    power = (weights * a * a).sum() * (weights * b * b).sum()
    return float((weights * a * b).sum() / np.sqrt(max(1e-9, power)))


class Coarse:
    """The part at locating resolution, on a square canonical grid of side 2 `radius` with cells of `step` pixels.

    maps: phi, phi_deviation, signed, signed_deviation, float32 (S, S), mean and standard deviation over good parts.
    parameters: 2 when parts only move, 3 when they also turn. points (n, 2): the cells on and around the part, at which
    phi, signed and their weights (n,) are compared. centroid (2,), spectrum (2, RADII, ANGLES / 2 + 1) and norm: what
    the polar correlation needs.
    """

    def __init__(self, radius: float, step: float, parameters: int, maps: tuple[Plane, Plane, Plane, Plane]) -> None:
        self.radius, self.step, self.parameters, self.maps = radius, step, parameters, maps
        phi, phi_deviation, signed, signed_deviation = maps
        points = grid(radius, radius, step)
        self.target = choose_target(points, phi, phi_deviation, step, COARSE_POINTS)
        support = cv2.dilate((phi > 0.1).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        self.points, self.phi, self.signed = points[support], phi[support], signed[support]
        self.phi_weights, self.signed_weights = (
            np.maximum(d[support], np.float32(DEVIATION_MIN)) ** -2 for d in (phi_deviation, signed_deviation)
        )
        self.centroid = points[phi > 0.5].mean(0).astype(np.float64)
        self.spectrum, self.norm = self._polar_spectrum(phi, signed)

    def _polar_spectrum(self, phi: Plane, signed: Plane) -> tuple[NDArray[np.complex64], float]:
        points, weights = polar_grid(self.radius)
        where = (points + self.centroid.astype(np.float32)) / np.float32(self.step) + np.float32(len(phi) / 2 - 0.5)
        rings = np.stack([sample(phi, where) * weights, sample(signed, where) * weights])
        return np.conj(np.fft.rfft(rings, axis=2)), float(np.sqrt((rings**2).sum()))

    def find(self, view: View) -> Found:
        """Return the best coarse pose of the part in `view`."""
        hypotheses, handedness = self._hypotheses(view)
        rough = [(self.quality(view, pose), pose) for pose in hypotheses]
        best = max(quality for quality, _ in rough)
        results = []
        for quality, pose in rough:
            if quality >= best - PRUNE:
                pose = refine(view.phi, self.target, pose, COARSE_STEPS, COARSE_TOLERANCE, self.parameters)
                quality = self.quality(view, pose)
            results.append((quality, pose))
        quality, pose = max(results, key=lambda result: result[0])
        return Found(pose, quality, handedness)

    def quality(self, view: View, pose: Pose) -> float:
        """Return the mean weighted correlation of phi and of the signed deviation with the template, up to 1."""
        phi, signed = read(view.phi, self.points, pose), read(view.signed, self.points, pose)
        return 0.5 * (
            weighted_correlation(phi, self.phi, self.phi_weights)
            + weighted_correlation(signed, self.signed, self.signed_weights)
        )

    def _hypotheses(self, view: View) -> tuple[list[Pose], float]:
        """Return poses in the directions of the best polar correlations, and how far a mirrored part stays behind."""
        if self.parameters == 2:
            return [self._centred(view, 0.0)], 0.0
        rings = polar(view, self.radius)
        norm = self.norm * float(np.sqrt((rings**2).sum())) + 1e-9
        spectrum = np.fft.rfft(rings, axis=2)
        direct = np.fft.irfft((spectrum * self.spectrum).sum((0, 1)), ANGLES) / norm
        mirrored = np.fft.irfft((np.conj(spectrum) * self.spectrum).sum((0, 1)), ANGLES) / norm
        poses = [self._centred(view, angle) for angle in _peaks(direct)]
        return poses, float(direct.max() - mirrored.max())

    def _centred(self, view: View, angle: float) -> Pose:
        x, y = np.array(view.located.centre) - rotation(angle) @ self.centroid
        return Pose(wrap(angle), float(x), float(y))


def _peaks(correlation: Matrix) -> list[float]:
    """Return the angles of the highest peaks of a circular correlation (ANGLES,), by parabola through three values."""
    left = correlation.copy()
    angles: list[float] = []
    for _ in range(PEAKS):
        k = int(np.argmax(left))
        if angles and left[k] < correlation.max() - PEAK_DROP:
            break
        before, here, after = correlation[k - 1], correlation[k], correlation[(k + 1) % ANGLES]
        bend = before - 2 * here + after
        shift = float(np.clip(0.5 * (before - after) / bend, -0.5, 0.5)) if bend < -1e-12 else 0.0
        angles.append((k + shift) * 2 * np.pi / ANGLES)
        left[np.arange(k - PEAK_DISTANCE, k + PEAK_DISTANCE + 1) % ANGLES] = -9
    return angles


class Fine:
    """The part's edges at FINE_SIDE, mean and deviation float32 (h, w) over good parts, cells of `step` pixels."""

    def __init__(self, step: float, parameters: int, mean: Plane, deviation: Plane) -> None:
        self.step, self.parameters, self.mean, self.deviation = step, parameters, mean, deviation
        self.target: Target = choose_target(fine_grid(mean.shape, step), mean, deviation, step, FINE_POINTS)

    def refine(self, view: View, pose: Pose) -> Pose:
        """Return the sub-pixel pose near `pose`."""
        return refine(view.edges, self.target, pose, FINE_STEPS, FINE_TOLERANCE, self.parameters)


def fine_grid(shape: tuple[int, ...], step: float) -> Plane:
    """Return the canonical points (h, w, 2) of a fine template of that shape."""
    return grid(shape[1] * step / 2, shape[0] * step / 2, step)
