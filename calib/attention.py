"""Attention: whether the network's attention blocks earn their place, measured against the same network without them.

Both have learned from the same pictures in the same number of steps, and judge good pictures that neither has seen,
as they are and with painted defects. Each picture's zones come from the other unseen ones; no threshold is involved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.fitting import judged
from calib.painting import CONTRASTS, KINDS, SIZES, TooSmall, paint
from line_worker.vision import score
from line_worker.vision.cells import batch
from line_worker.vision.features import Features
from line_worker.vision.network import Network

Canonical = NDArray[np.float32]

PICTURES = 24  # unseen ones, each with a defect of every kind
SIZE, CONTRAST = SIZES[1], CONTRASTS[1]
LOW, HIGH = 0.5, 99.5  # percentiles of the mean part between which defects are painted


class Compared(NamedTuple):
    """Area under the ROC curve of painted against good pictures: of the network chosen, and of its rival."""

    chosen: float
    rival: float
    painted: int
    good: int

    def words(self, attention: bool) -> str:
        """Return it as a sentence; `attention` says whether the chosen network has it."""
        own, other = ("with attention", "without") if attention else ("without attention", "with")
        return (
            f"The network {own} tells {self.painted} painted defects from {self.good} good pictures that it has not "
            f"seen with an AUROC of {self.chosen:.3f}, the same network {other} with {self.rival:.3f}."
        )


def compare(
    chosen: Network,
    rival: Network,
    features: Features,
    canonicals: Sequence[Canonical],
    template: NDArray[np.bool_],
    seed: int,
    threads: int,
) -> Compared:
    """Compare two networks on `canonicals` that neither has seen; template: bool (H, W), where parts lie."""
    good = list(canonicals[:PICTURES])
    bad = list(_painted(good, template, np.random.default_rng(seed)))
    pictures = [*good, *(picture for _, picture in bad)]
    owner = torch.tensor([*range(len(good)), *(k for k, _ in bad)])
    own, other = (_scores(net, features, pictures, owner, len(good), threads) for net in (chosen, rival))
    return Compared(_auroc(own, len(good)), _auroc(other, len(good)), len(bad), len(good))


def _painted(
    good: Sequence[Canonical], template: NDArray[np.bool_], rng: np.random.Generator
) -> Iterator[tuple[int, Canonical]]:
    """Yield a defect of each kind on every picture, with the picture's number."""
    low, high = np.percentile(np.mean(good, axis=0)[template], [LOW, HIGH])
    span = float(low), float(max(high, low + 0.05))
    for number, canonical in enumerate(good):
        for kind in KINDS:
            with suppress(TooSmall):
                contrast = None if kind == "missing" else CONTRAST
                yield number, paint(rng, canonical, template, kind, SIZE, contrast, span).picture


def _scores(
    net: Network, features: Features, pictures: Sequence[Canonical], owner: Tensor, good: int, threads: int
) -> Tensor:
    """Return the largest z (n,) of each picture; owner: the good picture (n,) that it shows."""
    everything = torch.arange(len(pictures))
    errors = judged(lambda k: net(features(batch([pictures[k]]))), everything, threads)
    zones = score.held_out(errors[:good], features.cells, (False,))
    pairs = zip(errors, owner.tolist(), strict=True)
    return torch.cat([score.standardise(one[None], zones[k]).amax((1, 2, 3)) for one, k in pairs])


def _auroc(scores: Tensor, good: int) -> float:
    """Return the chance that a painted picture scores above a good one, the first `good` of them."""
    difference = scores[good:, None] - scores[:good]
    return float((difference > 0).float().mean() + 0.5 * (difference == 0).float().mean())
