"""Features: canonical pictures as the backbone sees them, standardised over good parts, on a grid of cells.

A cell is as large as the backbone's finer map has it (8 pixels); the coarser map keeps its own grid until somebody
needs both together. Channels are standardised over the cells of good parts, so that none drowns the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from line_worker.vision.arrays import Arrays, part
from line_worker.vision.backbone import Backbone
from line_worker.vision.cells import blur, object_cells

CELL = 8  # canonical pixels along the side of a cell
FEATHER = 2.0  # canonical pixels: standard deviation of the edge with which the surroundings are painted over
CLIP = 8.0  # standardised features beyond it are cut: one wild channel must not decide alone


class Maps(NamedTuple):
    """Standardised features: fine (B, C1, rows, cols) and coarse (B, C2, rows / k, cols / k)."""

    fine: Tensor
    coarse: Tensor


def spread(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return a coarse map on the grid of a fine one."""
    size = (fine.shape[2], fine.shape[3])
    return functional.interpolate(coarse, size, mode="bilinear", align_corners=False)


def tokens(maps: Maps, where: Tensor) -> Tensor:
    """Return both layers' features of some cells (flat indices on the fine grid), (B, n, C1 + C2)."""
    both = (maps.fine, spread(maps.coarse, maps.fine))
    return torch.cat([plane.flatten(2)[:, :, where] for plane in both], 1).transpose(1, 2).contiguous()


class Features(nn.Module):
    """Canonical images (B, C, H, W), C = 1 or 3 (BGR), to standardised features.

    What lies around the part is painted as background: a fibre beside it is no defect, and its shadow no feature.
    gain, offset: canonical value -> 0..1 as the backbone wants it, from what good parts show. mean, std: (C1 + C2,).
    template: bool (H, W), pixels that belong to the part.
    """

    mean: Tensor
    std: Tensor
    template: Tensor
    cells: Tensor
    visible: Tensor

    def __init__(
        self, backbone: Backbone, gain: float, offset: float, template: Tensor, mean: Tensor, std: Tensor
    ) -> None:
        super().__init__()
        self.backbone, self.gain, self.offset = backbone, gain, offset
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("template", template)
        self.register_buffer("cells", object_cells(template, CELL, 0))
        visible = blur(template[None, None].float(), FEATHER, math.ceil(3 * FEATHER))
        self.register_buffer("visible", visible, persistent=False)

    def forward(self, canonical: Tensor) -> Maps:
        """Return the features of each image."""
        fine, coarse = self.raw(canonical)
        n = fine.shape[1]
        mean, std = self.mean[:, None, None], self.std[:, None, None]
        return Maps(
            ((fine - mean[:n]) / std[:n]).clamp(-CLIP, CLIP), ((coarse - mean[n:]) / std[n:]).clamp(-CLIP, CLIP)
        )

    def raw(self, canonical: Tensor) -> list[Tensor]:
        """Return the backbone's maps as they come."""
        alone = 1 + (canonical - 1) * self.visible
        rgb = alone.flip(1) if alone.shape[1] == 3 else alone
        maps: list[Tensor] = self.backbone((rgb * self.gain + self.offset).clamp(0, 1))
        return maps

    def meta(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        return {"backbone": self.backbone.meta(), "gain": self.gain, "offset": self.offset}

    def state(self) -> Arrays:
        """Return its arrays by name."""
        own = {"mean": self.mean, "std": self.std, "template": self.template.to(torch.uint8)}
        return {
            **{name: value.cpu().numpy() for name, value in own.items()},
            **{f"backbone.{name}": array for name, array in self.backbone.state().items()},
        }

    @classmethod
    def make(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Features:
        """Make it again from `meta` and `state`; raises KeyError or ValueError when they do not fit."""
        backbone = Backbone.make(meta["backbone"], part(arrays, "backbone"))
        mean, std, template = (torch.from_numpy(arrays[name].copy()) for name in ("mean", "std", "template"))
        return cls(backbone, float(meta["gain"]), float(meta["offset"]), template > 0, mean, std).eval()
