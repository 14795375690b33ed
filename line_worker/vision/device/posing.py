"""Where located parts lie, and whether that can be trusted: the twin of template.py's search and of posing.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from line_worker.vision.background import FLOOR
from line_worker.vision.device.aiming import Aim
from line_worker.vision.device.light import light, terms_over
from line_worker.vision.device.locating import Seen
from line_worker.vision.device.pictures import Blur, Reading, Steepness
from line_worker.vision.posing import HANDED_SLACK, SIZE_STEPS, Posing
from line_worker.vision.template import (
    ANGLES,
    BOX_MARGIN,
    COARSE_STEPS,
    FINE_BLUR,
    FINE_STEPS,
    GATE,
    PEAK_DISTANCE,
    PEAK_DROP,
    PEAKS,
    PHI_BLUR,
    PHI_START,
    PHI_WIDTH,
    PRUNE,
    Coarse,
    edge_gain,
    polar_grid,
)

FAINT = 1e-7  # variance below which nothing is seen


class Placed(NamedTuple):
    """Matrices float64 (B, 2, 3), see aiming; how well the template fits there (B,), and whether to trust it (B,)."""

    matrices: Tensor
    quality: Tensor
    sound: Tensor


class View(NamedTuple):
    """Located parts prepared for posing: phi and signed (B, 2, h, w), edges (B, 1, h, w); centre float64 (B, 2)."""

    maps: Tensor
    edges: Tensor
    centre: Tensor


class Views(nn.Module):
    """Seen parts and their pictures at FINE_SIDE to View; scales are map and picture pixels per image pixel."""

    terms: Tensor
    gate: Tensor

    def __init__(self, posing: Posing, size: tuple[int, int], scales: tuple[float, float], whole: bool) -> None:
        super().__init__()
        self.threshold, self.brightest = posing.threshold, posing.brightest
        self.ratio = scales[1] / scales[0]
        self.soften, self.blur, self.steepness = Blur(PHI_BLUR, False), Blur(FINE_BLUR, whole), Steepness()
        self.register_buffer("terms", terms_over(size))
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (GATE, GATE))
        self.register_buffer("gate", torch.from_numpy(disc).float()[None, None])

    def forward(self, seen: Seen, middle: Tensor) -> View:
        """Return the views."""
        ramp = seen.soft
        if ramp is None:
            ramp = ((seen.deviation - PHI_START * self.threshold) / (PHI_WIDTH * self.threshold)).clamp(0, 1)
        phi = self.soften(ramp[:, None])
        signed = (seen.signed / self.brightest).clamp(-1, 1)[:, None] * phi
        return View(torch.cat([phi, signed], 1), self._edges(seen, middle), seen.centre)

    def _edges(self, seen: Seen, middle: Tensor) -> Tensor:
        """Return the saturated gradient magnitude around the parts, 0 elsewhere."""
        ground = light(seen.surface, self.terms).clamp(min=FLOOR)
        steep = self.steepness(self.blur(middle)) * edge_gain(self.threshold) / ground
        edges = steep.amax(1, keepdim=True).clamp(max=1)
        if seen.soft is not None:
            edges = edges * self._gate(seen.mask, (edges.shape[2], edges.shape[3]))
        rows, cols = (
            self._near(seen.mask.any(axis), side) for axis, side in ((2, edges.shape[2]), (1, edges.shape[3]))
        )
        near: Tensor = edges * (rows[:, :, None] & cols[:, None, :])[:, None]
        return near

    def _gate(self, mask: Tensor, size: tuple[int, int]) -> Tensor:
        """Return (B, 1, h, w): 1 on the part and close to it, 0 elsewhere; see `template._gate`."""
        close = functional.conv2d(mask[:, None].float(), self.gate, padding=GATE // 2) > 0.5
        return functional.interpolate(close.float(), size, mode="bilinear", align_corners=False)

    def _near(self, occupied: Tensor, side: int) -> Tensor:
        """Return bool (B, side): which rows or columns of the picture lie within BOX_MARGIN of those of the mask."""
        index = torch.arange(occupied.shape[1], device=occupied.device, dtype=torch.float64)
        first = torch.where(occupied, index, torch.inf).amin(1, keepdim=True)
        last = torch.where(occupied, index, -1.0).amax(1, keepdim=True)
        low, high = (first * self.ratio).floor() - BOX_MARGIN, ((last + 1) * self.ratio).floor() + BOX_MARGIN
        where = torch.arange(side, device=occupied.device)
        return (where >= low) & (where < high)


class Search(nn.Module):
    """The best coarse pose of each part: directions by polar correlation, each refined, the best fit wins.

    size: of the maps, (h, w); scale: map pixels per image pixel.
    """

    ring_weights: Tensor
    centroid: Tensor
    spectrum: Tensor

    def __init__(self, coarse: Coarse, size: tuple[int, int], scale: float) -> None:
        super().__init__()
        self.turns, self.norm = coarse.parameters > 2, coarse.norm
        self.aim = Aim(coarse.target, size, scale, COARSE_STEPS, coarse.parameters)
        rings, ring_weights = polar_grid(coarse.radius)
        self.rings = Reading(_tensor(rings.reshape(-1, 2)), size, (scale, scale))
        self.part = Reading(_tensor(coarse.points), size, (scale, scale))
        values, weights = [coarse.phi, coarse.signed], [coarse.phi_weights, coarse.signed_weights]
        self.likeness = Likeness(_tensor(np.stack(values)), _tensor(np.stack(weights)))
        self.register_buffer("ring_weights", _tensor(ring_weights))
        self.register_buffer("centroid", _tensor(coarse.centroid))
        self.register_buffer("spectrum", _tensor(coarse.spectrum))

    def forward(self, view: View) -> tuple[Tensor, Tensor]:
        """Return poses (B, 1, 2, 3) and handedness (B,)."""
        angles, usable, handedness = self._directions(view)
        poses = self._centred(view, angles)
        rough = torch.where(usable, self.quality(view, poses), -torch.inf)
        refined = self.aim(view.maps[:, :1], poses)
        worth = rough >= rough.amax(1, keepdim=True) - PRUNE
        quality = torch.where(worth, self.quality(view, refined), rough)
        best = quality.argmax(1)[:, None, None, None].expand(-1, -1, 2, 3)
        return torch.where(worth[..., None, None], refined, poses).gather(1, best), handedness

    def quality(self, view: View, poses: Tensor) -> Tensor:
        """Return (B, K): the mean correlation of phi and of the signed deviation with the template, up to 1."""
        fits: Tensor = self.likeness(self.part(view.maps, poses))
        return fits.mean(1)

    def _directions(self, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """Return angles (B, K), which of them to try (B, K), and how far a mirrored part stays behind (B,)."""
        if not self.turns:
            none = torch.zeros_like(view.centre[:, :1])
            return none, none == 0, none[:, 0]
        upright = torch.eye(2, dtype=view.centre.dtype, device=view.centre.device).expand(len(view.centre), 2, 2)
        rings = self.rings(view.maps, torch.cat([upright, view.centre[..., None]], -1)[:, None])[:, :, 0]
        rings = rings.reshape(*rings.shape[:2], -1, ANGLES) * self.ring_weights
        norm = self.norm * rings.square().sum((1, 2, 3)).sqrt() + 1e-9
        spectrum = torch.fft.rfft(rings, dim=3)
        direct, mirrored = (
            torch.fft.irfft((s * self.spectrum).sum((1, 2)), ANGLES) / norm[:, None]
            for s in (spectrum, spectrum.conj())
        )
        angles, usable = _peaks(direct)
        return angles, usable, direct.amax(1) - mirrored.amax(1)

    def _centred(self, view: View, angles: Tensor) -> Tensor:
        """Return poses (B, K, 2, 3) at `angles` (B, K) around the parts' centres."""
        c, s = angles.cos(), angles.sin()
        turn = torch.stack([c, -s, s, c], -1).view(*angles.shape, 2, 2)
        return torch.cat([turn, view.centre[:, None, :, None] - turn @ self.centroid[:, None]], -1)


