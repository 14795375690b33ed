"""Cells: small functions on batches of pictures and of maps with one value per cell, shared by all methods."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional


def batch(canonicals: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return canonical images, each (H, W) or (H, W, 3), as one tensor (B, C, H, W)."""
    stacked = torch.from_numpy(np.stack(canonicals))
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2)


def blur(x: Tensor, sigma: float, radius: int) -> Tensor:
    """Return (B, C, h, w) blurred by a Gaussian of `sigma` cut at `radius` pixels; the border is replicated."""
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype) / sigma) ** 2)
    taps = taps / taps.sum()
    planes = x.reshape(-1, 1, x.shape[-2], x.shape[-1])
    planes = functional.pad(planes, (radius,) * 4, mode="replicate")
    planes = functional.conv2d(functional.conv2d(planes, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))
    return planes.view(x.shape)


def blur_inside(x: Tensor, mask: Tensor, sigma: float, radius: int) -> Tensor:
    """Return (B, C, h, w) blurred over the cells of `mask` (h, w) alone: what lies outside has no say."""
    inside = mask.to(x.dtype)
    weight = blur(inside[None, None], sigma, radius).clamp(min=1e-6)
    return blur(x * inside, sigma, radius) / weight


def object_cells(visible: Tensor, cell: int, border: int) -> Tensor:
    """Return the cells (rows, cols) of side `cell` that lie inside `visible` (h, w) by `border` pixels or more, bool.

    The frame's edge is no border: texture fills all of its cells.
    """
    plane = visible.cpu().numpy().astype(np.uint8)
    if border:
        plane = cv2.erode(plane, np.ones((2 * border + 1,) * 2, np.uint8), borderValue=1)
    return functional.avg_pool2d(torch.from_numpy(plane)[None].float(), cell)[0] > 0.5


def places(inside: Tensor) -> Tensor:
    """Return for each cell of a flat bool mask its position among those inside; for others the number of these."""
    return torch.where(inside, inside.cumsum(0) - 1, int(inside.sum()))
