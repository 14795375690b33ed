"""Sub-pixel pose by robust inverse-compositional Gauss-Newton against a template.

Baker and Matthews 2004, "Lucas-Kanade 20 Years On"; the weights come from the template's spread over good parts, and
Tukey's biweight takes the say from what is not the part.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from line_worker.vision.geometry import Layer, Matrix, Plane, Points, Pose, read, rotation, wrap

DEVIATION_MIN = 0.1  # floor of the template's standard deviation in the weights
TUKEY = 4.0  # residuals beyond this many robust sigmas have no say
STEP_MAX, TURN_MAX = 8.0, 0.15  # the largest step: template cells, and radians or relative size
TURN_TOLERANCE = 1e-5
DAMPING = 1.001  # of the normal matrix's diagonal
PARAMETERS = 3  # x, y, angle: what a rigid pose has; a fourth is the part's size


class Target(NamedTuple):
    """What a template says at some canonical points (n, 2): values and deviations (n,), jacobian (n, 4).

    The jacobian is d value / d (x, y, angle, relative size); `step` is the template's cell in pixels.
    """

    points: Points
    values: Plane
    deviations: Plane
    jacobian: Plane
    step: float


def choose_target(points: Plane, mean: Plane, deviation: Plane, step: float, count: int) -> Target:
    """Choose about `count` of a template's cells: those that tell most about the pose, a third for each parameter.

    points (h, w, 2), mean and deviation (h, w). By total energy alone the weakest parameter would be starved.
    """
    gx, gy = (cv2.Sobel(mean, cv2.CV_32F, *order, ksize=3).ravel() / (8 * step) for order in ((1, 0), (0, 1)))
    flat = points.reshape(-1, 2)
    x, y = flat[:, 0], flat[:, 1]
    jacobian = np.stack([gx, gy, x * gy - y * gx, x * gx + y * gy], -1).astype(np.float32)
    telling = np.abs(jacobian[:, :PARAMETERS]) / np.maximum(deviation.ravel(), DEVIATION_MIN)[:, None]
    third = min(count, len(flat)) // PARAMETERS
    taken = np.zeros(len(flat), np.bool_)
    for column in telling.T:
        taken[np.argpartition(-column, third - 1)[:third]] = True
    return Target(flat[taken], mean.ravel()[taken], deviation.ravel()[taken], jacobian[taken], step)


def refine(
    layer: Layer, target: Target, pose: Pose, steps: int, tolerance: float, parameters: int = PARAMETERS
) -> Pose:
    """Return the pose near `pose` at which `layer` looks most like `target`.

    `parameters`: 2 moves only, 3 also turns, 4 also measures the size. Stops after `steps` or when a step moves less
    than `tolerance` template cells. A singular system ends the search where it stands.
    """
    certainty: Plane = np.reciprocal(np.maximum(target.deviations, np.float32(DEVIATION_MIN)))
    jacobian = np.ascontiguousarray(target.jacobian[:, :parameters].T)  # rows: twice as fast as narrow columns
    limit = np.array([STEP_MAX * target.step] * 2 + [TURN_MAX] * 2)[:parameters]
    for _ in range(steps):
        residual = read(layer, target.points, pose) - target.values
        weighted = jacobian * _weights(residual, certainty)
        normal = (weighted @ jacobian.T).astype(np.float64)
        normal[np.diag_indices(parameters)] *= DAMPING
        try:
            step = np.linalg.solve(normal, (weighted @ residual).astype(np.float64))
        except np.linalg.LinAlgError:
            break
        step = np.clip(step, -limit, limit)
        pose = _composed(pose, np.concatenate([step, np.zeros(4 - parameters)]))
        if np.abs(step[:2]).sum() < tolerance * target.step and np.all(np.abs(step[2:]) < TURN_TOLERANCE):
            break
    return pose


def _weights(residual: Plane, certainty: Plane) -> Plane:
    """Return Tukey's biweight over the variance; the scale is the robust sigma of the residuals, at least 1."""
    z = np.abs(residual) * certainty
    cut = np.float32(TUKEY * max(1.0, 1.4826 * _median(z)))
    z *= 1 / cut
    z *= z
    weights: Plane = np.maximum(1 - z, np.float32(0), out=z)
    weights *= certainty
    weights *= weights
    return weights


def _median(values: Plane) -> float:
    """Return the median; np.median takes three times as long."""
    k = len(values) // 2
    upper = np.partition(values, k)
    return float(upper[k]) if len(values) % 2 else 0.5 * float(upper[k] + upper[:k].max())


def _composed(pose: Pose, step: Matrix) -> Pose:
    """Return `pose` after the inverse of the small motion `step` of the template."""
    angle, size = pose.angle - float(step[2]), pose.magnification / (1 + float(step[3]))
    x, y = np.array([pose.x, pose.y]) - size * rotation(angle) @ step[:2]
    return Pose(wrap(angle), float(x), float(y), size)
