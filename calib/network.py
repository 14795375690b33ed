"""Trains the feature autoencoders: the final one and one for each fold (see schedule.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from calib.features import Library
from calib.fitting import judged
from calib.schedule import STEPS_MIN, learning_rate, run_together
from line_worker.vision.features import tokens
from line_worker.vision.network import Drop, FeatureNet, Network, unlike

BATCH = 8
DECAY, WARM_UP, CLIP_NORM = 1e-4, 30, 1.0
MSE_WEIGHT = 0.15  # keeps the length of the vectors, about which the cosine says nothing
STEPS_MAX = 600
SECONDS_PER_CELL = 6.0e-5  # nominal, a step's batch of BATCH on one thread of a 2-core cloud machine


class Trained(NamedTuple):
    """A network per set of indices, the steps each took, and whether the clock had a say in that."""

    stages: list[Network]
    steps: int
    cut: bool


def plan(seconds: float, models: int, threads: int, cells: int) -> int:
    """Return the steps that `seconds` allow at the nominal speed, for a grid of `cells` cells."""
    waves = math.ceil(models / threads)
    return min(STEPS_MAX, max(STEPS_MIN, int(seconds / (waves * cells * SECONDS_PER_CELL))))


def train_together(
    library: Library,
    cells: Tensor,
    fits: Sequence[Tensor],
    steps: int,
    seed: int,
    deadline: float = math.inf,
    threads: int = 1,
    attention: bool = True,
    progress: Callable[[float], None] = lambda _: None,
) -> Trained:
    """Train one network on the images of each `fit`, an index tensor.

    cells: bool (rows, cols), where the reconstruction counts. deadline: of time.monotonic().
    """
    fine = library.fine.shape[1]
    runs = [_Run(library, cells, fit, 1000 * seed + k, attention) for k, fit in enumerate(fits)]
    taken = run_together(runs, steps, deadline, threads, progress)
    stages = [Network(run.net.requires_grad_(False), fine, cells).eval() for run in runs]
    return Trained(stages, *taken)


def errors(stage: Network, library: Library, chosen: Tensor, threads: int) -> Tensor:
    """Return the error maps (n, 1, rows, cols) of the chosen images."""
    return judged(lambda k: stage(library.maps(torch.tensor([k]))), chosen, threads)


class _Run:
    """One network on its way, with its own dice."""

    def __init__(self, library: Library, cells: Tensor, fit: Tensor, seed: int, attention: bool) -> None:
        self.library, self.cells, self.fit = library, cells, fit
        self.dice = torch.Generator().manual_seed(seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            channels = library.fine.shape[1] + library.coarse.shape[1]
            net = FeatureNet(channels, cells, attention)
        for module in net.modules():
            if isinstance(module, Drop):
                module.dice = self.dice
        self.net = net
        self.where = torch.nonzero(cells.flatten())[:, 0]
        self.optimiser = torch.optim.AdamW(self.net.parameters(), weight_decay=DECAY)

    def advance(self, start: int, stop: int, planned: int) -> None:
        """Take the steps from `start` to `stop` of a schedule of `planned`."""
        self.net.train()
        for step in range(start, stop):
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(step, planned, WARM_UP)
            chosen = self.fit[torch.randperm(len(self.fit), generator=self.dice)[:BATCH]]
            loss = self._loss(tokens(self.library.maps(chosen), self.where))
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.net.parameters(), CLIP_NORM)
            self.optimiser.step()

    def settle(self) -> None:
        """Nothing is averaged on the way here but BatchNorm's own statistics."""
        self.net.eval()

    def _loss(self, features: Tensor) -> Tensor:
        """Return mean(1 - cosine) over both layers + MSE."""
        again = self.net(features)
        cosine = unlike(again, features, self.library.fine.shape[1]).mean()
        loss: Tensor = cosine + MSE_WEIGHT * (again - features).square().mean()
        return loss
