"""Adaptive: how unusual an error may look here and now, given the zone and the texture around it.

The article's open wish is a threshold that adapts. A small regression, fitted on good parts' held-out errors, predicts
the standardised error z of a cell from how much texture the picture shows there, compared with what is usual for the
cell, and from how large the zone's error usually is; the rule `adaptive` judges what is left. A defect is texture too,
and excuses part of itself: use the rule only where painted or real defects show that it finds more than `zone` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from line_worker.vision.cells import blur_inside

NOISE = 1e-3  # of canonical values: what a sensor adds is no texture
CUT = 3.0  # texture further from the usual than this many deviations has no more to say
RIDGE = 1e-3  # share of the normal matrix's diagonal
LEAST = 1e-6  # added to it for each sample: pictures without any texture would leave it singular


class Adaptive(NamedTuple):
    """texture_mean, texture_spread: float32 (rows, cols). weights: float32 (M, FEATURES), of the regression."""

    texture_mean: Tensor
    texture_spread: Tensor
    weights: Tensor

    def expected(self, texture: Tensor, mu: Tensor) -> Tensor:
        """Return the z (B, M, rows, cols) that is usual for `texture` (B, rows, cols) in zones of usual error `mu`."""
        terms = _terms((texture - self.texture_mean) / self.texture_spread, mu)
        return torch.einsum("bmrcf,mf->bmrc", terms, self.weights)

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name."""
        return {name: tensor.cpu().numpy() for name, tensor in self._asdict().items()}

    @classmethod
    def make(cls, arrays: Mapping[str, NDArray[Any]]) -> Adaptive:
        """Make it again from `state`; raises KeyError when something is missing."""
        return cls(*(torch.from_numpy(arrays[name].copy()) for name in cls._fields))

    def to(self, device: torch.device) -> Adaptive:
        """Return the same on another device."""
        return Adaptive(*(tensor.to(device) for tensor in self))


def texture(canonical: Tensor, mask: Tensor) -> Tensor:
    """Return the logarithm of the local contrast (B, rows, cols) of canonical images (B, C, H, W) on mask's grid."""
    size = (mask.shape[0], mask.shape[1])
    mean, square = (functional.adaptive_avg_pool2d(x, size) for x in (canonical, canonical * canonical))
    variance = (square - mean * mean).clamp(min=0).mean(1, keepdim=True)
    return (blur_inside(variance, mask, 1.0, 3)[:, 0].sqrt() + NOISE).log()


def _terms(unusual: Tensor, mu: Tensor) -> Tensor:
    """Return the regression's inputs, (B, M, rows, cols, FEATURES)."""
    t = unusual.clamp(-CUT, CUT)[:, None].expand(-1, len(mu), -1, -1)
    size = (mu / mu.mean((1, 2), keepdim=True)).expand(len(t), -1, -1, -1)
    return torch.stack([torch.ones_like(t), t, t * t, size, size * t], -1)


def learn(z: Tensor, mu: Tensor, textures: Tensor, mask: Tensor) -> Adaptive:
    """Fit to good parts' held-out z (N, M, rows, cols), zones' mu (M, rows, cols), and textures (N, rows, cols)."""
    spread, mean = torch.std_mean(textures, 0)
    fitted = Adaptive(mean, spread.clamp(min=1e-2), torch.zeros(len(mu), 1))
    terms = _terms((textures - mean) / fitted.texture_spread, mu)[:, :, mask]  # (N, M, n, F)
    weights = [_solve(terms[:, k].flatten(0, 1), z[:, k][:, mask].flatten()) for k in range(len(mu))]
    return fitted._replace(weights=torch.stack(weights))


def _solve(inputs: Tensor, wanted: Tensor) -> Tensor:
    normal = inputs.T @ inputs
    normal.diagonal().mul_(1 + RIDGE).add_(LEAST * len(inputs))
    solved: Tensor = torch.linalg.solve(normal, inputs.T @ wanted)
    return solved
