"""Whether each frame of a batch is a picture as the station was commissioned with: sanity.py's twin."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from line_worker.verdicts import Reason
from line_worker.vision.background import FLOOR, LEVELS, border_ring
from line_worker.vision.device.statistics import median
from line_worker.vision.rectify import Rectifier
from line_worker.vision.sanity import (
    BRIGHT,
    DARK,
    FAINT,
    HALVINGS,
    STEP_EDGES,
    TOP,
    Commissioned,
    Range,
    focus_blocks,
    sampling,
)


class Seeing(nn.Module):
    """Frames (B, C, H, W) with their canonical pictures (B, C, H', W') to reasons (B,): NONE, EXPOSURE or FOCUS."""

    ring: Tensor
    inside: Tensor
    blocks: Tensor

    def __init__(self, rectifier: Rectifier, commissioned: Commissioned) -> None:
        super().__init__()
        self.limits, self.white = commissioned, rectifier.frame.white
        mask = rectifier.template_mask
        self.texture = bool(mask.all())
        self.every, self.every_canonical = sampling(rectifier.frame.shape), sampling(mask.shape)
        self.register_buffer("ring", _indices(_ring(rectifier.frame.shape, self.every)))
        self.register_buffer("inside", _indices(mask[self.every_canonical, self.every_canonical]))
        self.register_buffer("blocks", _indices(focus_blocks(mask)))

    def forward(self, frames: Tensor, canonical: Tensor) -> Tensor:
        """Return the reasons; a measure that is not finite is never NONE."""
        planes = frames[..., self.every, self.every] / self.white
        peak = planes.amax(1).flatten(1)
        dark, bright = ((peak <= DARK).float().mean(1), (peak >= BRIGHT).float().mean(1))
        limits = self.limits
        lit = (
            _within(self._exposure(planes.mean(1), canonical), limits.exposure)
            & _within(dark, limits.dark)
            & _within(bright, limits.bright)
        )
        blurred = ~_within(self._focus(canonical), limits.focus)
        return torch.where(lit, blurred.long() * int(Reason.FOCUS), int(Reason.EXPOSURE))

    def _exposure(self, gray: Tensor, canonical: Tensor) -> Tensor:
        """Return the brightness of the scene (B,) from sampled gray levels (B, h, w) in 0..1."""
        if self.texture:
            return median(gray.flatten(1))
        ground = median(gray.flatten(1)[:, self.ring])
        few = canonical[..., self.every_canonical, self.every_canonical]
        part = median(few.mean(1).flatten(1)[:, self.inside]) - 1
        return torch.maximum(ground, ground + part * ground.clamp(min=FLOOR / LEVELS))

    def _focus(self, canonical: Tensor) -> Tensor:
        """Return the median over the part's most structured blocks of fine over coarse structure, (B,)."""
        gray = canonical.mean(1, keepdim=True)
        levels = [
            functional.avg_pool2d(_structure(functional.avg_pool2d(gray, 2**k)), 2 ** (HALVINGS - k)).flatten(1)
            for k in (1, 2, 3)
        ]
        fine, middle, coarse = (plane[:, self.blocks] for plane in levels)
        structure = (middle + coarse).clamp(min=FAINT)
        top = structure.topk(math.ceil(TOP * structure.shape[1])).indices
        return STEP_EDGES * median(fine.gather(1, top) / structure.gather(1, top))


def _structure(picture: Tensor) -> Tensor:
    """Return the squared differences to the right and lower neighbour, of the picture's shape, 0 at its end."""
    corner = picture[..., :-1, :-1]
    across, down = picture[..., :-1, 1:] - corner, picture[..., 1:, :-1] - corner
    return functional.pad(across * across + down * down, (0, 1, 0, 1))


def _ring(shape: tuple[int, int], every: slice) -> NDArray[np.bool_]:
    return border_ring(*(len(range(side)[every]) for side in shape))


def _indices(mask: NDArray[np.bool_]) -> Tensor:
    return torch.from_numpy(np.flatnonzero(mask))


def _within(value: Tensor, limits: Range) -> Tensor:
    return value.isfinite() & (value >= limits[0]) & (value <= limits[1])
