"""Trains the classic autoencoder: the final one and one for each fold (see schedule.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from pytorch_msssim import MS_SSIM
from torch import Tensor, nn

from calib.schedule import STEPS_MIN, learning_rate, run_together
from line_worker.vision.classic import PIXELS, SHORTEST, Autoencoder

BATCH = 4
DECAY, WARM_UP = 1e-5, 5
MSE_WEIGHT, OUTSIDE_WEIGHT = 20.0, 0.05
WINDOW = 7  # of MS-SSIM
SHIFT, BRIGHTNESS = 2, 0.03  # augmentation: pixels either way, share either way
FIRST_WEIGHT = 0.3  # the last layer starts small: the first picture is the mean part
STEPS_MAX, STEPS_WANTED = 800, 150
SECONDS_PER_PIXEL = 1.7e-6  # nominal, forward and backward on one thread of a 2-core cloud machine
NORM_BATCHES = 10  # over which BatchNorm's statistics are averaged at the end


class Plan(NamedTuple):
    """How long and on how many pixels the models are trained."""

    steps: int
    pixels: int


class Trained(NamedTuple):
    """One network for each set of indices, the steps each took, and whether the clock had a say in that."""

    nets: list[Autoencoder]
    steps: int
    cut: bool


def plan(seconds: float, models: int, threads: int) -> Plan:
    """Return the steps that `seconds` allow at the nominal speed; little time is spent on a smaller picture."""
    smallest = SHORTEST**2
    waves = math.ceil(models / threads)
    pixels = PIXELS
    while pixels > smallest and _steps(seconds, waves, pixels) < STEPS_WANTED:
        pixels = max(smallest, pixels // 2)
    return Plan(min(STEPS_MAX, max(STEPS_MIN, _steps(seconds, waves, pixels))), pixels)


def _steps(seconds: float, waves: int, pixels: int) -> int:
    return int(seconds / (waves * BATCH * pixels * SECONDS_PER_PIXEL))


def train_together(
    images: Tensor,
    visible: Tensor,
    fits: Sequence[Tensor],
    steps: int,
    seed: int,
    deadline: float = math.inf,
    threads: int = 1,
    progress: Callable[[float], None] = lambda _: None,
) -> Trained:
    """Train one autoencoder on images[fit] for each `fit`, an index tensor.

    images: float32 (N, C, h, w) in 0..1. visible: (1, 1, h, w), where the error counts in full. deadline: of
    time.monotonic(); the schedule of all is shortened when they would not be done by then.
    """
    runs = [_Run(images, visible.float(), fit, seed, k) for k, fit in enumerate(fits)]
    taken = run_together(runs, steps, deadline, threads, progress)
    return Trained([run.net for run in runs], *taken)


class _Run:
    """One network on its way, with its own dice."""

    def __init__(self, images: Tensor, visible: Tensor, fit: Tensor, seed: int, number: int) -> None:
        self.images, self.visible, self.fit = images, visible, fit
        self.dice = torch.Generator().manual_seed(1000 * seed + number)
        self.net: Autoencoder = _fresh(images, fit, seed)
        self.optimiser = torch.optim.AdamW(self.net.parameters(), weight_decay=DECAY)
        self.ms_ssim = MS_SSIM(data_range=1.0, channel=images.shape[1], win_size=WINDOW)

    def advance(self, start: int, stop: int, planned: int) -> None:
        """Take the steps from `start` to `stop` of a schedule of `planned`."""
        self.net.train()
        for step in range(start, stop):
            for group in self.optimiser.param_groups:
                group["lr"] = learning_rate(step, planned, WARM_UP)
            x, visible = self._batch()
            loss = self._loss(self.net(x), x, visible)
            self.optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()

    def settle(self) -> None:
        """Give BatchNorm the statistics of the weights as they are now, not of those on the way here."""
        norms = [module for module in self.net.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # averages over all batches
        self.net.train()
        with torch.no_grad():
            for _ in range(NORM_BATCHES):
                self.net(self._batch()[0])
        self.net.eval()

    def _batch(self) -> tuple[Tensor, Tensor]:
        chosen = self.fit[torch.randperm(len(self.fit), generator=self.dice)[:BATCH]]
        dy, dx = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=self.dice).tolist()
        bright = 1 + BRIGHTNESS * (2 * torch.rand(len(chosen), 1, 1, 1, generator=self.dice) - 1)
        x = (torch.roll(self.images[chosen], (dy, dx), (2, 3)) * bright).clamp(0, 1)
        visible = torch.roll(self.visible, (dy, dx), (2, 3))
        return x.contiguous(memory_format=torch.channels_last), visible

    def _loss(self, y: Tensor, x: Tensor, visible: Tensor) -> Tensor:
        """Return MSE on the object, a little of it elsewhere, and 1 - MS-SSIM (Wang, Simoncelli, Bovik 2003)."""
        square = (y - x) ** 2
        mse = (square * visible).mean() / visible.mean() + OUTSIDE_WEIGHT * square.mean()
        loss: Tensor = MSE_WEIGHT * mse + (1 - self.ms_ssim(y, x))
        return loss


def _fresh(images: Tensor, fit: Tensor, seed: int) -> Autoencoder:
    """Return an untrained network that draws about the mean of the images it may see."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = Autoencoder(images.shape[1], (images.shape[2], images.shape[3]))
    with torch.no_grad():
        net.mean.copy_(torch.logit(images[fit].mean(0, keepdim=True), eps=0.02))
        for parameter in net.decoder[-1].parameters():
            parameter.mul_(FIRST_WEIGHT)
    moved: Autoencoder = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved
