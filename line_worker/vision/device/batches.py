"""Batches of images through the pipeline: on CUDA by recorded graphs, elsewhere stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from line_worker.vision.device import graph
from line_worker.vision.device.pipeline import Found, Pipeline

# Of the larger of 1 and the score: how far scores may lie from a CPU's, in units in which good parts spread by 1.
# Half precision in the backbone moved them by up to 0.03 (40 images of MVTec AD's screw); all else by 0.006 (160).
TOLERANCE = 0.1
SIZES = (1, 2, 4, 8, 16, 32, 64)  # batches that are recorded; others are filled up to the next, larger ones are cut

Frame = NDArray[np.uint8] | NDArray[np.uint16]
Lap = Callable[[str], None]


class Batches:
    """Judges images, all of the kind that the pipeline was made for."""

    def __init__(self, pipeline: Pipeline, device: torch.device) -> None:
        self.device, self.records = device, device.type == "cuda"
        self.pipeline = graph.prepared(pipeline, device) if self.records else pipeline.on(device)
        self._recorded: dict[int, graph.Recorded] = {}

    def judge(self, images: Sequence[Frame], lap: Lap) -> Iterator[Found]:
        """Yield what the device says of each image; `lap(stage)` is called as each stage ends, if that can be seen."""
        for start in range(0, len(images), SIZES[-1]):
            for row in self._rows(images[start : start + SIZES[-1]], lap):
                yield self.pipeline.packing.unpack(row)

    def _rows(self, images: Sequence[Frame], lap: Lap) -> NDArray[np.float32]:
        if not self.records:
            return self.by_stages(images, lap)
        rows = self._graph(images)(images)
        lap("device")
        return rows

    def by_stages(self, images: Sequence[Frame], lap: Lap) -> NDArray[np.float32]:
        """Return the rows (n, k) of images that go through stage by stage, as when a profile is taken."""
        frames = stacked(images).to(self.device)
        lap("upload")
        rows: Tensor = self.pipeline(frames, lap)
        found: NDArray[np.float32] = rows.cpu().numpy()
        lap("download")
        return found

    def _graph(self, images: Sequence[Frame]) -> graph.Recorded:
        """Return the graph of the smallest batch that holds `images`, recorded when it is used for the first time."""
        size = filled_up(len(images))
        if size not in self._recorded:
            like = stacked([images[0]] * size)
            self._recorded[size] = graph.Recorded(self.pipeline, like, self.device)
        return self._recorded[size]


def stacked(images: Sequence[Frame]) -> Tensor:
    """Return images as one tensor (B, H, W) or (B, H, W, C)."""
    return torch.from_numpy(np.stack(images))


def filled_up(count: int) -> int:
    """Return the size of the batch that `count` images, at most SIZES[-1], are computed in."""
    return next(size for size in SIZES if size >= count)


def sizes_up_to(largest: int) -> list[int]:
    """Return the sizes that batches of 1 to `largest` images are computed in: what must be warm before they come."""
    largest = min(largest, SIZES[-1])
    return [*(size for size in SIZES if size < largest), largest]
