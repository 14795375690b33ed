"""Deciding: error maps to decision maps and the figures behind them, as a module that judges part after part.

What `Standard.decisions` finds anew every time is found once here: means under masks, units, indices. It runs on a CPU
and on devices, which a boolean mask would make wait for the number of its cells.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from line_worker.vision.crop import Explain, Figures
from line_worker.vision.score import TOP, neighbours
from line_worker.vision.standard import Standard

Plane = NDArray[np.float32]


class Deciding(nn.Module):
    """Errors (B, M, rows, cols) to decision maps (B, rows, cols), by the rule and the zones of a standard."""

    mu: Tensor
    spread: Tensor
    floor: Tensor
    mask: Tensor
    inside: Tensor
    weight: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(self, standard: Standard) -> None:
        super().__init__()
        zones, self.rule = standard.zones, standard.rule
        spread = zones.spread
        centre, scale = self.rule.unit(zones.mu)
        self.register_buffer("mu", zones.mu)
        self.register_buffer("spread", spread)
        self.register_buffer("floor", (-zones.mu / spread)[:, zones.mask].amin(1)[:, None, None])
        self.register_buffer("mask", zones.mask)
        self.register_buffer("inside", zones.mask.flatten().nonzero()[:, 0])
        self.register_buffer("weight", zones.weight)
        self.register_buffer("centre", centre)
        self.register_buffer("scale", scale)

    def forward(self, errors: Tensor, expected: Tensor | None) -> Tensor:
        """Return what is compared with the threshold; expected: of z, for the rule adaptive."""
        return self.maps(errors, expected).amax(1)

    def maps(self, errors: Tensor, expected: Tensor | None) -> Tensor:
        """Return each error map in the rule's unit, (B, M, rows, cols): `score.decision_maps`."""
        value = errors
        if self.rule.name != "classic":
            value = torch.where(self.mask, (errors - self.mu) / self.spread, self.floor)
        if expected is not None:
            value = torch.where(self.mask, value - expected, (value - expected).amin((2, 3), keepdim=True))
        if self.rule.name in ("deviation", "classic"):
            value = self._on_top(value, value - neighbours(value, self.mask, self.rule.radius))
        return (value - self.centre) / self.scale * self.weight

    def explained(self, errors: Tensor, expected: Tensor | None, threshold: float) -> Explain:
        """Return what says why a cell of one part (1, M, rows, cols) is unusual, by the map that decides there.

        threshold: the limit of the part's score, from which those of its cells follow.
        """
        planes = errors[0].cpu().numpy()
        deciding = self.maps(errors, expected)[0].cpu().numpy() if len(planes) > 1 else planes
        texture = np.zeros_like(planes) if expected is None else expected[0].cpu().numpy()
        mask = self.mask.cpu().numpy()

        def explain(row: int, col: int) -> Figures:
            at = int(deciding[:, row, col].argmax()), row, col
            error, usual, spread = float(planes[at]), float(self.mu[at]), float(self.spread[at])
            centre, scale, weight = float(self.centre[at[0]]), float(self.scale[at[0]]), float(self.weight[row, col])
            limit = usual + (centre + threshold / weight * scale + float(texture[at])) * spread
            around = _mean_around(planes[at[0]], mask, row, col, self.rule.radius)
            return Figures(error, around, limit, (error - usual) / spread)

        return explain

    @torch.inference_mode()
    def allowed(self, errors: Tensor, expected: Tensor | None, threshold: float) -> Plane:
        """Return the error at which each cell of one part alone would fail it, (rows, cols), infinite where none can.

        Maps have units of their own: all cells are told by the one that decides at the worst of them.
        """
        texture = torch.zeros_like(errors) if expected is None else expected
        limits = self.mu + (self.centre + threshold / self.weight * self.scale + texture[0]) * self.spread
        worst = self.maps(errors, expected)[0].flatten(1).amax(1).argmax()
        judged = self.mask & (self.weight > 0)
        return np.asarray(torch.where(judged, limits[worst], torch.inf).cpu().numpy(), np.float32)

    def _on_top(self, value: Tensor, deviation: Tensor) -> Tensor:
        """Return the deviation where `value` is among the object's top 10 %, elsewhere its smallest."""
        inside = value.flatten(2)[..., self.inside]
        bar = inside.topk(max(1, round(TOP * inside.shape[-1])), -1).values[..., -1]
        top = (value >= bar[..., None, None]) & self.mask
        lowest = deviation.flatten(2)[..., self.inside].amin(-1)
        return torch.where(top, deviation, lowest[..., None, None])


def _mean_around(plane: Plane, mask: NDArray[np.bool_], row: int, col: int, radius: int) -> float:
    """Return the mean over the object's cells on the square ring around a cell: `score.neighbours` at one place."""
    (total, cells), (inner, inner_cells) = (_square(plane, mask, row, col, reach) for reach in (radius, radius - 1))
    return (total - inner) / (cells - inner_cells) if cells > inner_cells else float(plane[row, col])


def _square(plane: Plane, mask: NDArray[np.bool_], row: int, col: int, reach: int) -> tuple[float, int]:
    """Return the sum over, and the number of, the object's cells in the square that reaches so far each way."""
    place = slice(max(0, row - reach), row + reach + 1), slice(max(0, col - reach), col + reach + 1)
    inside = plane[place][mask[place]]
    return float(inside.sum(dtype=np.float64)), len(inside)
