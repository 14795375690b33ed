"""Trains the segmentation network on good pictures with masks, and says how well it does on those it was not shown.

Every fifth picture is held out. A quarter of what it is shown are empty stations, so that it learns to say that there
is no part. A step is two halves, whose gradients are added in order: the same seed gives the same network, whatever
the threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from calib.examples import Example, emptied, varied
from calib.schedule import learning_rate, workers
from line_worker.errors import DatasetError
from line_worker.vision.background import Image, Plane, shrink
from line_worker.vision.cells import batch
from line_worker.vision.frame import common_frame, look_at, showing
from line_worker.vision.head import Head
from line_worker.vision.locate import LOCATE_SIDE, segmented

EXAMPLES = 160  # of more images every second, third ... is taken
LOOKING = 0.1  # of the work, before training
LEAST, MOST = 0.25, 3.0  # of the usual part: what looks like it but is smaller, or larger, is none
OVERLAP_MIN = 0.7  # median over held-out images, below which parts are not found
STEPS = 400
HALVES, HALF = 2, 2  # a step's batch is so many times so many pictures
EMPTY_SHARE = 0.25
HELD_OUT = 5  # every so manieth example is held out
GAIN = 6.0  # on the rate of schedule.py: the network is small
PRIOR, FIRST = -2.0, 0.05  # the last layer starts sure of background, and its weights this small
DECAY, WARM_UP, CLIP_NORM = 1e-4, 20, 1.0

Progress = Callable[[float], None]


class Agreement(NamedTuple):
    """How well the network finds what it was not shown.

    overlaps: intersection over union with each held-out mask, 0 where it sees no part. empty: held-out pictures with
    the part painted out. ghosts: in how many of them it sees a part.
    """

    overlaps: tuple[float, ...]
    empty: int
    ghosts: int


class Taught(NamedTuple):
    """The network, how well it does, and whose masks it was trained on."""

    head: Head
    agreement: Agreement
    whose: str = "its own"

    def words(self) -> str:
        """Return a sentence for the report."""
        overlaps, empty, ghosts = self.agreement
        return (
            f"The network that finds the part was trained on {self.whose} masks. On {len(overlaps)} good images it "
            f"was not shown, it agrees with them by {np.median(overlaps):.3f} (overlap, IoU; {min(overlaps):.3f} at "
            f"worst), and it saw a part in {ghosts} of {empty} pictures with the part painted out."
        )


def learn_head(
    images: Sequence[Image],
    names: Sequence[str],
    masks: Sequence[Plane] | None,
    seed: int,
    threads: int,
    progress: Progress = lambda _: None,
) -> Taught:
    """Train on the user's `masks`, see masks.py, or without them on those that the background gives.

    Raises DatasetError, naming images, when the background does not show the parts, and when the network does not
    learn to find them.
    """
    white = common_frame(images, names).white
    stride = -(-len(images) // EXAMPLES)
    looks = look_at(images[::stride], white, None, lambda share: progress(LOOKING * share))
    smalls = [shrink(seen.middle, LOCATE_SIDE)[0].astype(np.float32) for seen in looks]
    if masks is None:
        showing(looks, names[::stride])
        examples = [
            Example(small, seen.located.mask.astype(np.float32))
            for small, seen in zip(smalls, looks, strict=True)
            if seen.located.found
        ]
    else:
        examples = [Example(*pair) for pair in zip(smalls, masks[::stride], strict=True)]
    taught = teach(examples, seed, threads, STEPS, lambda share: progress(LOOKING + (1 - LOOKING) * share))
    overlap = float(np.median(taught.agreement.overlaps))
    if overlap < OVERLAP_MIN:
        raise DatasetError(
            f"the network does not learn to find the part: on held-out images it overlaps with the masks by "
            f"{overlap:.2f} (IoU), needed {OVERLAP_MIN}. Nothing was learned; check that the masks mark the same part "
            "in all images, and give more of them"
        )
    return taught._replace(whose="the background's" if masks is None else "your")


def teach(
    examples: Sequence[Example], seed: int, threads: int = 1, steps: int = STEPS, progress: Progress = lambda _: None
) -> Taught:
    """Train a network on examples of one size; `progress` is told the share of the work done."""
    vacant = emptied(examples, np.random.default_rng(seed))
    held, shown = (range(len(examples))[::HELD_OUT], [k for k in range(len(examples)) if k % HELD_OUT])
    course = _Course([examples[k] for k in shown], [vacant[k] for k in shown], seed)
    with workers(threads) as pool:
        for step in range(steps):
            gradients = list(pool.map(course.gradients, range(HALVES)))
            course.step(gradients, GAIN * learning_rate(step, steps, WARM_UP))
            progress((step + 1) / steps)
    head = course.head.eval().requires_grad_(False)
    usual = float(np.median([one.part.mean() for one in examples]))
    head.least, head.most = LEAST * usual, min(1.0, MOST * usual)
    return Taught(head, _agreement(head, [examples[k] for k in held], [vacant[k] for k in held]))


class _Course:
    """A network on its way, with the pictures that it is shown: as they are, and with the part painted out."""

    def __init__(self, full: Sequence[Example], vacant: Sequence[Example], seed: int) -> None:
        self.full, self.vacant = full, vacant
        self.head = _blank(seed, batch([full[0].picture]).shape[1])
        self.dice = np.random.default_rng(seed).spawn(HALVES)
        self.weights = list(self.head.parameters())
        self.optimiser = torch.optim.AdamW(self.weights, weight_decay=DECAY)

    def gradients(self, half: int) -> tuple[Tensor, ...]:
        """Return the gradients of one half of a step."""
        dice = self.dice[half]
        some = [varied(self._draw(dice), dice) for _ in range(HALF)]
        loss = _loss(self.head(batch([one.picture for one in some])), batch([one.part for one in some]))
        return torch.autograd.grad(loss, self.weights)

    def _draw(self, dice: np.random.Generator) -> Example:
        among = self.vacant if dice.random() < EMPTY_SHARE else self.full
        return among[int(dice.integers(len(among)))]

    def step(self, gradients: Sequence[tuple[Tensor, ...]], rate: float) -> None:
        """Take a step along the mean of the halves' gradients."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        for weight, *halves in zip(self.weights, *gradients, strict=True):
            weight.grad = torch.stack(halves).mean(0)
        nn.utils.clip_grad_norm_(self.weights, CLIP_NORM)
        self.optimiser.step()


