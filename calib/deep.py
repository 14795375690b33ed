"""Fits the methods on pretrained features: feature, memory, hybrid and network.

Features of all good images are computed once. Everything that learns from them is made once for each fold, to score the
images it has not seen, and once from all of them; what is made in seconds, also once without two folds, to judge
painted defects on many pictures that it has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib import attention, feature, memory, network, pretrained
from calib import features as learning
from calib.features import Library
from calib.fitting import CLOSED_FOLDS, FOLDS, UNSEEN, Fitted, Settings, levelled, rest, split
from calib.memory import Place
from calib.reduction import Reduced, errors, reduce
from calib.schedule import workers
from line_worker.vision.deep import BRANCHES, Branch, Deep
from line_worker.vision.features import Features
from line_worker.vision.network import Network

Canonical = NDArray[np.float32]
LEVEL_IMAGES = 48


class Made(NamedTuple):
    """A branch for each set of images in Work.fits; errors (N, 1, rows, cols) of held-out images; see Fitted."""

    stages: Sequence[Branch]
    errors: Tensor
    steps: int = 0
    cut: bool = False


class Work(NamedTuple):
    """What every branch is made from.

    folds: the images that each model of the first `fits` has not seen. fits: the images of each model, the last has
    all. unseen: those that the model at `apart` has not seen. place: whether places have a memory of their own.
    """

    settings: Settings
    library: Library
    reduced: Reduced
    cells: Tensor
    folds: list[Tensor]
    fits: list[Tensor]
    unseen: Tensor
    apart: int
    place: Place


def fit(settings: Settings, canonicals: Sequence[Canonical], template: NDArray[np.bool_]) -> Fitted:
    """Fit `settings.method` to good canonical images; template is where the part lies."""
    tell, count = settings.progress, len(canonicals)
    features = learning.learn_features(pretrained.load(settings.backbone), canonicals, template)
    library = learning.extract(features, canonicals, settings.threads, lambda share: tell("compute features", share))
    reduced = reduce(library, features.cells, settings.seed, settings.threads)
    work = _work(settings, library, reduced, features.cells, count)
    placed, ratio, _ = work.place
    method = settings.method if placed or settings.method != "hybrid" else "memory"
    made = {name: MAKERS[name](work) for name in BRANCHES[method]}
    models = [
        Deep(method, features, reduced.reduction, {name: one.stages[k] for name, one in made.items()})
        for k in (work.apart, -1)
    ]
    apart, final = (model.eval().requires_grad_(False) for model in models)
    flat = tuple(name == "memory" or not placed for name in made)
    maps = torch.cat([one.errors for one in made.values()], 1)
    steps, cut = max(one.steps for one in made.values()), any(one.cut for one in made.values())
    notes = [_words(placed, ratio)]
    if settings.method == "network":
        notes.append(_rivalled(work, made["network"], features, canonicals, template))
    return Fitted(final, apart, work.unseen, maps, flat, steps, cut, tuple(notes), len(work.folds))


def _work(settings: Settings, library: Library, reduced: Reduced, cells: Tensor, count: int) -> Work:
    """Return the folds, and which images each model is made from."""
    closed = settings.method != "network"
    folds = split(count, settings.seed, CLOSED_FOLDS if closed else FOLDS)
    unseen = torch.cat(folds[:UNSEEN]) if closed else folds[0]
    crossed = [rest(fold, count) for fold in folds]
    fits = [*crossed, *([rest(unseen, count)] if closed else []), torch.arange(count)]
    apart = len(folds) if closed else 0
    place = memory.place(reduced, cells, unseen, fits[apart], settings.seed, settings.threads)
    return Work(settings, library, reduced, cells, folds, fits, unseen, apart, place)


def _memory(work: Work) -> Made:
    tell, seed = work.settings.progress, work.settings.seed
    done: list[float] = [0.0] * len(work.fits)

    def build(k: int) -> Branch:
        if k == work.apart:
            return work.place.memory

        def progress(share: float) -> None:
            done[k] = share
            tell("remember good parts", sum(done) / len(done))

        return memory.build(work.reduced, work.cells, work.fits[k], work.place.placed, 1000 * seed + k, progress)

    with workers(work.settings.threads) as pool:
        stages = list(pool.map(build, range(len(work.fits))))
    return Made(stages, _held_out(work, stages))


def _feature(work: Work) -> Made:
    with workers(work.settings.threads) as pool:
        parts = feature.gather(work.reduced, work.cells)
        stages: list[Branch] = []
        for stage in pool.map(feature.build, repeat(parts), work.fits):
            stages.append(stage)
            work.settings.progress("learn how parts vary", len(stages) / len(work.fits))
    return Made(stages, _held_out(work, stages))


def _held_out(work: Work, stages: Sequence[Branch]) -> Tensor:
    """Return the error maps (N, 1, rows, cols) of each image by the model that has not seen it."""
    found = torch.zeros(len(work.reduced.values), 1, *work.cells.shape)
    for stage, fold in zip(stages, work.folds, strict=False):
        found[fold] = errors(stage, work.reduced, fold, work.settings.threads)
    return found


def _network(work: Work) -> Made:
    settings = work.settings
    cells = work.cells.numel()
    models = len(work.fits) + 1  # the rival of `_rivalled`
    steps = settings.steps or network.plan(settings.seconds, models, settings.threads, cells)
    trained = network.train_together(
        work.library,
        work.cells,
        work.fits,
        steps,
        settings.seed,
        settings.deadline,
        settings.threads,
        settings.attention,
        lambda share: settings.progress("train", share),
    )

    def judged(stage: int, chosen: Tensor) -> Tensor:
        return network.errors(trained.stages[stage], work.library, chosen, settings.threads)

    held_out = [judged(k, fold) for k, fold in enumerate(work.folds)]
    levels = [judged(k, fit[:: -(-len(fit) // LEVEL_IMAGES)]).mean(0) for k, fit in enumerate(work.fits)]
    return Made(trained.stages, levelled(held_out, levels, work.folds), trained.steps, trained.cut)


def _rivalled(
    work: Work, made: Made, features: Features, canonicals: Sequence[Canonical], template: NDArray[np.bool_]
) -> str:
    """Return how the network fares beside the same one with, or without, attention."""
    settings, fit = work.settings, work.fits[work.apart]
    rival = network.train_together(
        work.library,
        work.cells,
        [fit],
        made.steps,
        settings.seed,
        settings.deadline,
        settings.threads,
        not settings.attention,
        lambda share: settings.progress("train the rival", share),
    )
    if rival.steps < made.steps:
        return "The time ran short before the network could be compared with its rival."
    chosen = made.stages[work.apart]
    assert isinstance(chosen, Network)
    unseen = [canonicals[k] for k in work.unseen.tolist()]
    compared = attention.compare(chosen, rival.stages[0], features, unseen, template, settings.seed, settings.threads)
    return compared.words(settings.attention)


MAKERS: dict[str, Callable[[Work], Made]] = {"memory": _memory, "feature": _feature, "network": _network}


def _words(placed: bool, ratio: float) -> str:
    if placed:
        return (
            f"Every place of the part has its own memory: held-out good parts lie {ratio:.2f} times as far from it as "
            "from one memory for all places, and it is more particular."
        )
    return (
        f"One memory serves all places, as for texture that looks the same everywhere: held-out good parts lie "
        f"{ratio:.2f} times as far from a memory of their own place."
    )
