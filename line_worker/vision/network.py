"""Network: a trained autoencoder of the backbone's features, with attention over the whole part: the article's wish.

A linear layer with coordinates, three halvings down to a narrow grid, two attention blocks over all of its places with
a learned position, and the way back up. Downwards four cells are merged into one, upwards one is spread over four, and
the finest layers see the object's cells alone: together a fifth of the cost of convolving on the fine grid. The error
of a cell is 1 - cosine between what is there and what was drawn, the mean over both layers, smoothed.
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

from line_worker.vision.arrays import Arrays
from line_worker.vision.cells import blur_inside, places
from line_worker.vision.features import Maps, tokens

WIDTHS = (96, 128, 160, 192)
HEADS, BLOCKS = 4, 2
DROP, DROP_INPUT = 0.2, 0.1
HALVINGS = len(WIDTHS) - 1
SMOOTHING = 1.5  # cells
EPSILON = 1e-4


class Drop(nn.Module):
    """Dropout of single values of (B, n, ...), or of whole channels of (B, n, channels); nothing outside training.

    dice: those of the one network that is trained, or networks trained side by side would draw in the order in which
    they happen to run. None takes torch's own.
    """

    def __init__(self, share: float, channels: bool = False) -> None:
        super().__init__()
        self.share, self.channels = share, channels
        self.dice: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape; what is left is scaled up."""
        if not self.training:
            return x
        kept = torch.empty_like(x[:, :1] if self.channels else x).bernoulli_(1 - self.share, generator=self.dice)
        return x * (kept / (1 - self.share))


class Attention(nn.Module):
    """A pre-norm transformer block over all places, (B, places, width)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mixed, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), Drop(DROP), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        count, places, width = x.shape
        heads = self.mixed(self.before(x)).view(count, places, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        x = x + self.out(seen.transpose(1, 2).reshape(count, places, width))
        again: Tensor = x + self.mlp(self.between(x))
        return again


class Step(nn.Module):
    """A linear layer over the channels of (..., width), batch normalisation and GELU."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(entering, leaving), nn.BatchNorm1d(leaving)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., leaving)."""
        y = self.linear(x)
        return functional.gelu(self.norm(y.flatten(0, -2)).view(y.shape))


class Up(nn.Module):
    """Twice the rows and columns: (B, rows, cols, width) to (B, 2 rows, 2 cols, leaving)."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.step = Step(entering, 4 * leaving)

    def forward(self, x: Tensor) -> Tensor:
        """Give each place's channels to four places."""
        count, rows, cols, _ = x.shape
        y: Tensor = self.step(x).view(count, rows, cols, 2, 2, -1)
        return y.permute(0, 1, 3, 2, 4, 5).reshape(count, 2 * rows, 2 * cols, -1)


