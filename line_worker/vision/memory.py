"""Memory: how far a patch's features are from anything that good parts showed around the same place.

A `bank` holds prototypes (K-means centres) of good parts' reduced features: for a part in canonical pose one set for
each cell, gathered from its neighbourhood, so that a thread is unusual on a head; for texture, which is the same
everywhere, one set for all cells (as PatchCore, Roth et al. 2022). The error of a cell is the distance to the nearest
prototype, smoothed by one cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from line_worker.vision.arrays import Arrays
from line_worker.vision.cells import blur_inside, places

SMOOTHING, REACH = 1.0, 3  # cells


class Memory(nn.Module):
    """Reduced features (B, D, rows, cols) to distance (B, 1, rows, cols), 0 outside the object.

    bank: float (G, K, D), G = number of the object's cells or 1; cells: bool (rows, cols). `where` holds the object's
    cells, `place` the position of each cell among them.
    """

    bank: Tensor
    norms: Tensor
    cells: Tensor

    def __init__(self, bank: Tensor, cells: Tensor) -> None:
        super().__init__()
        bank = bank.half().float()  # as the bundle keeps it: what is calibrated is what judges on the line
        self.register_buffer("bank", bank)
        self.register_buffer("norms", bank.square().sum(-1))
        self.register_buffer("cells", cells)
        flat = cells.flatten()
        self.register_buffer("where", torch.nonzero(flat)[:, 0], persistent=False)
        self.register_buffer("place", places(flat), persistent=False)

    where: Tensor
    place: Tensor

    def forward(self, reduced: Tensor) -> Tensor:
        """Return the smoothed distance of each cell to its nearest prototype."""
        return blur_inside(self.distances(reduced), self.cells, SMOOTHING, REACH)

    def distances(self, reduced: Tensor) -> Tensor:
        """Return the distance (B, 1, rows, cols) of reduced features (B, D, rows, cols), 0 outside the object."""
        count, _, rows, cols = reduced.shape
        queries = reduced.flatten(2)[:, :, self.where].permute(2, 0, 1)  # (n, B, D)
        if self.bank.shape[0] == 1:
            queries = queries.reshape(1, -1, queries.shape[2])
        square = nearest(queries, self.bank, self.norms).reshape(-1, count).T
        known = functional.pad(square.clamp(min=0).sqrt(), (0, 1))  # the last stands for all cells outside
        return known[:, self.place].view(count, 1, rows, cols)

    def meta(self) -> dict[str, Any]:
        """Return what JSON can hold of it: nothing that its arrays do not say."""
        return {}

    def state(self) -> Arrays:
        """Return its arrays by name; prototypes need no more than half precision."""
        own = {"bank": self.bank.half(), "cells": self.cells.to(torch.uint8)}
        return {name: value.cpu().numpy() for name, value in own.items()}

    @classmethod
    def make(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Memory:
        """Make it again from `meta` and `state`; raises KeyError when something is missing."""
        bank, cells = (torch.from_numpy(arrays[name].copy()) for name in ("bank", "cells"))
        return cls(bank, cells > 0).eval()


def nearest(queries: Tensor, bank: Tensor, norms: Tensor) -> Tensor:
    """Return the squared distance (G, n) of queries (G, n, D) to the nearest of bank (G, K, D), norms (G, K)."""
    near = (norms[:, None] - 2 * torch.bmm(queries, bank.transpose(1, 2))).amin(2)
    return near + queries.square().sum(2)
