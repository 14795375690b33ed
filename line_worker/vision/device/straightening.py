"""The canonical pictures of a batch: straightened, background-divided. canonical.py's twin."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from line_worker.vision.background import FLOOR, LEVELS
from line_worker.vision.canonical import CELL, averaged
from line_worker.vision.device.pictures import Reading, homogeneous, rounded
from line_worker.vision.device.resizing import resizing
from line_worker.vision.frame import Frame


class Straighten(nn.Module):
    """Frames (B, C, H, W) of parts that lie as matrices (B, 2, 3) say, to canonical pictures (B, C, H', W').

    scale: canonical pixels per image pixel.
    """

    cells: Tensor

    def __init__(self, frame: Frame, size: tuple[int, int], scale: float) -> None:
        super().__init__()
        self.frame, self.size = frame, size
        smaller = averaged(frame.shape, 1 / scale)
        self.average = resizing(frame.shape, smaller, frame.dtype)
        factors = smaller[1] / frame.shape[1], smaller[0] / frame.shape[0]
        self.reading = Reading(_laid_out(size, 1), smaller, factors, continued=True)
        self.register_buffer("cells", homogeneous(_laid_out(size, CELL)))

    def forward(self, frames: Tensor, matrices: Tensor, surface: Tensor) -> Tensor:
        """Return 1 + (I - bg) / max(bg, FLOOR), see `canonical.divide_background`."""
        ground = self._ground(matrices, surface)
        floored = ground.clamp(min=FLOOR)
        gain, rest = (
            functional.interpolate(part, self.size, mode="bilinear", align_corners=False)
            for part in ((LEVELS / self.frame.white) / floored, 1 - ground / floored)
        )
        return self._straight(frames, matrices) * gain + rest

    def _straight(self, frames: Tensor, matrices: Tensor) -> Tensor:
        """Return the pixels that the matrices point at, whole levels, the frame's edge continued."""
        straight = self.reading(self.average(frames), matrices[:, None])
        return rounded(straight).view(*straight.shape[:2], *self.size)

    def _ground(self, matrices: Tensor, surface: Tensor) -> Tensor:
        """Return the background in gray levels on canonical cells, (B, C, H' / CELL, W' / CELL)."""
        height, width = self.frame.shape
        place = self.cells @ matrices.float().transpose(1, 2)  # (B, cells, 2)
        x, y = (place[..., 0] + 0.5) / width * 2 - 1, (place[..., 1] + 0.5) / height * 2 - 1
        terms = torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], 1)
        return (surface @ terms).view(*surface.shape[:2], self.size[0] // CELL, self.size[1] // CELL)


def _laid_out(size: tuple[int, int], cell: int) -> Tensor:
    """Return the middles (n, 2) of cells of so many canonical pixels, row by row: x, y."""
    y, x = ((torch.arange(side // cell, dtype=torch.float32) + 0.5) * cell - 0.5 for side in size)
    rows, cols = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([cols, rows], -1).view(-1, 2)
