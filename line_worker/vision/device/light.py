"""The light on the background, fitted to a batch of pictures, and what differs from it: background.py's twin."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from line_worker.vision.background import (
    FIT_PIXELS_MIN,
    FLOOR,
    FRAME_FITS,
    RING_FITS,
    background,
    border_ring,
    fit_terms,
)
from line_worker.vision.device.statistics import masked_median, median, solve

RIDGE = 1e-6


class Fit(nn.Module):
    """Small pictures (B, C, h, w) in gray levels to the surfaces (B, C, 6) of their backgrounds."""

    terms: Tensor
    ring: Tensor
    border: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        ring = torch.from_numpy(border_ring(*size).reshape(-1).copy())
        self.register_buffer("terms", torch.from_numpy(fit_terms(*size).copy()))
        self.register_buffer("ring", ring)
        self.register_buffer("border", ring.nonzero()[:, 0])

    def forward(self, small: Tensor, covered: Tensor | None = None) -> Tensor:
        """Fit to the ring, then to the frame, each time to what lies near the surface before.

        covered: bool (B, h, w), where it is known what the part covers; all else is fitted from the start.
        """
        values = small.flatten(2)
        away = (values - median(values[..., self.border])[..., None]).abs().amax(1)
        usual = (3 * 1.4826 * median(away[:, self.border])).clamp(min=20.0)
        use = self.ring & (away < usual[:, None])
        bare, ring = torch.ones_like(use), self.ring.expand(len(use), -1)
        if covered is not None:
            bare = ~covered.flatten(1)
            enough = bare.sum(1, keepdim=True) >= FIT_PIXELS_MIN
            ring, use = torch.where(enough, bare, ring), torch.where(enough, bare, use)
        for step in range(RING_FITS + FRAME_FITS):
            use = torch.where(use.sum(1, keepdim=True) < FIT_PIXELS_MIN, ring, use)
            surface = self._least_squares(values, use)
            residual = (values - surface @ self.terms.T).abs().amax(1)
            near = residual < 3 * (1.4826 * masked_median(residual, use) + 0.5)[:, None]
            use = near & (ring if step + 1 < RING_FITS else bare)
        return surface

    def _least_squares(self, values: Tensor, use: Tensor) -> Tensor:
        used = self.terms * use[..., None]
        normal = (used.transpose(1, 2) @ self.terms).double()
        ridge = RIDGE * torch.eye(6, dtype=torch.float64, device=values.device)
        wanted = (values @ used).transpose(1, 2).double()
        return solve(normal + ridge, wanted).transpose(1, 2).float()


def terms_over(size: tuple[int, int]) -> Tensor:
    """Return (6, h, w): each of the surface's terms over a frame, made as `background.background` makes their sum."""
    return torch.from_numpy(background(np.eye(6, dtype=np.float32), *size)).permute(2, 0, 1).contiguous()


def light(surface: Tensor, terms: Tensor) -> Tensor:
    """Return the background (B, C, h, w) of surfaces (B, C, 6) under `terms_over` its size."""
    return (surface @ terms.flatten(1)).view(*surface.shape[:2], *terms.shape[1:])


def deviation(pictures: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far pictures (B, C, h, w) lie from the background, in units of it, both (B, h, w).

    The signed mean over the channels, and the largest absolute value over them.
    """
    u = (pictures - ground) / ground.clamp(min=FLOOR)
    return u.mean(1), u.abs().amax(1)
