"""Fits the methods on pretrained features: memory, feature and hybrid.

Features of all good images are computed once. Everything that learns from them is made once for each fold, to score the
images it has not seen, and once from all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib import featurenet, memory, pretrained
from calib import features as learning
from calib.fitting import FOLDS, Fitted, Settings, levelled, rest, split
from line_worker.vision.deep import BRANCHES, Branch, Deep
from line_worker.vision.features import Features

Canonical = NDArray[np.float32]
LEVEL_IMAGES = 48


def fit(settings: Settings, canonicals: Sequence[Canonical], template: NDArray[np.bool_]) -> Fitted:
    """Fit `settings.method` to good canonical images; template is where the part lies."""
    tell = settings.progress
    features = learning.learn_features(pretrained.load(settings.backbone), canonicals, template)
    library = learning.extract(features, canonicals, settings.threads, lambda share: tell("compute features", share))
    folds = split(len(canonicals), settings.seed)
    reduced = memory.reduce(library, features.cells, settings.seed)
    apart = rest(folds[0], len(canonicals))
    placed, ratio = memory.is_placed(reduced, features.cells, folds[0], apart, settings.seed)
    branches: dict[str, tuple[list[Branch], Tensor]] = {}
    steps, cut = 0, False
    for name in BRANCHES[settings.method][::-1]:  # the quick one first: its time is known when the other plans its own
        if name == "memory":
            branches[name] = _fit_memory(settings, reduced, features.cells, folds, placed)
        else:
            stages, errors, steps, cut = _fit_net(settings, library, features, folds)
            branches[name] = stages, errors
    order = BRANCHES[settings.method]
    models = [
        Deep(settings.method, features, {name: branches[name][0][k] for name in order}).eval().requires_grad_(False)
        for k in range(FOLDS + 1)
    ]
    flat = tuple(name == "memory" or not placed for name in order)
    errors = torch.cat([branches[name][1] for name in order], 1)
    return Fitted(models[-1], models[0], folds[0], errors, flat, steps, cut, (_words(placed, ratio),))


def _fit_memory(
    settings: Settings, reduced: memory.Reduced, cells: Tensor, folds: Sequence[Tensor], placed: bool
) -> tuple[list[Branch], Tensor]:
    """Return a memory for each fold and, last, the final one, with the errors (N, 1, rows, cols) of held-out images."""
    count = len(reduced.values)
    errors = torch.zeros(count, 1, *cells.shape)
    stages: list[Branch] = []
    fits = [*(rest(fold, count) for fold in folds), torch.arange(count)]
    for k, images in enumerate(fits):

        def progress(share: float, k: int = k) -> None:
            settings.progress("remember good parts", (k + share) / len(fits))

        made = memory.build(reduced, cells, images, placed, 1000 * settings.seed + k, progress)
        stages.append(made)
        if k < len(folds):
            errors[folds[k]] = memory.distances(made, reduced, folds[k], settings.threads)
    settings.progress("remember good parts", 1.0)
    return stages, errors


def _fit_net(
    settings: Settings, library: learning.Library, features: Features, folds: Sequence[Tensor]
) -> tuple[list[Branch], Tensor, int, bool]:
    """Return a network for each fold and, last, the final one, errors of held-out images, steps, and whether cut."""
    count = len(library.fine)
    fits = [*(rest(fold, count) for fold in folds), torch.arange(count)]
    steps = settings.steps or featurenet.plan(settings.seconds, len(fits), settings.threads, features.cells.numel())
    trained = featurenet.train_together(
        library,
        features.cells,
        fits,
        steps,
        settings.seed,
        settings.deadline,
        settings.threads,
        settings.attention,
        lambda share: settings.progress("train", share),
    )

    def judged(stage: int, chosen: Tensor) -> Tensor:
        return featurenet.errors(trained.stages[stage], library, chosen, settings.threads)

    held_out = [judged(k, fold) for k, fold in enumerate(folds)]
    levels = [judged(k, fit[:: -(-len(fit) // LEVEL_IMAGES)]).mean(0) for k, fit in enumerate(fits)]
    return list(trained.stages), levelled(held_out, levels, folds), trained.steps, trained.cut


def _words(placed: bool, ratio: float) -> str:
    if placed:
        return (
            f"Each place of the part has its own memory: held-out good parts lie {ratio:.2f} times as far from it as "
            "from one memory for all places, and it is more particular."
        )
    return (
        f"One memory serves all places: held-out good parts lie {ratio:.2f} times as far from a memory of the place "
        "alone, as on texture that looks the same everywhere."
    )
