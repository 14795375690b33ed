"""Where the part is in each picture of a batch: locate.py's twin, for `background` and, with a network, for `head`."""

from __future__ import annotations

import copy
import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from line_worker.vision.background import FIT_SIDE, border_ring, small_size
from line_worker.vision.device import regions
from line_worker.vision.device.light import Fit, deviation, light, terms_over
from line_worker.vision.device.pictures import Blur, Steepness
from line_worker.vision.device.resizing import resizing
from line_worker.vision.device.statistics import median, otsu
from line_worker.vision.head import Head, chance
from line_worker.vision.locate import (
    AREA_MAX,
    AREA_MIN,
    COARSE,
    CONTRAST_MIN,
    CORE_MIN,
    EDGE_MIN,
    LEVELS_OF_DEVIATION,
    LOCATE_SIDE,
    OUTLINE_MAX,
    SHARE_MIN,
    SMOOTHING,
)

OUTSIDE_MIN, OUTSIDE_RANK = 100, 0.995


class Seen(NamedTuple):
    """Located parts, `locate.Located` for a batch; geometry means nothing where `found` is False.

    found: bool (B,). surface: (B, C, 6). mask: bool (B, h, w). signed, deviation: (B, h, w). centre: float64 (B, 2),
    area: float64 (B,), in image pixels. soft: (B, h, w), the chance of each pixel to be part, where a network says so.
    """

    found: Tensor
    surface: Tensor
    mask: Tensor
    signed: Tensor
    deviation: Tensor
    centre: Tensor
    area: Tensor
    soft: Tensor | None = None


