"""The metrics of anomaly detection, exact and with numpy alone: AUROC of scores and of pixels, and AU-PRO.

The curves are never sampled: the area under a ROC curve is the chance that a positive outranks a negative, and the area
under the per-region-overlap curve is a sum over region pixels of the false positive rate they still allow.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

PRO_LIMIT = 0.3


def auroc(negatives: NDArray[np.floating], positives: NDArray[np.floating]) -> float:
    """Return the chance that a positive scores higher than a negative, a tie counting half (Mann and Whitney 1947).

    Raises ValueError when either is empty.
    """
    if not len(negatives) or not len(positives):
        raise ValueError("AUROC needs at least one good and one bad")
    ordered = np.sort(negatives)
    below = np.searchsorted(ordered, positives, "left").astype(np.float64)
    not_above = np.searchsorted(ordered, positives, "right")
    return float((below + not_above).mean() / 2 / len(ordered))


def pixel_auroc(maps: Sequence[Map], truths: Sequence[Mask]) -> float:
    """Return the AUROC of all pixels together; maps and masks are pairs of one shape each."""
    negatives, positives = _pooled(maps, truths)
    return auroc(negatives, positives)


def au_pro(maps: Sequence[Map], truths: Sequence[Mask], limit: float = PRO_LIMIT) -> float:
    """Return the area under the per-region-overlap curve up to false positive rate `limit`, divided by it.

    Bergmann et al. 2021 (IJCV): for each threshold, the share of each connected region (8 neighbours) of the ground
    truth that lies above it, averaged over regions of all sizes alike. A region's pixel is above every threshold whose
    false positive rate exceeds the share of good pixels that score higher than it, so it adds what is left to `limit`.
    Raises ValueError when there is no region.
    """
    negatives = np.sort(_pooled(maps, truths)[0])
    overlaps = []
    for plane, truth in zip(maps, truths, strict=True):
        count, labels = cv2.connectedComponents(truth.astype(np.uint8), connectivity=8)
        for label in range(1, count):
            rank = np.searchsorted(negatives, plane[labels == label], "left")
            tied = np.searchsorted(negatives, plane[labels == label], "right")
            rate = 1 - (rank + tied) / 2 / len(negatives)
            overlaps.append(np.clip(1 - rate / limit, 0, None).mean())
    if not overlaps:
        raise ValueError("AU-PRO needs at least one region of ground truth")
    return float(np.mean(overlaps))


def _pooled(maps: Sequence[Map], truths: Sequence[Mask]) -> tuple[Map, Map]:
    """Return all good and all bad pixels."""
    good = [plane[~truth] for plane, truth in zip(maps, truths, strict=True)]
    bad = [plane[truth] for plane, truth in zip(maps, truths, strict=True)]
    return np.concatenate(good), np.concatenate(bad)
