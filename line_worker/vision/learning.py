"""Learns the templates of the pose search from located good parts, without labels.

The most typical view seeds the coarse template; three rounds of posing all views and averaging sharpen it; its axes and
origin are then moved to the box around the part; two rounds at twice the resolution learn the fine template; a last
pass measures how good parts spread. Views that fit badly are left out of the averages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.vision.geometry import Layer, Matrix, Plane, Pose, grid, read, rotation, wrap
from line_worker.vision.template import Coarse, Fine, Found, View, fine_grid, polar

SEEDS = 48  # views among which the most typical is sought
HARMONICS = 24  # of the angular spectrum, which does not change when a part turns
ROUNDS, FINE_ROUNDS = 3, 2
FINE_VIEWS = 128
TRIM = 0.1  # share of views left out at both ends of every pixel's mean
RADIUS_MARGIN = 1.04
FIRST_DEVIATION = 0.15  # assumed before there is more than one view
ELONGATED = 1.15  # parts longer than this have a direction of their own
OCCUPIED = 0.02  # the box holds every pixel that is part in more than this share of good views
CROP_MARGIN, CROP_MARGIN_MIN = 0.015, 8.0  # around the box: share of its width, pixels
BOX_GAIN = 0.85  # a tighter box than along the principal axis is taken when it is this much smaller

Progress = Callable[[float], None]


class Learned(NamedTuple):
    """The templates, the box (width, height) in pixels that holds a part, and where each view was found."""

    coarse: Coarse
    fine: Fine
    box: tuple[float, float]
    found: list[Found]


def find(coarse: Coarse, fine: Fine, view: View) -> Found:
    """Return the part's pose to a fraction of a pixel."""
    rough = coarse.find(view)
    pose = fine.refine(view, rough.pose)
    return rough._replace(pose=pose, quality=coarse.quality(view, pose))


def learn(views: Sequence[View], parameters: int, progress: Progress) -> Learned:
    """Learn from two or more good views how to find the part; `progress` is told the share of the work done."""
    coarse = _seed(views, parameters)
    kept: Sequence[View] = views
    poses: list[Pose] = []
    for k in range(ROUNDS):
        found = [coarse.find(view) for view in views]
        keep = _fitting([f.quality for f in found])
        kept, poses = [views[i] for i in keep], [found[i].pose for i in keep]
        coarse = _averaged(coarse, kept, poses)
        progress(0.2 * (k + 1))
    turn, centre, box = _box(coarse, kept, poses)
    poses = [_rebased(pose, turn, centre) for pose in poses]
    fine = _learn_fine(kept, poses, box, parameters)
    progress(0.7)
    coarse = _averaged(coarse, kept, poses)
    poses = [find(coarse, fine, view).pose for view in kept]
    coarse = _averaged(coarse, kept, poses)
    progress(0.85)
    found = [find(coarse, fine, view) for view in views]
    progress(1.0)
    return Learned(coarse, fine, box, found)


