"""From a batch of frames to canonical pictures and matrices, or reasons why there are none: rectify.py's twin.

`rectifying` makes what a bundle needs: `Anywhere` for parts that are looked for, `Fixed` for parts that always lie in
one place, `Whole` for texture that fills the frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from line_worker.verdicts import Reason
from line_worker.vision.background import LEVELS, small_size
from line_worker.vision.device.locating import Locating, Seen, Segmenting
from line_worker.vision.device.posing import Placed, Placing, Views, canonical_frame
from line_worker.vision.device.resizing import resizing
from line_worker.vision.device.straightening import Straighten
from line_worker.vision.frame import Frame
from line_worker.vision.locate import LOCATE_SIDE
from line_worker.vision.posing import Posing, Still
from line_worker.vision.rectify import Rectifier
from line_worker.vision.template import FINE_SIDE

Lap = Callable[[str], None]


class Rectified(NamedTuple):
    """canonical (B, C, H', W'); matrices float64 (B, 2, 3), canonical pixel to image pixel; reason int64 (B,)."""

    canonical: Tensor
    matrices: Tensor
    reason: Tensor


def rectifying(rectifier: Rectifier) -> nn.Module:
    """Return the module from frames (B, C, H, W), float32 raw levels, and a lap to Rectified."""
    return Whole(rectifier) if rectifier.placer is None else Located(rectifier, rectifier.placer)


class Whole(nn.Module):
    """Texture that fills the frame: shrunk to the canonical size."""

    matrix: Tensor

    def __init__(self, rectifier: Rectifier) -> None:
        super().__init__()
        self.white = rectifier.frame.white
        self.shrink = resizing(rectifier.frame.shape, rectifier.size, rectifier.frame.dtype)
        self.register_buffer("matrix", torch.from_numpy(rectifier.frame_matrix()))

    def forward(self, frames: Tensor, lap: Lap) -> Rectified:
        """Return the shrunk frames."""
        canonical = self.shrink(frames) / self.white
        lap("rectify")
        reason = torch.full((len(frames),), int(Reason.NONE), device=frames.device)
        return Rectified(canonical, self.matrix.expand(len(frames), -1, -1), reason)


class Fixed(nn.Module):
    """Parts that always lie in the same place: their area and their centre are held against good parts."""

    pose: Tensor
    middle: Tensor
    slack: Tensor

    def __init__(self, still: Still) -> None:
        super().__init__()
        self.area = still.area
        self.register_buffer("pose", torch.from_numpy(still.pose.matrix()))
        self.register_buffer("middle", torch.tensor([limit.centre for limit in still.where], dtype=torch.float64))
        self.register_buffer("slack", torch.tensor([limit.tolerance for limit in still.where], dtype=torch.float64))

    def forward(self, seen: Seen, middle: Tensor) -> Placed:
        """Return the fixed pose of every part."""
        there = ((seen.centre - self.middle).abs() <= self.slack).all(1)
        sound = there & ((seen.area - self.area.centre).abs() <= self.area.tolerance)
        return Placed(self.pose.expand(len(middle), -1, -1), torch.ones_like(seen.area), sound)


class Anywhere(nn.Module):
    """Parts that are looked for with templates."""

    def __init__(self, posing: Posing, frame: Frame) -> None:
        super().__init__()
        scales = LOCATE_SIDE / max(frame.shape), FINE_SIDE / max(frame.shape)
        middle = small_size(frame.shape, FINE_SIDE)
        self.views = Views(posing, middle, scales, frame.dtype == "uint8")
        self.placing = Placing(posing, (small_size(middle, LOCATE_SIDE), middle), scales)

    def forward(self, seen: Seen, middle: Tensor) -> Placed:
        """Return where they lie."""
        placed: Placed = self.placing(self.views(seen, middle), seen.area)
        return placed


class Located(nn.Module):
    """Parts on a background: located, placed, straightened."""

    rim: Tensor
    blank: Tensor
    canonical: Tensor

    def __init__(self, rectifier: Rectifier, placer: Posing | Still) -> None:
        super().__init__()
        frame = rectifier.frame
        dtype = "uint8" if frame.dtype == "uint8" else "float32"  # of gray levels: those of 16 bits are fractions
        middle = small_size(frame.shape, FINE_SIDE)
        self.frame, self.outside = frame, rectifier.outside
        self.middle = resizing(frame.shape, middle, frame.dtype)
        self.small = resizing(middle, small_size(middle, LOCATE_SIDE), dtype)
        self.locating = (
            Locating(frame.shape, dtype) if rectifier.head is None else Segmenting(frame.shape, dtype, rectifier.head)
        )
        self.placing = Fixed(placer) if isinstance(placer, Still) else Anywhere(placer, frame)
        self.straighten = Straighten(frame, rectifier.size, rectifier.scale)
        self.register_buffer("rim", torch.from_numpy(np.ascontiguousarray(rectifier.rim)))
        self.register_buffer("blank", torch.from_numpy(rectifier.frame_matrix()))
        self.register_buffer("canonical", canonical_frame(rectifier.size, rectifier.scale))

    def forward(self, frames: Tensor, lap: Lap) -> Rectified:
        """Return the canonical pictures; that of a part which is not found is empty background."""
        middle = self.middle(frames) * (LEVELS / self.frame.white)
        seen: Seen = self.locating(self.small(middle))
        lap("locate")
        placed: Placed = self.placing(seen, middle)
        lap("pose")
        matrices = placed.matrices @ self.canonical
        canonical = self.straighten(frames, matrices, seen.surface)
        lap("straighten")
        sound = placed.sound & (self._outside(matrices) <= self.outside)
        reason = torch.where(sound, int(Reason.NONE), int(Reason.POSE)).masked_fill(~seen.found, int(Reason.NO_OBJECT))
        found = seen.found[:, None, None]
        canonical = torch.where(found[..., None], canonical, 1.0)
        return Rectified(canonical, torch.where(found, matrices, self.blank), reason)

    def _outside(self, matrices: Tensor) -> Tensor:
        """Return the share (B,) of the part's outline that lies outside the frame."""
        if not len(self.rim):
            return matrices.new_zeros(len(matrices))
        (x, y), (height, width) = (self.rim.T, self.frame.shape)
        across, down = (m[:, :1] * x + m[:, 1:2] * y + m[:, 2:] for m in matrices.unbind(1))
        gone = (across < -0.5) | (across > width - 0.5) | (down < -0.5) | (down > height - 0.5)
        share: Tensor = gone.double().mean(1)
        return share
