"""Pictures resized as cv2.resize with INTER_AREA does it: smaller by averaging, larger by its own kind of bilinear.

What OpenCV makes of whole levels are whole levels, and of 8 bits by arithmetic in whole numbers; both are done here as
there, so that both paths see the same pixels.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WEIGHT, DROPPED, HALF, REST = 2048, 16, 65536, 4  # how OpenCV keeps 8-bit pictures in 16 bits while it enlarges them


def resizing(shape: tuple[int, int], size: tuple[int, int], dtype: str) -> nn.Module:
    """Return the module from pictures (B, C, h, w), float32 that hold `dtype`'s values, to `size` (h', w')."""
    if shape == size:
        return nn.Identity()
    if size[0] > shape[0] or size[1] > shape[1]:
        return Enlarge(shape, size, dtype)
    return Shrink(shape, size, dtype != "float32")


class Shrink(nn.Module):
    """(B, C, h, w) to `size` by averaging areas; `whole` rounds to whole levels."""

    rows: Tensor
    cols: Tensor

    def __init__(self, shape: tuple[int, int], size: tuple[int, int], whole: bool) -> None:
        super().__init__()
        self.whole = whole
        step = shape[0] // size[0]
        self.step = step if shape == (size[0] * step, size[1] * step) else 0
        if not self.step:  # areas cut through pixels: the weights are what OpenCV makes of unit vectors
            self.register_buffer("rows", _weights(shape[0], size[0]))
            self.register_buffer("cols", _weights(shape[1], size[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h', w')."""
        small = functional.avg_pool2d(x, self.step) if self.step else self.rows @ x @ self.cols.T
        if not self.whole:
            return small
        return (small + 0.5).floor() if self.step == 2 else small.round()  # OpenCV's own two ways to round


def _weights(old: int, new: int) -> Tensor:
    """Return (new, old): the share of each old pixel in each new one."""
    eye = np.eye(old, dtype=np.float32)
    return torch.from_numpy(cv2.resize(eye, (old, new), interpolation=cv2.INTER_AREA))


class Enlarge(nn.Module):
    """(B, C, h, w) to `size`, of which a side is larger, between two pixels each way."""

    rows: Tensor
    rows_weights: Tensor
    cols: Tensor
    cols_weights: Tensor

    def __init__(self, shape: tuple[int, int], size: tuple[int, int], dtype: str) -> None:
        super().__init__()
        self.fixed, self.whole = dtype == "uint8", dtype != "float32"
        for name, old, new in (("rows", shape[0], size[0]), ("cols", shape[1], size[1])):
            pixels, weights = _pairs(old, new)
            self.register_buffer(name, pixels)
            self.register_buffer(f"{name}_weights", (weights * WEIGHT).round() if self.fixed else weights)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, h', w')."""
        left, right = (x.double()[..., self.cols[k]] * self.cols_weights[k] for k in (0, 1))
        wide = left + right
        if self.fixed:
            wide = (wide / DROPPED).floor()
        upper, lower = (wide[..., self.rows[k], :] * self.rows_weights[k][:, None] for k in (0, 1))
        if self.fixed:
            large = (((upper / HALF).floor() + (lower / HALF).floor() + REST / 2) / REST).floor()
        else:
            large = (upper + lower).round() if self.whole else upper + lower
        return large.float()


def _pairs(old: int, new: int) -> tuple[Tensor, Tensor]:
    """Return the two old pixels of each new one, int64 (2, new), and their weights, float64 (2, new)."""
    place, scale = np.arange(new), new / old
    first = np.floor(place * (1 / scale)).astype(np.int64)  # not old / new: they differ by a bit, and so by a pixel
    share = ((place + 1) - (first + 1) * scale).astype(np.float32).astype(np.float64)
    share = np.where((share <= 0) | (first >= old - 1), 0.0, share - np.floor(share))
    pixels = np.stack([first, np.minimum(first + 1, old - 1)])
    return torch.from_numpy(pixels), torch.from_numpy(np.stack([1 - share, share]))