class Likeness(nn.Module):
    """Correlation coefficients (B, C, K) of what is read (B, C, K, n) with values under weights, both (C, n).

    `template.weighted_correlation` by moments, as the values' own are known. Sums, not products of matrices: these take
    ten times as long when they are so narrow.
    """

    weights: Tensor
    weighted: Tensor
    power: Tensor

    def __init__(self, values: Tensor, weights: Tensor) -> None:
        super().__init__()
        weights = weights.double() / weights.double().sum(1, keepdim=True)
        values = values - (weights * values).sum(1, keepdim=True)
        self.register_buffer("weights", weights.float()[:, None])
        self.register_buffer("weighted", (weights * values).float()[:, None])
        self.register_buffer("power", (weights * values * values).sum(1).float()[:, None])

    def forward(self, read: Tensor) -> Tensor:
        """Return the coefficients; 0 where nothing is seen."""
        own = read * self.weights
        variance = (own * read).sum(-1) - own.sum(-1).square()
        return (read * self.weighted).sum(-1) / (variance.clamp(min=FAINT) * self.power).sqrt()


def _peaks(circular: Tensor) -> tuple[Tensor, Tensor]:
    """Return angles (B, PEAKS), float64, of the highest peaks of (B, ANGLES), and whether each is high enough."""
    left, index = circular, torch.arange(ANGLES, device=circular.device)
    places, heights = [], []
    for _ in range(PEAKS):
        height, k = left.max(1, keepdim=True)
        apart = (index - (k - ANGLES // 2)) % ANGLES - ANGLES // 2
        left = torch.where(apart.abs() <= PEAK_DISTANCE, -9.0, left)
        places.append(k)
        heights.append(height)
    k, high = torch.cat(places, 1), torch.cat(heights, 1)
    before, here, after = (circular.gather(1, (k + d) % ANGLES).double() for d in (-1, 0, 1))
    bend = before - 2 * here + after
    shift = torch.where(bend < -1e-12, (0.5 * (before - after) / bend).clamp(-0.5, 0.5), 0.0)
    return (k + shift) * (2 * math.pi / ANGLES), high >= high[:, :1] - PEAK_DROP


class Placing(nn.Module):
    """Views to Placed: coarse, fine, and held against what good parts showed.

    sizes: of the maps and of the edges, (h, w); scales: their pixels per image pixel.
    """

    def __init__(self, posing: Posing, sizes: Sequence[tuple[int, int]], scales: tuple[float, float]) -> None:
        super().__init__()
        parameters, self.ranges = posing.coarse.parameters, posing.ranges
        self.search = Search(posing.coarse, sizes[0], scales[0])
        self.fine = Aim(posing.fine.target, sizes[1], scales[1], FINE_STEPS, parameters)
        self.size = Aim(posing.coarse.target, sizes[0], scales[0], SIZE_STEPS, 4)

    def forward(self, view: View, area: Tensor) -> Placed:
        """Return where the parts lie; `area` (B,) as located."""
        rough, handedness = self.search(view)
        poses = self.fine(view.edges, rough)
        quality = self.search.quality(view, poses)[:, 0]
        sized = self.size(view.maps[:, :1], poses)[:, 0]
        size = torch.hypot(sized[:, 0, 0], sized[:, 1, 0])
        limits = self.ranges
        sound = (
            (quality >= limits["quality"].low())
            & (handedness >= min(0.0, limits["handedness"].low()) - HANDED_SLACK)
            & ((area - limits["area"].centre).abs() <= limits["area"].tolerance)
            & ((size - limits["size"].centre).abs() <= limits["size"].tolerance)
        )
        return Placed(poses[:, 0], quality, sound)


def canonical_frame(size: tuple[int, int], scale: float) -> Tensor:
    """Return float64 (3, 3), canonical pixel to what poses lead from; see `canonical.canonical_matrix`."""
    across, down = (size[1] - 1) / 2, (size[0] - 1) / 2
    return torch.tensor([[1, 0, -across], [0, 1, -down], [0, 0, scale]], dtype=torch.float64) / scale


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
