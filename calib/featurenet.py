"""Trains the feature autoencoders: the final one and one for each fold (see schedule.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor, nn

from calib.features import Library
from calib.schedule import STEPS_MIN, learning_rate, run_together, single_threaded
from line_worker.vision.featurenet import Feature, FeatureNet, unlike
from line_worker.vision.features import spread

BATCH = 8
DECAY, WARM_UP, CLIP_NORM = 1e-4, 30, 1.0
MSE_WEIGHT = 0.15  # keeps the length of the vectors, about which the cosine says nothing
STEPS_MAX = 600
SECONDS_PER_CELL = 6.0e-5  # nominal, a step's batch of BATCH on one thread of a 2-core cloud machine


class Trained(NamedTuple):
    """A network per set of indices, the steps each took, and whether the clock had a say in that."""

    stages: list[Feature]
    steps: int
    cut: bool


def plan(seconds: float, models: int, threads: int, cells: int) -> int:
    """Return the steps that `seconds` allow at the nominal speed, for a grid of `cells` cells."""
    waves = math.ceil(models / threads)
    return min(STEPS_MAX, max(STEPS_MIN, int(seconds / (waves * cells * SECONDS_PER_CELL))))


def train_together(
    features: Tensor,
    fine: int,
    cells: Tensor,
    fits: Sequence[Tensor],
    steps: int,
    seed: int,
    deadline: float = math.inf,
    threads: int = 1,
    attention: bool = True,
    progress: Callable[[float], None] = lambda _: None,
) -> Trained:
    """Train one network on features[fit] for each `fit`, an index tensor.

    features: (N, C, rows, cols), the first `fine` channels of the finer layer. cells: bool (rows, cols), where the
    reconstruction counts. deadline: of time.monotonic().
    """
    runs = [_Run(features, fine, cells, fit, 1000 * seed + k, attention) for k, fit in enumerate(fits)]
    taken = run_together(runs, steps, deadline, threads, progress)
    stages = [Feature(run.net.requires_grad_(False), fine, cells).eval() for run in runs]
    return Trained(stages, *taken)


def together(library: Library) -> Tensor:
    """Return both layers of all images on the fine grid, half precision."""
    planes = []
    for k in range(len(library.fine)):
        maps = library.maps(torch.tensor([k]))
        planes.append(torch.cat([maps.fine, spread(maps.coarse, maps.fine)], 1).half())
    return torch.cat(planes)


def errors(stage: Feature, features: Tensor, chosen: Tensor, threads: int) -> Tensor:
    """Return the error maps (n, 1, rows, cols) of the chosen images, one at a time as on the line."""

    @torch.inference_mode()
    def one(k: int) -> Tensor:
        return stage.error(features[k][None].float())

    with single_threaded(), ThreadPoolExecutor(threads) as pool:
        return torch.cat(list(pool.map(one, chosen.tolist())))


class _Run:
    """One network on its way, with its own dice."""

    def __init__(self, features: Tensor, fine: int, cells: Tensor, fit: Tensor, seed: int, attention: bool) -> None:
        self.features, self.fine, self.cells, self.fit = features, fine, cells, fit
        self.dice = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            net = FeatureNet(features.shape[1], (features.shape[2], features.shape[3]), attention)
        self.net: FeatureNet = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = torch.optim.AdamW(self.net.parameters(), weight_decay=DECAY)

    def advance(self, start: int, stop: int, planned: int) -> None:
        """Take the steps from `start` to `stop` of a schedule of `planned`."""
        self.net.train()
        for step in range(start, stop):
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(step, planned, WARM_UP)
            chosen = self.fit[torch.randperm(len(self.fit), generator=self.dice)[:BATCH]]
            loss = self._loss(self.features[chosen].float().contiguous(memory_format=torch.channels_last))
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.net.parameters(), CLIP_NORM)
            self.optimiser.step()

    def settle(self) -> None:
        """Nothing is averaged on the way here but BatchNorm's own statistics."""
        self.net.eval()

    def _loss(self, features: Tensor) -> Tensor:
        """Return mean(1 - cosine) over both layers + MSE, on the object's cells."""
        again = self.net(features)
        cosine = unlike(again, features, self.fine)[:, :, self.cells].mean()
        square = ((again - features) ** 2).mean(1)[:, self.cells].mean()
        loss: Tensor = cosine + MSE_WEIGHT * square
        return loss
