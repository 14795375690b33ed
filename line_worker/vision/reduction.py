"""Reduction: both feature maps averaged over 3 x 3 cells and reduced by PCA to a few numbers a cell, best first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from line_worker.vision.arrays import Arrays
from line_worker.vision.features import Maps, spread

POOL = 3


class Reduction(nn.Module):
    """Both feature maps, pooled, to D numbers a cell: (B, D, rows, cols). basis: (C1 + C2, D), the PCA's."""

    basis: Tensor

    def __init__(self, basis: Tensor, fine: int) -> None:
        super().__init__()
        self.fine = fine
        self.register_buffer("basis", basis)

    def forward(self, maps: Maps) -> Tensor:
        """Project first, on each map's own grid: it is linear, and cheaper there."""
        weight = self.basis.T[:, :, None, None]
        fine = functional.conv2d(pooled(maps.fine), weight[:, : self.fine])
        coarse = functional.conv2d(pooled(maps.coarse), weight[:, self.fine :])
        return fine + spread(coarse, fine)

    def meta(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        return {"fine": self.fine}

    def state(self) -> Arrays:
        """Return its arrays by name."""
        return {"basis": self.basis.cpu().numpy()}

    @classmethod
    def make(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reduction:
        """Make it again from `meta` and `state`; raises KeyError when something is missing."""
        return cls(torch.from_numpy(arrays["basis"].copy()), int(meta["fine"])).eval()


def pooled(x: Tensor) -> Tensor:
    """Return the mean over POOL x POOL cells around each; beyond the border there is nothing to average."""
    return functional.avg_pool2d(x, POOL, 1, POOL // 2, count_include_pad=False)
