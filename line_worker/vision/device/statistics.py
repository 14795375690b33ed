"""Medians, ranks and small linear systems of a batch, without a look at a value on the way."""

from __future__ import annotations

import torch
from torch import Tensor

DESKS = 64


def median(values: Tensor) -> Tensor:
    """Return the median over the last axis; of an even number the mean of the middle two."""
    n = values.shape[-1]
    upper = values.kthvalue(n // 2 + 1).values
    return upper if n % 2 else 0.5 * (values.kthvalue(n // 2).values + upper)


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
    eye = torch.eye(normal.shape[-1], dtype=normal.dtype, device=normal.device)
    return eliminated(torch.cat([normal, wanted], -1), eye)


def eliminated(rows: Tensor, eye: Tensor) -> Tensor:
    """Return x with normal x = wanted of rows (..., n, n + m): normal and wanted side by side; eye: (n, n)."""
    n = len(eye)
    for k in range(n):
        pivot = rows[..., k : k + 1, :] / rows[..., k : k + 1, k : k + 1]
        rows = torch.addcmul(rows, rows[..., k : k + 1] - eye[:, k : k + 1], pivot, value=-1)  # row k becomes the pivot
    return rows[..., n:]


def otsu(values: Tensor, use: Tensor, levels: float) -> Tensor:
    """Return Otsu's threshold (B,) of values (B, n), quantised to 1 / levels up to 255, where `use` (B, n)."""
    steps = (values * levels).clamp(0, 255).long()  # towards 0, as a cast to 8 bits
    # most pixels have one of few levels: each of DESKS counts for itself, or they would wait in line to be counted
    desks = torch.arange(values.shape[1], device=values.device) % DESKS
    counts = torch.zeros(len(values), 256 * DESKS, device=values.device)
    counts = counts.scatter_add(1, steps * DESKS + desks, use.float())  # whole numbers: exact
    share = counts.view(-1, 256, DESKS).sum(2).double()
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    level = torch.arange(256, dtype=torch.float64, device=values.device)
    below, moment = share.cumsum(1), (share * level).cumsum(1)
    above, mean = 1 - below, moment[:, -1:]
    usable = torch.minimum(below, above) > torch.finfo(torch.float32).eps
    apart = moment / below - (mean - moment) / above
    between = torch.where(usable, below * above * apart * apart, 0.0)
    best = between >= between.amax(1, keepdim=True) * (1 - 1e-9)
    return (torch.where(best, level, 256.0).amin(1) / levels).float()  # of equal ones the first
