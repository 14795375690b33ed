"""What good parts' features look like: the range of brightness, the channels' statistics, and all maps for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib.schedule import workers
from line_worker.vision.backbone import Backbone
from line_worker.vision.cells import batch
from line_worker.vision.features import Features, Maps

Canonical = NDArray[np.float32]

DARK, BRIGHT = 0.1, 99.9  # percentiles of the good parts' pixels
SAMPLED = 64  # images from which brightness and channel statistics are taken
GAIN_MAX = 0.7  # a white background keeps its distance from white: parts brighter than it are seen
MIDDLE, SPAN = 0.5, 0.8  # where the good parts' range of brightness is put when the gain alone does not fit it in
FLOOR = 1e-3  # of a channel's deviation: one that good parts never move says nothing


class Library(NamedTuple):
    """The features of all good images, half precision: fine (N, C1, rows, cols), coarse (N, C2, ...)."""

    fine: Tensor
    coarse: Tensor

    def maps(self, chosen: Tensor) -> Maps:
        """Return the features of some images."""
        return Maps(self.fine[chosen].float(), self.coarse[chosen].float())


def learn_features(backbone: Backbone, canonicals: Sequence[Canonical], template: NDArray[np.bool_]) -> Features:
    """Return features whose brightness and channels are standardised over good parts."""
    some = canonicals[:: -(-len(canonicals) // SAMPLED)]
    gain, offset = brightness(some, template)
    widths = sum(backbone.widths)
    mask = torch.from_numpy(template)
    features = Features(backbone, gain, offset, mask, torch.zeros(widths), torch.ones(widths)).eval()
    with torch.inference_mode():
        seen = [_inside(features, canonical) for canonical in some]
    return Features(backbone, gain, offset, mask, *_statistics(seen)).eval()


def brightness(canonicals: Sequence[Canonical], template: NDArray[np.bool_]) -> tuple[float, float]:
    """Return gain and offset that bring good parts and their background (1.0) into the backbone's 0..1."""
    sample = np.concatenate([canonical[template].ravel() for canonical in canonicals])
    low, high = (float(value) for value in np.percentile(sample, [DARK, BRIGHT]))
    low, high = min(low, 1.0), max(high, 1.0)
    gain = min(GAIN_MAX, SPAN / max(high - low, 1e-3))
    fits = gain * low >= 0 and gain * high <= MIDDLE + SPAN / 2 + 0.05
    return gain, 0.0 if fits else MIDDLE - gain * (low + high) / 2


def _inside(features: Features, canonical: Canonical) -> list[Tensor]:
    """Return the raw features (C, n) of the object's cells, per map."""
    maps = features.raw(batch([canonical]))
    found = []
    for plane in maps:
        mask = torch.nn.functional.adaptive_max_pool2d(features.cells[None].float(), plane.shape[2:])[0] > 0
        found.append(plane[0][:, mask])
    return found


def _statistics(seen: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of each channel over all cells of all images."""
    layers = [torch.cat(list(layer), 1) for layer in zip(*seen, strict=True)]
    mean, std = torch.cat([x.mean(1) for x in layers]), torch.cat([x.std(1) for x in layers])
    return mean, std.clamp(min=FLOOR)


def extract(
    features: Features, canonicals: Sequence[Canonical], threads: int, progress: Callable[[float], None]
) -> Library:
    """Return the features of all images, one at a time as on the line."""

    @torch.inference_mode()
    def one(canonical: Canonical) -> tuple[Tensor, Tensor]:
        maps = features(batch([canonical]))
        return maps.fine[0].half(), maps.coarse[0].half()

    found = []
    with workers(threads) as pool:
        for maps in pool.map(one, canonicals):
            found.append(maps)
            progress(len(found) / len(canonicals))
    return Library(*(torch.stack(list(layer)) for layer in zip(*found, strict=True)))