class Ground(nn.Module):
    """Pictures (B, C, h, w) of `size` to the surface of their background (B, C, 6) and what differs from it."""

    terms: Tensor

    def __init__(self, size: tuple[int, int], dtype: str) -> None:
        super().__init__()
        fit_size = small_size(size, FIT_SIDE)
        self.shrink, self.fit, self.smooth = (
            resizing(size, fit_size, dtype),
            Fit(fit_size),
            Blur(SMOOTHING, dtype == "uint8"),
        )
        self.shrink_cover = resizing(size, fit_size, "float32")
        self.register_buffer("terms", terms_over(size))

    def forward(self, small: Tensor, covered: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return surface, signed and absolute deviation (B, h, w); covered: bool (B, h, w), where the part is known."""
        if covered is not None:
            covered = self.shrink_cover(covered[:, None].float())[:, 0] > 0
        surface = self.fit(self.shrink(small), covered)
        return surface, *deviation(self.smooth(small), light(surface, self.terms))


class Segmenting(nn.Module):
    """Pictures (B, C, h, w) at LOCATE_SIDE, gray levels of `dtype`, to Seen, where a network sees the part."""

    def __init__(self, shape: tuple[int, int], dtype: str, head: Head) -> None:
        super().__init__()
        self.scale, self.least = LOCATE_SIDE / max(shape), max(AREA_MIN, head.least)
        self.most = min(AREA_MAX, head.most)
        self.head, self.ground = copy.deepcopy(head), Ground(small_size(shape, LOCATE_SIDE), dtype)

    def forward(self, small: Tensor) -> Seen:
        """Find the part in each picture: `locate.segmented` for a batch."""
        soft = chance(self.head(small))[:, 0]
        blob, alone = regions.largest(regions.filled(soft > 0.5))
        near = regions.dilate(blob, 5)
        surface, signed, away = self.ground(small, near)
        share = blob.flatten(1).float().mean(1)
        found = (share > self.least) & (share < self.most) & (alone >= SHARE_MIN)
        return Seen(found, surface, blob, signed, away, *measured(blob, self.scale), soft * near)


class Locating(nn.Module):
    """Pictures (B, C, h, w) at LOCATE_SIDE, gray levels of `dtype`, to Seen; `shape` is the frame's (H, W)."""

    ring: Tensor
    outline: Tensor

    def __init__(self, shape: tuple[int, int], dtype: str) -> None:
        super().__init__()
        size = small_size(shape, LOCATE_SIDE)
        self.scale = LOCATE_SIDE / max(shape)
        self.ground, self.smooth_signed, self.steepness = Ground(size, dtype), Blur(SMOOTHING, False), Steepness()
        self.register_buffer("ring", torch.from_numpy(border_ring(*size).reshape(-1).copy()).nonzero()[:, 0])
        index = torch.arange(math.prod(size)).view(size)
        self.register_buffer("outline", torch.cat([index[0], index[-1], index[:, 0], index[:, -1]]))

    def forward(self, small: Tensor) -> Seen:
        """Find the part in each picture."""
        surface, signed, away = self.ground(small)
        threshold = otsu(away.flatten(1), torch.ones_like(away).flatten(1), LEVELS_OF_DEVIATION)
        noise = 1.4826 * median(away.flatten(1)[:, self.ring]) + 2e-3
        blob, alone = self._blob(away, threshold)
        mask = self._without_shadow(blob, signed, away, threshold)
        share = mask.flatten(1).float().mean(1)
        found = (threshold / noise >= CONTRAST_MIN) & alone & (share > AREA_MIN) & (share < AREA_MAX)
        return Seen(found, surface, mask, signed, away, *measured(mask, self.scale))

    def _blob(self, away: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        """Return the largest region that stands out, and whether it may be a part (B,)."""
        coarse = regions.closed(away > COARSE * threshold[:, None, None], 3)
        blob, share = regions.largest(regions.filled(coarse))
        at_border = coarse.flatten(1)[:, self.outline].float().mean(1)
        return blob, (at_border <= OUTLINE_MAX) & (share >= SHARE_MIN)

    def _without_shadow(self, blob: Tensor, signed: Tensor, away: Tensor, coarse_threshold: Tensor) -> Tensor:
        inside = regions.dilate(blob, 5)
        threshold = otsu(away.flatten(1), inside.flatten(1).float(), LEVELS_OF_DEVIATION)[:, None, None]
        steep = self.steepness(self.smooth_signed(signed[:, None]))[:, 0] / 32
        bright = signed > COARSE * coarse_threshold[:, None, None]
        part = ((away > threshold) | (steep > self._edge(steep, ~inside)) | bright) & inside
        # opening takes away only what borders on the outside, so there are no holes to fill again
        core, _ = regions.largest(regions.opened(regions.filled(regions.closed(part, 3)), 3))
        trusted = core.flatten(1).sum(1) > CORE_MIN * blob.flatten(1).sum(1)
        return torch.where(trusted[:, None, None], core, blob)

    @staticmethod
    def _edge(steep: Tensor, outside: Tensor) -> Tensor:
        """Return (B, 1, 1): steeper than this no shadow is, nor the background around it."""
        count = outside.flatten(1).sum(1)
        rank = count - 1 - (OUTSIDE_RANK * count.double()).long()  # from the top
        most = steep[0].numel() - int(OUTSIDE_RANK * steep[0].numel())
        top = torch.where(outside, steep, -1.0).flatten(1).topk(most).values
        ground = top.gather(1, rank.clamp(min=0)[:, None])[:, 0]
        edge = torch.where(count > OUTSIDE_MIN, 1.5 * ground, 0.0).clamp(min=EDGE_MIN)
        return edge[:, None, None]


def measured(mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Return centre (B, 2) and area (B,) of masks (B, h, w), in image pixels; scale: map pixels per image pixel."""
    area = mask.flatten(1).sum(1).double()
    some = area.clamp(min=1)
    middles = []
    for axis in (1, 2):  # x: over the columns that are left when rows are summed
        profile = mask.sum(axis).double()
        index = torch.arange(profile.shape[1], dtype=torch.float64, device=mask.device)
        middles.append(((profile * index).sum(1) / some + 0.5) / scale - 0.5)
    return torch.stack(middles, 1), area / scale**2