class Down(nn.Module):
    """Half the rows and columns: four places' channels become one's (Liu et al. 2021, patch merging)."""

    def __init__(self, entering: int, leaving: int) -> None:
        super().__init__()
        self.step = Step(4 * entering, leaving)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, rows / 2, cols / 2, leaving) of (B, rows, cols, entering)."""
        count, rows, cols, width = x.shape
        y = x.view(count, rows // 2, 2, cols // 2, 2, width).permute(0, 1, 3, 2, 4, 5)
        merged: Tensor = self.step(y.reshape(count, rows // 2, cols // 2, 4 * width))
        return merged


class FeatureNet(nn.Module):
    """Standardised features of the object's cells (B, n, C) to their reconstruction.

    cells: bool (rows, cols), the n cells. The rest of the grid is empty: what lies around the part is not looked at.
    attention: whether the blocks that look over the whole part are there (the article's wish).
    """

    where: Tensor
    place: Tensor
    coordinates: Tensor

    def __init__(self, channels: int, cells: Tensor, attention: bool = True) -> None:
        super().__init__()
        self.channels, self.attention = channels, attention
        multiple = 2**HALVINGS
        rows, cols = (-(-side // multiple) * multiple for side in cells.shape)
        self.size = (rows, cols)
        padded = functional.pad(cells, (0, cols - cells.shape[1], 0, rows - cells.shape[0])).flatten()
        self.register_buffer("where", torch.nonzero(padded)[:, 0], persistent=False)
        self.register_buffer("place", places(padded), persistent=False)
        y, x = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, cols), indexing="ij")
        self.register_buffer("coordinates", torch.stack([x, y], -1).view(-1, 2)[padded], persistent=False)
        self.drop_input, self.drop = Drop(DROP_INPUT, channels=True), Drop(DROP)
        self.enter = Step(channels + 2, WIDTHS[0])
        self.down = nn.Sequential(*(Down(i, o) for i, o in pairwise(WIDTHS)))
        self.position = nn.Parameter(torch.zeros(1, rows // multiple, cols // multiple, WIDTHS[-1]))
        self.blocks = nn.ModuleList(Attention(WIDTHS[-1]) for _ in range(BLOCKS if attention else 0))
        self.up = nn.Sequential(*(Up(i, o) for i, o in pairwise(WIDTHS[::-1])))
        self.leave = nn.Linear(WIDTHS[0], channels)

    def forward(self, features: Tensor) -> Tensor:
        """Return the reconstruction, (B, n, C)."""
        count = len(features)
        x = self.enter(torch.cat([self.drop_input(features), self.coordinates.expand(count, -1, -1)], 2))
        x = self.down(self._on_grid(x))
        x = self.drop(x) + self.position
        tokens = x.flatten(1, 2)
        for block in self.blocks:
            tokens = block(tokens)
        x = self.up(tokens.view(x.shape))
        again: Tensor = self.leave(x.flatten(1, 2).index_select(1, self.where))
        return again

    def _on_grid(self, x: Tensor) -> Tensor:
        """Return the cells' values (B, n, width) on the padded grid (B, rows, cols, width), 0 elsewhere."""
        if self.training:  # the same, with a gradient that is a plain look-up
            empty = x.new_zeros(len(x), self.place.shape[0], x.shape[2])
            return empty.index_copy(1, self.where, x).view(len(x), *self.size, -1)
        return functional.pad(x, (0, 0, 0, 1))[:, self.place].view(len(x), *self.size, -1)


def unlike(again: Tensor, features: Tensor, fine: int) -> Tensor:
    """Return 1 - cosine per layer, (2, B, n), of features (B, n, C) whose first `fine` channels are one layer."""
    pairs = ((again[..., :fine], features[..., :fine]), (again[..., fine:], features[..., fine:]))
    return torch.stack([1 - _cosine(a, b) for a, b in pairs])


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    lengths = a.square().sum(-1) * b.square().sum(-1)
    return (a * b).sum(-1) / (lengths + EPSILON).sqrt()


class Network(nn.Module):
    """Features to the error (B, 1, rows, cols) of their reconstruction; 0 outside the object."""

    cells: Tensor
    where: Tensor
    place: Tensor

    def __init__(self, net: FeatureNet, fine: int, cells: Tensor) -> None:
        super().__init__()
        self.net, self.fine = net, fine
        self.register_buffer("cells", cells)
        self.register_buffer("where", torch.nonzero(cells.flatten())[:, 0], persistent=False)
        self.register_buffer("place", places(cells.flatten()), persistent=False)

    def forward(self, maps: Maps) -> Tensor:
        """Return the smoothed error."""
        features = tokens(maps, self.where)
        error = unlike(self.net(features), features, self.fine).mean(0)
        plane = functional.pad(error, (0, 1))[:, self.place].view(len(error), 1, *self.cells.shape)
        return blur_inside(plane, self.cells, SMOOTHING, math.ceil(3 * SMOOTHING))

    def meta(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        net = self.net
        return {"channels": net.channels, "attention": net.attention, "fine": self.fine}

    def state(self) -> Arrays:
        """Return its arrays by name."""
        arrays = {f"net.{name}": value.detach().cpu().numpy() for name, value in self.net.state_dict().items()}
        return {**arrays, "cells": self.cells.to(torch.uint8).cpu().numpy()}

    @classmethod
    def make(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Network:
        """Make it again from `meta` and `state`; raises KeyError or RuntimeError when they do not fit."""
        cells = torch.from_numpy(arrays["cells"].copy()) > 0
        net = FeatureNet(int(meta["channels"]), cells, bool(meta["attention"]))
        net.load_state_dict({k[4:]: torch.from_numpy(v.copy()) for k, v in arrays.items() if k.startswith("net.")})
        return cls(net, int(meta["fine"]), cells).eval().requires_grad_(False)