def _blank(seed: int, channels: int) -> Head:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        head = Head(channels)
        for module in head.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        nn.init.normal_(head.out.weight, std=FIRST)
        assert head.out.bias is not None
        nn.init.constant_(head.out.bias, PRIOR)
    return head


def _loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Return cross-entropy, which counts pixels, + 1 - Dice, which counts parts whatever their size."""
    chance = logits.sigmoid()
    both, either = (chance * parts).sum((1, 2, 3)), (chance + parts).sum((1, 2, 3))
    apart = 1 - (2 * both + 1) / (either + 1)
    shows = parts.amax((1, 2, 3)) > 0.5
    loss: Tensor = binary_cross_entropy_with_logits(logits, parts) + (apart * shows).mean()
    return loss


def _agreement(head: Head, held: Sequence[Example], vacant: Sequence[Example]) -> Agreement:
    overlaps = tuple(_overlap(_seen(head, one), one.part > 0.5) for one in held)
    ghosts = sum(bool(_seen(head, one).any()) for one in vacant)
    return Agreement(overlaps, len(vacant), ghosts)


def _seen(head: Head, example: Example) -> NDArray[np.bool_]:
    """Return where the part is located, nowhere when it is not."""
    located = segmented(example.picture, 1.0, example.part.shape, head)
    return np.asarray(located.mask > 0)


def _overlap(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return float((one & other).sum() / max(1, (one | other).sum()))
