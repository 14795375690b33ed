"""Feature: an autoencoder of the backbone's features, which knows how the places of a good part depend on each other.

A 1 x 1 convolution with coordinates, three halvings down to a narrow grid, two attention blocks over all of its places
with a learned position, and the way back up. Upwards the channels are rearranged into pixels (Shi et al. 2016), which
costs a third of convolving on the fine grid. The error of a cell is 1 - cosine between what is there and what was
drawn, the mean over both layers, smoothed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from line_worker.vision.cells import blur_inside
from line_worker.vision.features import Maps

Arrays = dict[str, NDArray[Any]]

WIDTHS = (96, 128, 160, 192)
HEADS, BLOCKS = 4, 2
DROP, DROP_INPUT = 0.2, 0.1
HALVINGS = len(WIDTHS) - 1
SMOOTHING = 1.5  # cells
EPSILON = 1e-4


class Attention(nn.Module):
    """A pre-norm transformer block over all places, (B, places, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(DROP), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        count, places, width = x.shape
        heads = self.mixed(self.before(x)).view(count, places, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        x = x + self.out(seen.transpose(1, 2).reshape(count, places, width))
        again: Tensor = x + self.mlp(self.between(x))
        return again


def _step(entering: int, leaving: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(entering, leaving, kernel, stride, kernel // 2)
    return nn.Sequential(conv, nn.BatchNorm2d(leaving), nn.GELU())


def _up(entering: int, leaving: int) -> nn.Sequential:
    return nn.Sequential(_step(entering, 4 * leaving, 1, 1), nn.PixelShuffle(2))


class FeatureNet(nn.Module):
    """Standardised features (B, C, rows, cols) to their reconstruction; rows and cols are padded inside.

    attention: whether the blocks that look over the whole part are there (the article's wish).
    """

    coordinates: Tensor

    def __init__(self, channels: int, grid: tuple[int, int], attention: bool = True) -> None:
        super().__init__()
        self.grid, self.channels, self.attention = grid, channels, attention
        multiple = 2**HALVINGS
        rows, cols = (-(-side // multiple) * multiple for side in grid)
        self.padding = (0, cols - grid[1], 0, rows - grid[0])
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, cols), indexing="ij")
        self.register_buffer("coordinates", torch.stack([x, y])[None], persistent=False)
        self.drop_input, self.drop = nn.Dropout2d(DROP_INPUT), nn.Dropout(DROP)
        self.enter = _step(channels + 2, WIDTHS[0], 1, 1)
        self.down = nn.Sequential(*(_step(i, o, 3, 2) for i, o in pairwise(WIDTHS)))
        self.position = nn.Parameter(torch.zeros(1, WIDTHS[-1], rows // multiple, cols // multiple))
        self.blocks = nn.ModuleList(Attention(WIDTHS[-1]) for _ in range(BLOCKS if attention else 0))
        self.up = nn.Sequential(*(_up(i, o) for i, o in pairwise(WIDTHS[::-1])))
        self.leave = nn.Conv2d(WIDTHS[0], channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return the reconstruction, (B, C, rows, cols)."""
        padded = functional.pad(features, self.padding, mode="replicate") if any(self.padding) else features
        places = self.coordinates.expand(len(padded), -1, -1, -1)
        x = self.down(self.enter(torch.cat([self.drop_input(padded), places], 1)))
        x = self.drop(x) + self.position
        if self.attention:
            tokens = x.flatten(2).transpose(1, 2)
            for block in self.blocks:
                tokens = block(tokens)
            x = tokens.transpose(1, 2).reshape(x.shape)
        again: Tensor = self.leave(self.up(x))
        return again[:, :, : self.grid[0], : self.grid[1]]


def unlike(again: Tensor, features: Tensor, fine: int) -> Tensor:
    """Return 1 - cosine per layer, (B, 2, rows, cols), of features whose first `fine` channels are one layer."""
    pairs = ((again[:, :fine], features[:, :fine]), (again[:, fine:], features[:, fine:]))
    return torch.stack([1 - functional.cosine_similarity(a, b, dim=1, eps=EPSILON) for a, b in pairs], 1)


class Feature(nn.Module):
    """Features to the error (B, 1, rows, cols) of their reconstruction; 0 outside the object."""

    cells: Tensor

    def __init__(self, net: FeatureNet, fine: int, cells: Tensor) -> None:
        super().__init__()
        self.net, self.fine = net, fine
        self.register_buffer("cells", cells)

    def forward(self, maps: Maps) -> Tensor:
        """Return the smoothed error."""
        return self.error(maps.together())

    def error(self, features: Tensor) -> Tensor:
        """Return the smoothed error of features (B, C, rows, cols)."""
        error = unlike(self.net(features), features, self.fine).mean(1, keepdim=True)
        return blur_inside(error, self.cells, SMOOTHING, math.ceil(3 * SMOOTHING))

    def meta(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        net = self.net
        return {"channels": net.channels, "grid": list(net.grid), "attention": net.attention, "fine": self.fine}

    def state(self) -> Arrays:
        """Return its arrays by name."""
        arrays = {f"net.{name}": value.detach().cpu().numpy() for name, value in self.net.state_dict().items()}
        return {**arrays, "cells": self.cells.to(torch.uint8).cpu().numpy()}

    @classmethod
    def make(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Feature:
        """Make it again from `meta` and `state`; raises KeyError or RuntimeError when they do not fit."""
        net = FeatureNet(int(meta["channels"]), (int(meta["grid"][0]), int(meta["grid"][1])), bool(meta["attention"]))
        net.load_state_dict({k[4:]: torch.from_numpy(v.copy()) for k, v in arrays.items() if k.startswith("net.")})
        cells = torch.from_numpy(arrays["cells"].copy()) > 0
        return cls(net, int(meta["fine"]), cells).eval().requires_grad_(False)
