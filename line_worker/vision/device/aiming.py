"""Sub-pixel poses of a batch by robust Gauss-Newton against a template: lucas_kanade.py's twin.

Every pose takes the same number of steps; one that has converged is held, so nothing waits for a value. Poses are
float64 (B, K, 4): angle, x, y in image pixels, magnification, for K hypotheses of each of B parts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from line_worker.vision.device.pictures import homogeneous, sample
from line_worker.vision.device.statistics import median, solve
from line_worker.vision.lucas_kanade import DAMPING, DEVIATION_MIN, STEP_MAX, TUKEY, TURN_MAX, TURN_TOLERANCE, Target

ANGLE, X, Y, SIZE = range(4)


def read(pictures: Tensor, points: Tensor, poses: Tensor, scale: float) -> Tensor:
    """Return pictures (B, C, h, w) at canonical points (n, 3) of parts in `poses` (B, K, 4), as (B, C, K, n).

    scale: picture pixels per image pixel.
    """
    size = poses[..., SIZE] * scale
    c, s = size * poses[..., ANGLE].cos(), size * poses[..., ANGLE].sin()
    x, y = (poses[..., X : Y + 1] * scale + (0.5 * scale - 0.5)).unbind(-1)
    return sample(pictures, points, torch.stack([c, -s, x, s, c, y], -1).unflatten(-1, (2, 3)))  # type: ignore[no-untyped-call]


class Aim(nn.Module):
    """Poses near those given at which pictures look most like a template.

    parameters: 2 moves only, 3 also turns, 4 also measures the size. steps, tolerance: see `lucas_kanade.refine`.
    """

    points: Tensor
    values: Tensor
    certainty: Tensor
    jacobian: Tensor
    limit: Tensor
    damping: Tensor

    def __init__(self, target: Target, scale: float, steps: int, tolerance: float, parameters: int) -> None:
        super().__init__()
        self.scale, self.steps = scale, steps
        self.tolerance = tolerance * target.step
        deviations = torch.from_numpy(target.deviations).clamp(min=DEVIATION_MIN)
        jacobian = torch.from_numpy(target.jacobian[:, :parameters].T.copy())
        limit = torch.tensor([STEP_MAX * target.step] * 2 + [TURN_MAX] * 2, dtype=torch.float64)[:parameters]
        self.register_buffer("points", homogeneous(torch.from_numpy(target.points)))
        self.register_buffer("values", torch.from_numpy(target.values))
        self.register_buffer("certainty", deviations.reciprocal())
        self.register_buffer("jacobian", jacobian)
        self.register_buffer("limit", limit)
        self.register_buffer("damping", 1 + (DAMPING - 1) * torch.eye(parameters, dtype=torch.float64))

    def forward(self, pictures: Tensor, poses: Tensor) -> Tensor:
        """Return the poses (B, K, 4) in pictures (B, 1, h, w)."""
        held = torch.zeros_like(poses[..., 0], dtype=torch.bool)
        for _ in range(self.steps):
            step = self._step(pictures, poses)
            held = held | ~step.isfinite().all(-1)
            poses = torch.where(held[..., None], poses, _composed(poses, step))
            small = step[..., :2].abs().sum(-1) < self.tolerance
            held = held | (small & (step[..., 2:].abs() < TURN_TOLERANCE).all(-1))
        return poses

    def _step(self, pictures: Tensor, poses: Tensor) -> Tensor:
        """Return the small motion (B, K, parameters) of the template that the pictures ask for; NaN when none does."""
        residual = read(pictures, self.points, poses, self.scale)[:, 0] - self.values
        weighted = self.jacobian * self._weights(residual)[..., None, :]
        normal = (weighted @ self.jacobian.T).double()
        wanted = (weighted @ residual[..., None]).double()
        return torch.clamp(solve(normal * self.damping, wanted)[..., 0], -self.limit, self.limit)

    def _weights(self, residual: Tensor) -> Tensor:
        z = residual.abs() * self.certainty
        cut = TUKEY * (1.4826 * median(z)).clamp(min=1.0)[..., None]
        return ((1 - (z / cut).square()).clamp(min=0) * self.certainty).square()


def _composed(poses: Tensor, step: Tensor) -> Tensor:
    """Return the poses after the inverse of the small motions `step`."""
    angle, size = poses[..., ANGLE], poses[..., SIZE]
    if step.shape[-1] > 2:
        angle = angle - step[..., 2]
    if step.shape[-1] > 3:
        size = size / (1 + step[..., 3])
    c, s = size * angle.cos(), size * angle.sin()
    x = poses[..., X] - (c * step[..., 0] - s * step[..., 1])
    y = poses[..., Y] - (s * step[..., 0] + c * step[..., 1])
    return torch.stack([angle, x, y, size], -1)


def correlation(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Return the correlation coefficient under weights over the last axis: `template.weighted_correlation`."""
    total = weights.sum()
    a = a - (weights * a).sum(-1, keepdim=True) / total
    b = b - (weights * b).sum() / total
    power = (weights * a * a).sum(-1) * (weights * b * b).sum()
    return (weights * a * b).sum(-1) / power.clamp(min=1e-9).sqrt()