def _seed(views: Sequence[View], parameters: int) -> Coarse:
    """Return a template made of the most typical view alone."""
    step = 1 / views[0].located.scale
    cells = int(np.ceil(2 * RADIUS_MARGIN * max(_reach(view) for view in views) / step))
    radius = cells * step / 2
    view = _medoid(views[:: max(1, len(views) // SEEDS)][:SEEDS], radius)
    located = view.located
    pose = Pose(located.angle if located.elongation > ELONGATED and parameters > 2 else 0.0, *located.centre)
    points = grid(radius, radius, step)
    phi, signed = read(view.phi, points, pose), read(view.signed, points, pose)
    unknown = np.full_like(phi, FIRST_DEVIATION)
    return Coarse(radius, step, parameters, (phi, unknown, signed, unknown))


def _reach(view: View) -> float:
    """Return the distance in pixels from the part's centre within which 99.8 % of it lies."""
    located = view.located
    rows, cols = np.nonzero(located.mask)
    x, y = ((c + 0.5) * located.scale - 0.5 for c in located.centre)
    return float(np.percentile(np.hypot(cols - x, rows - y), 99.8)) / located.scale


def _medoid(views: Sequence[View], radius: float) -> View:
    """Return the view whose angular spectrum is nearest to the others'."""
    spectra = np.stack([np.abs(np.fft.rfft(polar(v, radius)[0], axis=1))[:, :HARMONICS].ravel() for v in views])
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    return views[int(np.argmin(np.median(1 - spectra @ spectra.T, 1)))]


def _fitting(qualities: Sequence[float]) -> NDArray[np.intp]:
    """Return the indices of views that fit about as well as the others."""
    q = np.array(qualities)
    median = np.median(q)
    return np.flatnonzero(q >= median - max(0.05, 5 * 1.4826 * float(np.median(np.abs(q - median)))))


def _averaged(old: Coarse, views: Sequence[View], poses: Sequence[Pose]) -> Coarse:
    """Return the template made of all views as they lie in `poses`."""
    points = grid(old.radius, old.radius, old.step)
    phi, phi_deviation = _mean_and_deviation([v.phi for v in views], points, poses)
    signed, signed_deviation = _mean_and_deviation([v.signed for v in views], points, poses)
    return Coarse(old.radius, old.step, old.parameters, (phi, phi_deviation, signed, signed_deviation))


def _mean_and_deviation(layers: Sequence[Layer], points: Plane, poses: Sequence[Pose]) -> tuple[Plane, Plane]:
    """Return the trimmed mean and the standard deviation of the layers at canonical points (h, w, 2)."""
    stack = np.stack([read(layer, points, pose) for layer, pose in zip(layers, poses, strict=True)])
    deviation: Plane = stack.std(0)
    stack.sort(0)
    cut = int(TRIM * len(stack))
    mean: Plane = stack[cut : len(stack) - cut].mean(0)
    return mean, deviation


def _learn_fine(views: Sequence[View], poses: list[Pose], box: tuple[float, float], parameters: int) -> Fine:
    """Learn the fine template from at most FINE_VIEWS views, whose entries in `poses` it refines."""
    step = 1 / views[0].edges.scale
    points = fine_grid((round(box[1] / step), round(box[0] / step)), step)
    some = range(0, len(views), -(-len(views) // FINE_VIEWS))
    for _ in range(FINE_ROUNDS):
        layers = [views[i].edges for i in some]
        fine = Fine(step, parameters, *_mean_and_deviation(layers, points, [poses[i] for i in some]))
        for i in some:
            poses[i] = fine.refine(views[i], poses[i])
    return fine


def _box(coarse: Coarse, views: Sequence[View], poses: Sequence[Pose]) -> tuple[float, Matrix, tuple[float, float]]:
    """Return angle, centre (2,) and (width, height) of the box around the part, margin included.

    A part with a direction gets its long side horizontal and its heavier end to the left, so that learning again on
    other images gives the same picture; when parts only move, the box keeps the frame's axes.
    """
    points = grid(coarse.radius, coarse.radius, coarse.step)
    occupancy = np.mean([read(v.phi, points, p) > 0.5 for v, p in zip(views, poses, strict=True)], axis=0)
    part = points[occupancy > OCCUPIED]
    angle = _direction(part, occupancy) if coarse.parameters > 2 else 0.0
    low, high = _extent(part, angle)
    width, height = (float(side) + coarse.step for side in high - low)
    margin = max(CROP_MARGIN_MIN, CROP_MARGIN * width)
    return angle, rotation(angle) @ ((low + high) / 2), (width + 2 * margin, height + 2 * margin)


def _direction(part: Plane, occupancy: Matrix) -> float:
    """Return the box's angle: the principal axis, or the smallest box's long side if that box is clearly smaller."""
    moments = cv2.moments((occupancy > 0.5).astype(np.uint8), True)
    a, b, c = moments["mu20"], moments["mu11"], moments["mu02"]
    spread = float(np.hypot((a - c) / 2, b))
    if np.sqrt(((a + c) / 2 + spread) / max(1e-6, (a + c) / 2 - spread)) <= ELONGATED:
        return 0.0
    axis = float(0.5 * np.arctan2(2 * b, a - c))
    side = float(np.deg2rad(cv2.minAreaRect(part)[2]))
    tight = min(side, side + np.pi / 2, key=lambda angle: float(np.ptp(_extent(part, angle), axis=0)[1]))
    tighter = np.ptp(_extent(part, tight), axis=0).prod() < BOX_GAIN * np.ptp(_extent(part, axis), axis=0).prod()
    angle = tight if tighter else axis
    middle = np.mean(_extent(part, angle), axis=0)[0]
    heavier_right = (part @ rotation(angle))[:, 0].mean() > middle
    return wrap(angle + np.pi) if heavier_right else wrap(angle)


def _extent(part: Plane, angle: float) -> tuple[Matrix, Matrix]:
    """Return the lowest and highest coordinates (2,) of points (n, 2) along axes turned by `angle`."""
    turned = part @ rotation(angle)
    return turned.min(0), turned.max(0)


def _rebased(pose: Pose, angle: float, centre: Matrix) -> Pose:
    """Return `pose` for canonical axes turned by `angle` around an origin at `centre`, both in the old ones."""
    x, y = rotation(pose.angle) @ centre + np.array([pose.x, pose.y])
    return Pose(wrap(pose.angle + angle), float(x), float(y))
