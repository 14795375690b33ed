"""Fits the article's autoencoder to canonical pictures of good parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib import autoencoder
from calib.fitting import FOLDS, Fitted, Settings, levelled, rest, split
from calib.schedule import workers
from line_worker.vision import classic
from line_worker.vision.cells import batch
from line_worker.vision.classic import Classic, Preparation

Canonical = NDArray[np.float32]

DARK, BRIGHT = 0.1, 99.9  # percentiles of the good parts' pixels that set the autoencoder's range
SAMPLED = 64  # images they are taken from
LEVEL_IMAGES = 48


def fit(settings: Settings, canonicals: Sequence[Canonical], template: NDArray[np.bool_]) -> Fitted:
    """Fit the autoencoder to good canonical images; template is where the part lies."""
    count = len(canonicals)
    plan = autoencoder.plan(settings.seconds, FOLDS + 1, settings.threads)
    preparation = _preparation(canonicals, template, settings.pixels or plan.pixels)
    prepared = _prepared(preparation, canonicals)
    folds = split(count, settings.seed)
    fits = [*(rest(fold, count) for fold in folds), torch.arange(count)]
    trained = autoencoder.train_together(
        prepared,
        preparation.visible,
        fits,
        settings.steps or plan.steps,
        settings.seed,
        deadline=settings.deadline,
        threads=settings.threads,
        progress=lambda share: settings.progress("train", share),
    )
    stages = [Classic(preparation, classic.fold(net), template).eval() for net in trained.nets]
    both = _out_of_fold(stages, fits, folds, prepared, settings.threads)
    for stage in stages:
        stage.weights.copy_(usual_weights(both, stages[-1].mask))
    errors = stages[-1].combine(both)
    return Fitted(stages[-1], stages[0], folds[0], errors, (False,), trained.steps, trained.cut, ())


def _preparation(canonicals: Sequence[Canonical], template: NDArray[np.bool_], pixels: int) -> Preparation:
    """Return the way to the working grid, its range set by the good parts' own darkest and brightest pixels."""
    sample = np.stack(canonicals[:: -(-len(canonicals) // SAMPLED)])[:, template]
    low, high = (float(value) for value in np.percentile(sample, [DARK, BRIGHT]))
    size = classic.working_size(template.shape[0], template.shape[1], pixels)
    return Preparation(size, low, max(high, low + 1e-3), torch.from_numpy(template)).eval()


@torch.inference_mode()
def _prepared(preparation: Preparation, canonicals: Sequence[Canonical]) -> Tensor:
    """Return the images on the working grid, one at a time so that each is what the line will see."""
    return torch.cat([preparation(batch([canonical])) for canonical in canonicals])


def _out_of_fold(
    stages: Sequence[Classic], fits: Sequence[Tensor], folds: Sequence[Tensor], prepared: Tensor, threads: int
) -> Tensor:
    """Return both errors (N, 2, rows, cols) that the final model would give each image, had it not seen it."""
    shown = [fit[:: -(-len(fit) // LEVEL_IMAGES)] for fit in fits]
    with workers(threads) as pool:
        levels = list(pool.map(lambda stage, chosen: _errors(stage, chosen, prepared).mean(0), stages, shown))
        held_out = list(pool.map(lambda stage, fold: _errors(stage, fold, prepared), stages, folds))
    return levelled(held_out, levels, folds)


@torch.inference_mode()
def _errors(stage: Classic, chosen: Tensor, prepared: Tensor) -> Tensor:
    """Return both errors (n, 2, rows, cols) of the chosen images, one at a time as on the line."""
    return torch.cat([stage.errors(prepared[i][None]) for i in chosen])


def usual_weights(errors: Tensor, mask: Tensor) -> Tensor:
    """Return the factors (2,) that make both errors (N, 2, rows, cols) count alike, and the usual sum of both 1."""
    return 0.5 / errors[:, :, mask].mean((0, 2)).clamp(min=1e-6)
