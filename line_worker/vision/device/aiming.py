"""Sub-pixel poses of a batch by robust Gauss-Newton against a template: lucas_kanade.py's twin.

A pose is a float64 matrix (2, 3) from canonical to image pixels, for K hypotheses of each of B parts (B, K, 2, 3).
Every pose takes all of its steps, where a CPU stops when one is small; so nothing waits for a value. On a GPU a step
costs what its calls cost, not its arithmetic: hence one product for the whole normal system, and no angles on the way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from line_worker.vision.device.pictures import Reading
from line_worker.vision.device.statistics import eliminated
from line_worker.vision.lucas_kanade import DAMPING, DEVIATION_MIN, STEP_MAX, TUKEY, TURN_MAX, Target


class Aim(nn.Module):
    """Poses near those given at which pictures of `size` look most like a template.

    scale: picture pixels per image pixel. parameters: 2 moves only, 3 also turns, 4 also measures the size.
    """

    values: Tensor
    certainty: Tensor
    products: Tensor
    limit: Tensor
    eye: Tensor
    damping: Tensor
    one: Tensor

    def __init__(self, target: Target, size: tuple[int, int], scale: float, steps: int, parameters: int) -> None:
        super().__init__()
        self.steps, self.count = steps, parameters
        self.reading = Reading(torch.from_numpy(target.points), size, (scale, scale))
        deviations = torch.from_numpy(target.deviations).clamp(min=DEVIATION_MIN)
        jacobian = torch.from_numpy(target.jacobian[:, :parameters].copy())
        squares = jacobian[:, :, None] * jacobian[:, None]
        certainty = deviations.reciprocal()
        products = certainty.square()[:, None] * torch.cat([squares.flatten(1), jacobian], 1)
        limit = torch.tensor([STEP_MAX * target.step] * 2 + [TURN_MAX] * 2, dtype=torch.float64)[:parameters]
        eye = torch.eye(parameters, parameters + 1, dtype=torch.float64)
        self.register_buffer("values", torch.from_numpy(target.values))
        self.register_buffer("certainty", certainty)
        self.register_buffer("products", products)
        self.register_buffer("limit", limit)
        self.register_buffer("eye", eye[:, :-1].clone())
        self.register_buffer("damping", 1 + (DAMPING - 1) * eye)
        self.register_buffer("one", torch.ones(1))

    def forward(self, pictures: Tensor, poses: Tensor) -> Tensor:
        """Return the poses (B, K, 2, 3) in pictures (B, 1, h, w)."""
        for _ in range(self.steps):
            poses = _composed(poses, self._step(pictures, poses))
        return poses

    def _step(self, pictures: Tensor, poses: Tensor) -> Tensor:
        """Return the small motion (B, K, parameters) of the template that the pictures ask for; 0 when none does."""
        residual = self.reading(pictures, poses)[:, 0] - self.values
        weights = self._weights(residual)
        sums = torch.stack([weights, weights * residual], -2) @ self.products
        normal, wanted = sums[..., 0, : -self.count], sums[..., 1, -self.count :]
        normal = normal.unflatten(-1, (self.count, self.count))  # type: ignore[no-untyped-call]
        rows = torch.cat([normal, wanted[..., None]], -1) * self.damping
        return torch.clamp(eliminated(rows, self.eye)[..., 0], -self.limit, self.limit).nan_to_num(0.0)

    def _weights(self, residual: Tensor) -> Tensor:
        """Return Tukey's biweight; the certainty that belongs to it is in `products`."""
        z = (residual * self.certainty).abs()
        middle = z.kthvalue(z.shape[-1] // 2 + 1, keepdim=True).values  # of an even number the upper: it hardly matters
        cut = (TUKEY * 1.4826 * middle).clamp(min=TUKEY)
        z = z / cut
        return torch.addcmul(self.one, z, z, value=-1).clamp(min=0).square()


def _composed(poses: Tensor, step: Tensor) -> Tensor:
    """Return the poses after the inverse of the small motions `step`: move, then turn and grow."""
    turned = poses[..., :2]
    if step.shape[-1] > 2:
        c, s = step[..., 2].cos(), step[..., 2].sin()
        turn = torch.stack([c, s, -s, c], -1)
        if step.shape[-1] > 3:
            turn = turn / (1 + step[..., 3:])
        turned = turned @ turn.view(*turn.shape[:-1], 2, 2)
    return torch.cat([turned, poses[..., 2:] - turned @ step[..., :2, None]], -1)
