"""Medians, ranks and small linear systems of a batch, without a look at a value on the way."""

from __future__ import annotations

import torch
from torch import Tensor


def median(values: Tensor) -> Tensor:
    """Return the median over the last axis; of an even number the mean of the middle two."""
    ordered, n = values.sort(-1).values, values.shape[-1]
    return 0.5 * (ordered[..., (n - 1) // 2] + ordered[..., n // 2])


def masked_median(values: Tensor, use: Tensor) -> Tensor:
    """Return the median over the last axis of `values` where `use`; infinity where nothing is."""
    ordered = torch.where(use, values, torch.inf).sort(-1).values
    n = use.sum(-1, keepdim=True)
    low, high = ((n - 1).clamp(min=0) // 2, (n // 2).clamp(max=values.shape[-1] - 1))
    return 0.5 * (ordered.gather(-1, low) + ordered.gather(-1, high))[..., 0]


def solve(normal: Tensor, wanted: Tensor) -> Tensor:
    """Return x with normal x = wanted; normal (..., n, n) positive definite, wanted (..., n, m).

    Gauss and Jordan's elimination: torch.linalg asks the device whether it went well and waits for the answer. A
    singular system gives what is not finite.
    """
    n = normal.shape[-1]
    rows, eye = torch.cat([normal, wanted], -1), torch.eye(n, dtype=normal.dtype, device=normal.device)
    for k in range(n):
        pivot = rows[..., k : k + 1, :] / rows[..., k : k + 1, k : k + 1]
        rows = torch.addcmul(rows, rows[..., k : k + 1] - eye[:, k : k + 1], pivot, value=-1)  # row k becomes the pivot
    return rows[..., n:]


def otsu(values: Tensor, use: Tensor, levels: float) -> Tensor:
    """Return Otsu's threshold (B,) of values (B, n), quantised to 1 / levels up to 255, where `use` (B, n)."""
    steps = (values * levels).clamp(0, 255).long()  # towards 0, as a cast to 8 bits
    counts = torch.zeros(len(values), 256, dtype=torch.float64, device=values.device)
    share = counts.scatter_add(1, steps, use.double())
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    level = torch.arange(256, dtype=torch.float64, device=values.device)
    below, moment = share.cumsum(1), (share * level).cumsum(1)
    above, mean = 1 - below, moment[:, -1:]
    usable = torch.minimum(below, above) > torch.finfo(torch.float32).eps
    apart = moment / below - (mean - moment) / above
    between = torch.where(usable, below * above * apart * apart, 0.0)
    best = between >= between.amax(1, keepdim=True) * (1 - 1e-9)
    return (torch.where(best, level, 256.0).amin(1) / levels).float()  # of equal ones the first
