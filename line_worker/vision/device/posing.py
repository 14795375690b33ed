"""Where located parts lie, and whether that can be trusted: the twin of template.py's search and of posing.py."""

from __future__ import annotations

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from line_worker.vision.background import FLOOR
from line_worker.vision.device.aiming import ANGLE, SIZE, Aim, X, Y, correlation, read
from line_worker.vision.device.light import light, terms_over
from line_worker.vision.device.locating import Seen
from line_worker.vision.device.pictures import Blur, Steepness, homogeneous
from line_worker.vision.posing import HANDED_SLACK, SIZE_STEPS, Posing
from line_worker.vision.template import (
    ANGLES,
    BOX_MARGIN,
    COARSE_STEPS,
    COARSE_TOLERANCE,
    FINE_BLUR,
    FINE_STEPS,
    FINE_TOLERANCE,
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


class Placed(NamedTuple):
    """Poses (B, 4), float64: angle, x, y, 1; how well the template fits there (B,), and whether to trust it (B,)."""

    poses: Tensor
    quality: Tensor
    sound: Tensor


class View(NamedTuple):
    """Located parts prepared for posing: phi, signed, edges (B, 1, h, w); centre float64 (B, 2)."""

    phi: Tensor
    signed: Tensor
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
        return View(phi, signed, self._edges(seen, middle), seen.centre)

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
    """The best coarse pose of each part: directions by polar correlation, each refined, the best fit wins."""

    points: Tensor
    values: Tensor
    weights: Tensor
    rings: Tensor
    ring_weights: Tensor
    centroid: Tensor
    spectrum: Tensor

    def __init__(self, coarse: Coarse, scale: float) -> None:
        super().__init__()
        self.scale, self.turns, self.norm = scale, coarse.parameters > 2, coarse.norm
        self.aim = Aim(coarse.target, scale, COARSE_STEPS, COARSE_TOLERANCE, coarse.parameters)
        rings, ring_weights = polar_grid(coarse.radius)
        self.register_buffer("points", homogeneous(_tensor(coarse.points)))
        self.register_buffer("values", _tensor(np.stack([coarse.phi, coarse.signed])))
        self.register_buffer("weights", _tensor(np.stack([coarse.phi_weights, coarse.signed_weights])))
        self.register_buffer("rings", homogeneous(_tensor(rings.reshape(-1, 2))))
        self.register_buffer("ring_weights", _tensor(ring_weights))
        self.register_buffer("centroid", _tensor(coarse.centroid))
        self.register_buffer("spectrum", _tensor(coarse.spectrum))

    def forward(self, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """Return poses (B, 1, 4), quality (B,) and handedness (B,)."""
        angles, usable, handedness = self._directions(view)
        poses = self._centred(view, angles)
        rough = torch.where(usable, self.quality(view, poses), -torch.inf)
        refined = self.aim(view.phi, poses)
        worth = rough >= rough.amax(1, keepdim=True) - PRUNE
        quality = torch.where(worth, self.quality(view, refined), rough)
        best = quality.argmax(1, keepdim=True)
        poses = torch.where(worth[..., None], refined, poses).gather(1, best[..., None].expand(-1, -1, 4))
        return poses, quality.gather(1, best)[:, 0], handedness

    def quality(self, view: View, poses: Tensor) -> Tensor:
        """Return (B, K): the mean correlation of phi and of the signed deviation with the template, up to 1."""
        pairs = zip((view.phi, view.signed), self.values, self.weights, strict=True)
        fits = [correlation(read(p, self.points, poses, self.scale)[:, 0], v, w) for p, v, w in pairs]
        return 0.5 * (fits[0] + fits[1])

    def _directions(self, view: View) -> tuple[Tensor, Tensor, Tensor]:
        """Return angles (B, K), which of them to try (B, K), and how far a mirrored part stays behind (B,)."""
        if not self.turns:
            none = torch.zeros(len(view.centre), 1, dtype=torch.float64, device=view.centre.device)
            return none, none == 0, none[:, 0]
        upright = torch.cat([torch.zeros_like(view.centre[:, :1]), view.centre, torch.ones_like(view.centre[:, :1])], 1)
        both = torch.cat([view.phi, view.signed], 1)
        rings = read(both, self.rings, upright[:, None], self.scale)[:, :, 0]
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
        """Return poses (B, K, 4) at `angles` (B, K) around the parts' centres."""
        c, s, (x, y) = angles.cos(), angles.sin(), self.centroid
        moved = torch.stack([c * x - s * y, s * x + c * y], -1)
        return torch.cat([angles[..., None], view.centre[:, None] - moved, torch.ones_like(angles)[..., None]], -1)


def _peaks(circular: Tensor) -> tuple[Tensor, Tensor]:
    """Return angles (B, PEAKS), float64, of the highest peaks of (B, ANGLES), and whether each is high enough."""
    left, index = circular, torch.arange(ANGLES, device=circular.device)
    bar = circular.amax(1) - PEAK_DROP
    angles, usable = [], []
    for _ in range(PEAKS):
        height, k = left.max(1)
        before, here, after = (circular.gather(1, (k[:, None] + d) % ANGLES)[:, 0].double() for d in (-1, 0, 1))
        bend = before - 2 * here + after
        shift = torch.where(bend < -1e-12, (0.5 * (before - after) / bend).clamp(-0.5, 0.5), 0.0)
        angles.append((k + shift) * (2 * math.pi / ANGLES))
        usable.append(height >= bar)
        apart = (index - k[:, None] + ANGLES // 2) % ANGLES - ANGLES // 2
        left = torch.where(apart.abs() <= PEAK_DISTANCE, -9.0, left)
    return torch.stack(angles, 1), torch.stack(usable, 1)


class Placing(nn.Module):
    """Views to Placed: coarse, fine, and held against what good parts showed."""

    def __init__(self, posing: Posing, scales: tuple[float, float]) -> None:
        super().__init__()
        parameters, self.ranges = posing.coarse.parameters, posing.ranges
        self.search = Search(posing.coarse, scales[0])
        self.fine = Aim(posing.fine.target, scales[1], FINE_STEPS, FINE_TOLERANCE, parameters)
        self.size = Aim(posing.coarse.target, scales[0], SIZE_STEPS, COARSE_TOLERANCE, 4)

    def forward(self, view: View, area: Tensor) -> Placed:
        """Return where the parts lie; `area` (B,) as located."""
        rough, _, handedness = self.search(view)
        poses = self.fine(view.edges, rough)
        quality = self.search.quality(view, poses)[:, 0]
        size = self.size(view.phi, poses)[:, 0, SIZE]
        limits = self.ranges
        sound = (
            (quality >= limits["quality"].low())
            & (handedness >= min(0.0, limits["handedness"].low()) - HANDED_SLACK)
            & ((area - limits["area"].centre).abs() <= limits["area"].tolerance)
            & ((size - limits["size"].centre).abs() <= limits["size"].tolerance)
        )
        return Placed(poses[:, 0], quality, sound)


def canonical_matrices(poses: Tensor, size: tuple[int, int], scale: float) -> Tensor:
    """Return float64 (B, 2, 3), canonical pixel (x, y) to image pixel: `canonical.canonical_matrix` of each pose."""
    c, s = poses[:, ANGLE].cos() / scale, poses[:, ANGLE].sin() / scale
    across, down = (size[1] - 1) / 2, (size[0] - 1) / 2
    x, y = poses[:, X] - (c * across - s * down), poses[:, Y] - (s * across + c * down)
    return torch.stack([torch.stack([c, -s, x], -1), torch.stack([s, c, y], -1)], 1)


def _tensor(array: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))
