"""Error maps of a batch to decision maps and scores: what `Standard.decisions` does, without a look at a value.

What score.py finds anew for every part by its masks is found once here: boolean masks as indices ask the device how
many there are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from line_worker.vision.score import TOP, neighbours
from line_worker.vision.standard import Standard


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
        value = errors
        if self.rule.name != "classic":
            value = torch.where(self.mask, (errors - self.mu) / self.spread, self.floor)
        if expected is not None:
            value = torch.where(self.mask, value - expected, (value - expected).amin((2, 3), keepdim=True))
        if self.rule.name in ("deviation", "classic"):
            value = self._on_top(value, value - neighbours(value, self.mask, self.rule.radius))
        return ((value - self.centre) / self.scale * self.weight).amax(1)

    def _on_top(self, value: Tensor, deviation: Tensor) -> Tensor:
        """Return the deviation where `value` is among the object's top 10 %, elsewhere its smallest."""
        inside = value.flatten(2)[..., self.inside]
        bar = inside.topk(max(1, round(TOP * inside.shape[-1])), -1).values[..., -1]
        top = (value >= bar[..., None, None]) & self.mask
        lowest = deviation.flatten(2)[..., self.inside].amin(-1)
        return torch.where(top, deviation, lowest[..., None, None])
