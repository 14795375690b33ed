"""The whole inspection of a batch as one module: pixels in, one small tensor out.

What comes out is all that the host needs to say why a part fails and where: a row a part, packed so that it is one
copy. `Packing` knows what a row holds.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from line_worker.verdicts import Reason
from line_worker.vision.adaptive import texture
from line_worker.vision.deciding import Deciding
from line_worker.vision.deep import Deep
from line_worker.vision.device.blocks import Blocks
from line_worker.vision.device.placing import Rectified, rectifying
from line_worker.vision.device.seeing import Seeing
from line_worker.vision.rectify import Rectifier
from line_worker.vision.standard import Standard

Lap = Callable[[str], None]


class Found(NamedTuple):
    """What the device says of one part, on the host.

    reason: NONE when the part was scored, which decides nothing yet. matrix: float64 (2, 3). decision: (1, rows, cols).
    errors, and expected with the rule adaptive: (1, M, rows, cols).
    """

    reason: Reason
    score: float
    matrix: NDArray[np.float64]
    decision: Tensor
    errors: Tensor
    expected: Tensor | None


class Packing(NamedTuple):
    """A row of float32: reason, score, matrix (6), decision map, M error maps, and M expected ones where `expects`."""

    maps: int
    cells: tuple[int, int]
    expects: bool

    def pack(
        self,
        reason: Tensor,
        score: Tensor,
        matrices: Tensor,
        decision: Tensor,
        errors: Tensor,
        expected: Tensor | None,
    ) -> Tensor:
        """Return (B, n)."""
        maps = [decision, errors] if expected is None else [decision, errors, expected]
        figures = [reason[:, None].float(), score[:, None], matrices.flatten(1).float()]
        return torch.cat([*figures, *(plane.flatten(1) for plane in maps)], 1)

    def unpack(self, row: NDArray[np.float32]) -> Found:
        """Return what one row holds."""
        planes = torch.from_numpy(row[8:].copy()).view(-1, *self.cells)
        decision, errors = planes[None, 0], planes[None, 1 : 1 + self.maps]
        expected = planes[None, 1 + self.maps :] if self.expects else None
        return Found(
            Reason(int(row[0])), float(row[1]), row[2:8].reshape(2, 3).astype(float), decision, errors, expected
        )


class Pipeline(nn.Module):
    """Frames (B, H, W) or (B, H, W, C), uint8 or uint16, to rows (B, n) as `packing` says.

    Copies of the stages, in single precision; `lower` makes the backbone's arithmetic narrower.
    """

    def __init__(self, rectifier: Rectifier, deep: Deep, standard: Standard) -> None:
        super().__init__()
        self.rectifying = rectifying(rectifier)
        self.seeing = None if standard.commissioned is None else Seeing(rectifier, standard.commissioned)
        self.deep, self.size = copy.deepcopy(deep), rectifier.size
        self.deciding, self.adaptive = Deciding(standard), standard.adaptive
        rows, cols = standard.zones.mask.shape
        self.packing = Packing(len(standard.zones.mu), (rows, cols), standard.adaptive is not None)

    def on(self, device: torch.device) -> Pipeline:
        """Move it there and return it."""
        self.to(device)
        self.adaptive = None if self.adaptive is None else self.adaptive.to(device)
        return self

    def lower(self, dtype: torch.dtype) -> None:
        """Let the backbone compute in `dtype`, as GPUs like it; what it is given and made of its maps stays float32."""
        features = self.deep.features
        features.add_module("backbone", Blocks(features.backbone, dtype, self.size))

    @torch.inference_mode()
    def forward(self, images: Tensor, lap: Lap = lambda stage: None) -> Tensor:
        """Judge each image; `lap(stage)` is called as each stage has been asked for."""
        frames = images.float()
        frames = frames[:, None] if frames.ndim == 3 else frames.permute(0, 3, 1, 2).contiguous()
        part: Rectified = self.rectifying(frames, lap)
        reason = self._checked(frames, part)
        lap("check")
        errors = self.deep(part.canonical)
        lap("reconstruct")
        expected = self._expected(part.canonical)
        decision = self.deciding(errors, expected)
        reason = reason.masked_fill((reason == Reason.NONE) & ~_finite(errors), int(Reason.NONFINITE))
        rows = self.packing.pack(reason, decision.flatten(1).amax(1), part.matrices, decision, errors, expected)
        lap("score")
        return rows

    def _checked(self, frames: Tensor, part: Rectified) -> Tensor:
        """Return the reasons (B,) with those of the pictures' light: `Inspection._checked` of a batch."""
        reason = part.reason
        if self.seeing is not None:
            seen = self.seeing(frames, part.canonical)
            reason = torch.where((reason == Reason.NONE) | (seen == Reason.EXPOSURE), seen, reason)
        return reason.masked_fill(~_finite(part.canonical), int(Reason.NONFINITE))

    def _expected(self, canonical: Tensor) -> Tensor | None:
        if self.adaptive is None:
            return None
        return self.adaptive.expected(texture(canonical, self.deciding.mask), self.deciding.mu)


def _finite(x: Tensor) -> Tensor:
    return x.isfinite().flatten(1).all(1)
