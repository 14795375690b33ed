"""From held-out error maps to a limit: each good image is judged by a model and by statistics that have not seen it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.fitting import Fitted
from calib.zoning import Drawn
from line_worker.errors import DatasetError
from line_worker.vision import adaptive, score
from line_worker.vision.adaptive import Adaptive
from line_worker.vision.cells import batch
from line_worker.vision.decide import Limit, fixed_limit, quantile_limit
from line_worker.vision.score import Rule, Zones


class Calibration(NamedTuple):
    """Statistics and limit, with each good image's honest score (N,) and decision map (N, rows, cols)."""

    zones: Zones
    rule: Rule
    adaptive: Adaptive | None
    limit: Limit
    scores: list[float]
    decisions: Tensor
    notes: tuple[str, ...]


def calibrate(
    fitted: Fitted,
    canonicals: Sequence[NDArray[np.float32]],
    rule: str,
    false_reject: float,
    drawn: Drawn | None = None,
) -> Calibration:
    """Learn zones, rule and limit from good parts' out-of-fold error maps."""
    errors, flat, mask = fitted.errors, fitted.flat, fitted.final.mask
    if drawn is not None:
        mask = mask & ~drawn.ignored
    zones, apart = score.learn_zones(errors, mask, flat), score.held_out(errors, mask, flat)
    context, expected = _context(rule, canonicals, errors, zones, apart)
    made = score.learn_rule(rule, errors, apart, expected)
    decisions = torch.cat(
        [score.decision_map(e[None], z, made, x) for e, z, x in zip(errors, apart, expected, strict=True)]
    )
    threshold = score.CLASSIC_LIMIT if rule == "classic" else None
    if drawn is not None and drawn.targets:
        threshold = threshold or _limit(decisions, _common(drawn, mask), false_reject)
        weight = _weights(decisions, drawn, threshold)
        zones, decisions = zones._replace(weight=weight), decisions * weight
    scores = [float(value) for value in score.scores(decisions)]
    limit = quantile_limit(scores, false_reject) if threshold is None else fixed_limit(scores, threshold)
    return Calibration(zones, made, context, limit, scores, decisions, _notes(made, limit))


def _context(
    rule: str, canonicals: Sequence[NDArray[np.float32]], errors: Tensor, zones: Zones, apart: Sequence[Zones]
) -> tuple[Adaptive | None, list[Tensor | None]]:
    """Return the regression of the rule adaptive, and what it expects of each image; nothing for other rules."""
    if rule != "adaptive":
        return None, [None] * len(errors)
    textures = torch.cat([adaptive.texture(batch([canonical]), zones.mask) for canonical in canonicals])
    z = torch.cat([score.standardise(e[None], own) for e, own in zip(errors, apart, strict=True)])
    context = adaptive.learn(z, zones.mu, textures, zones.mask)
    return context, [context.expected(one[None], own.mu) for one, own in zip(textures, apart, strict=True)]


def _common(drawn: Drawn, mask: Tensor) -> Tensor:
    """Return the cells of `mask` without a target of their own, whose limit is the part's; all when there are none."""
    common = mask.clone()
    for cells, _ in drawn.targets:
        common &= ~cells
    return common if bool(common.any()) else mask


def _weights(decisions: Tensor, drawn: Drawn, threshold: float) -> Tensor:
    """Return the factor of each cell (rows, cols) that stretches each zone until its own limit is `threshold`."""
    weight = torch.ones(decisions.shape[1:])
    for cells, target in drawn.targets:
        weight[cells] = threshold / _limit(decisions, cells, target)
    return weight


def _limit(decisions: Tensor, cells: Tensor, false_reject: float) -> float:
    threshold = quantile_limit(decisions[:, cells].amax(1).tolist(), false_reject).threshold
    if threshold <= 0:
        raise DatasetError(
            f"the limit of a zone with the false-reject target {false_reject:g} is {threshold:.3g}, not above 0: the "
            "zone is too small or the target too large. Nothing was written; draw it larger or choose a smaller target"
        )
    return threshold


def _notes(rule: Rule, limit: Limit) -> tuple[str, ...]:
    if rule.name == "deviation":
        return (
            f"Neighbours are compared at a distance of {rule.radius} cells, at which a small blob stands out most.",
        )
    return ()
