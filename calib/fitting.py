"""What fitting a method gives, whichever it is: the final model, and what models that had not seen an image say of it.

Cross-fitting gives each good image error maps from a model trained on the others. A trained network also has
a level of its own, its usual error on images that it was trained on: it is taken off and the final model's put in its
place, or a final model that came out a little worse than the others, as one in six does, would reject good parts for
it. What remains shared is the pose template and the channels' statistics, learned from all images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from calib.schedule import workers
from line_worker.vision.reconstruct import Reconstructor

FOLDS = 5  # of trained networks
CLOSED_FOLDS = 20  # of what is made in seconds: each then has seen nearly as much as the final one
UNSEEN = 2  # of those, whose images painted defects are judged on


@dataclass(frozen=True)
class Settings:
    """What fitting needs of the user's options, and the time there is (seconds of time.monotonic())."""

    method: str
    seed: int
    threads: int
    deadline: float  # after which networks stop
    seconds: float  # that networks may plan with, at the nominal speed
    steps: int | None
    pixels: int | None
    backbone: Path | None
    attention: bool
    progress: Callable[[str, float], None]


class Fitted(NamedTuple):
    """A method fitted to good parts.

    final: learned from all images. apart: learned without the images `held_out`. errors: (N, M, rows, cols), of each
    image by a model that has not seen it. flat: for each map, whether all its cells share their statistics. steps: that
    networks took; cut: fewer than planned, for lack of time. notes: sentences for the report.
    """

    final: Reconstructor
    apart: Reconstructor
    held_out: Tensor
    errors: Tensor
    flat: tuple[bool, ...]
    steps: int
    cut: bool
    notes: tuple[str, ...]
    folds: int = FOLDS


def split(count: int, seed: int, folds: int = FOLDS) -> list[Tensor]:
    """Return at most `folds` index tensors that hold each of `count` images once, in an order drawn from `seed`."""
    folds = min(folds, count)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return [order[k::folds] for k in range(folds)]


def rest(fold: Tensor, count: int) -> Tensor:
    """Return the indices that are not in `fold`, ascending."""
    inside = torch.zeros(count, dtype=torch.bool)
    inside[fold] = True
    return torch.nonzero(~inside)[:, 0]


def judged(judge: Callable[[int], Tensor], chosen: Tensor, threads: int) -> Tensor:
    """Return the error maps (n, M, rows, cols) that `judge` gives each of the chosen images, one at a time.

    judge: the index of an image to its error maps (1, M, rows, cols). One at a time, because that is how the line does
    it on a CPU, and sums of another order differ in their last bits.
    """

    @torch.inference_mode()
    def one(k: int) -> Tensor:
        return judge(k)

    with workers(threads) as pool:
        return torch.cat(list(pool.map(one, chosen.tolist())))


def levelled(held_out: Sequence[Tensor], levels: Sequence[Tensor], folds: Sequence[Tensor]) -> Tensor:
    """Return the errors (N, ...) that the final model would give each image, had it not seen it; never below 0.

    held_out: of each fold's images, (n, ...). levels: of each fold's model and, last, the final one, (...).
    """
    errors = torch.empty(sum(len(fold) for fold in folds), *levels[-1].shape)
    for fold, level, found in zip(folds, levels, held_out, strict=False):
        errors[fold] = (found - level + levels[-1]).clamp(min=0)
    return errors
