"""Reduces the features of all good images by PCA."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from calib.features import Library
from calib.fitting import judged
from calib.schedule import workers
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


def reduce(library: Library, cells: Tensor, seed: int, threads: int = 1) -> Reduced:
    """Return all features after PCA, whose basis comes from the object's cells of all images."""
    images = range(len(library.fine))
    each = max(1, BASIS_CELLS // len(library.fine))

    def sample(k: int) -> Tensor:
        maps = library.maps(torch.tensor([k]))
        both = torch.cat([pooled(maps.fine), spread(pooled(maps.coarse), maps.fine)], 1)[0][:, cells].T
        dice = torch.Generator().manual_seed(1000 * seed + k)
        return both[torch.randperm(len(both), generator=dice)[:each]]

    with workers(threads) as pool:
        reduction = Reduction(_basis(torch.cat(list(pool.map(sample, images)))), library.fine.shape[1]).eval()

        @torch.inference_mode()
        def reduced(k: int) -> Tensor:
            value: Tensor = reduction(library.maps(torch.tensor([k])))
            return value.permute(0, 2, 3, 1).half()

        return Reduced(reduction, torch.cat(list(pool.map(reduced, images))))


def _basis(rows: Tensor) -> Tensor:
    """Return the leading principal directions (C, D) of feature vectors (n, C)."""
    directions: Tensor = torch.linalg.eigh(rows.T @ rows / len(rows)).eigenvectors
    return directions.flip(1)[:, :DIMENSIONS].contiguous()


def errors(stage: nn.Module, reduced: Reduced, chosen: Tensor, threads: int) -> Tensor:
    """Return the error maps (n, 1, rows, cols) that a stage gives the chosen images."""
    return judged(lambda k: stage(reduced.planes(torch.tensor([k]))), chosen, threads)
