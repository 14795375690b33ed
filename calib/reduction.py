"""Reduces the features of all good images by PCA."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor, nn

from calib.features import Library
from calib.schedule import single_threaded
from line_worker.vision.features import spread
from line_worker.vision.reduction import Reduction, pooled

DIMENSIONS = 96
BASIS_CELLS = 100_000


class Reduced(NamedTuple):
    """Reduced features of all good images, half precision (N, rows, cols, D), and the way there."""

    reduction: Reduction
    values: Tensor

    def planes(self, chosen: Tensor) -> Tensor:
        """Return the values of some images as (n, D, rows, cols), float32."""
        return self.values[chosen].float().permute(0, 3, 1, 2)


def reduce(library: Library, cells: Tensor, seed: int) -> Reduced:
    """Return all features after PCA, whose basis comes from the object's cells of all images."""
    dice = torch.Generator().manual_seed(seed)
    rows = []
    each = max(1, BASIS_CELLS // len(library.fine))
    for k in range(len(library.fine)):
        maps = library.maps(torch.tensor([k]))
        both = torch.cat([pooled(maps.fine), spread(pooled(maps.coarse), maps.fine)], 1)[0][:, cells].T
        rows.append(both[torch.randperm(len(both), generator=dice)[:each]])
    sample = torch.cat(rows)
    covariance = sample.T @ sample / len(sample)
    basis = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :DIMENSIONS].contiguous()
    reduction = Reduction(basis, library.fine.shape[1]).eval()
    with torch.inference_mode():
        values = [reduction(library.maps(torch.tensor([k]))) for k in range(len(library.fine))]
    return Reduced(reduction, torch.cat([value.permute(0, 2, 3, 1).half() for value in values]))


def errors(stage: nn.Module, reduced: Reduced, chosen: Tensor, threads: int) -> Tensor:
    """Return the error maps (n, 1, rows, cols) that a stage gives the chosen images, one at a time as on the line."""

    @torch.inference_mode()
    def one(k: int) -> Tensor:
        error: Tensor = stage(reduced.planes(torch.tensor([k])))
        return error

    with single_threaded(), ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(one, chosen.tolist())))
