"""From fold models to a limit: every good image is judged by a model and by statistics that have not seen it.

Cross-fitting (5 folds) gives each good image an error map from a model trained on the others; the zones it is compared
with leave it out as well. Each model also has a level of its own, its usual error on images that it was trained on: it
is taken off and the final model's put in its place, or a final model that came out a little worse than the others, as
one in six does, would reject good parts for it. What remains shared is the pose template, learned from all images.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import NamedTuple

import torch
from torch import Tensor

from calib.autoencoder import single_threaded
from line_worker.vision import score
from line_worker.vision.decide import Limit, fixed_limit, quantile_limit
from line_worker.vision.reconstruct import Classic
from line_worker.vision.score import Rule, Zones

FOLDS = 5
LEVEL_IMAGES = 48


class Calibration(NamedTuple):
    """Statistics and limit, with each good image's honest score (N,) and decision map (N, rows, cols)."""

    zones: Zones
    rule: Rule
    limit: Limit
    scores: list[float]
    decisions: Tensor


def split(count: int, seed: int) -> list[Tensor]:
    """Return FOLDS index tensors that hold each of `count` images once, in an order drawn from `seed`."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    return [order[k::FOLDS] for k in range(FOLDS)]


def rest(fold: Tensor, count: int) -> Tensor:
    """Return the indices that are not in `fold`, ascending."""
    inside = torch.zeros(count, dtype=torch.bool)
    inside[fold] = True
    return torch.nonzero(~inside)[:, 0]


def out_of_fold(stages: Sequence[Classic], folds: Sequence[Tensor], prepared: Tensor, threads: int) -> Tensor:
    """Return both errors (N, 2, rows, cols) that the final model would give each image, had it not seen it.

    stages: one per fold, and the final one last. An error below 0 is cut off.
    """
    count = len(prepared)
    with single_threaded(), ThreadPoolExecutor(threads) as pool:
        levels = list(pool.map(lambda job: _level(*job), zip(stages, _fits(folds, count), repeat(prepared))))
        held_out = list(pool.map(lambda job: _errors(*job), zip(stages, folds, repeat(prepared))))
    errors = torch.empty(count, *levels[-1].shape)
    for fold, level, found in zip(folds, levels, held_out, strict=False):
        errors[fold] = (found - level + levels[-1]).clamp(min=0)
    return errors


def _fits(folds: Sequence[Tensor], count: int) -> list[Tensor]:
    """Return what each model was trained on: the rest of each fold, and everything."""
    return [*(rest(fold, count) for fold in folds), torch.arange(count)]


def _level(stage: Classic, fit: Tensor, prepared: Tensor) -> Tensor:
    """Return a model's usual errors (2, rows, cols) on images that it was trained on."""
    return _errors(stage, fit[:: -(-len(fit) // LEVEL_IMAGES)], prepared).mean(0)


@torch.inference_mode()
def _errors(stage: Classic, chosen: Tensor, prepared: Tensor) -> Tensor:
    """Return both errors (n, 2, rows, cols) of the chosen images, one at a time as on the line."""
    return torch.cat([stage.errors(prepared[i][None]) for i in chosen])


def usual_weights(errors: Tensor, mask: Tensor) -> Tensor:
    """Return the factors (2,) that make both errors (N, 2, rows, cols) count alike, and the usual sum of both 1."""
    return 0.5 / errors[:, :, mask].mean((0, 2)).clamp(min=1e-6)


def calibrate(errors: Tensor, mask: Tensor, rule: str, false_reject: float) -> Calibration:
    """Learn zones, rule and limit from good parts' out-of-fold error maps (N, rows, cols)."""
    apart = score.held_out(errors, mask)
    fitted = score.learn_rule(rule, errors, apart, mask)
    decisions = torch.cat([score.decision_map(e[None], z, fitted) for e, z in zip(errors, apart, strict=True)])
    scores = [float(value) for value in score.scores(decisions)]
    limit = fixed_limit(scores, score.CLASSIC_LIMIT) if rule == "classic" else quantile_limit(scores, false_reject)
    return Calibration(score.learn_zones(errors, mask), fitted, limit, scores, decisions)
