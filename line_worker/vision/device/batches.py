"""Batches of images through the pipeline: on CUDA by recorded graphs, elsewhere stage by stage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from line_worker.vision.device import graph
from line_worker.vision.device.pipeline import Found, Pipeline

# Of the larger of 1 and the score: how far scores may lie from a CPU's, in units in which good parts spread by 1.
# An H200 moved them by up to 0.036, most of it by half precision in the backbone (160 images of MVTec AD's screw).
TOLERANCE = 0.1
SIZES = (1, 2, 4, 8, 16, 32, 64)  # batches that are recorded; others are filled up to the next, larger ones are cut
LANES = 2  # pieces of a large batch that are on the device at a time: one's small kernels fill the gaps of the other's

Frame = NDArray[np.uint8] | NDArray[np.uint16]
Lap = Callable[[str], None]


class Batches:
    """Judges images, all of the kind that the pipeline was made for."""

    def __init__(self, pipeline: Pipeline, device: torch.device) -> None:
        self.device, self.records = device, device.type == "cuda"
        self.pipeline = graph.prepared(pipeline, device) if self.records else pipeline.on(device)
        self._recorded: dict[tuple[int, int], graph.Recorded] = {}
        self._marked: dict[int, tuple[graph.Recorded, graph.Marks]] = {}

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array for an image, where the device gets at it fastest."""
        return graph.pinned(shape, dtype) if self.records else np.empty(shape, dtype)

    def judge(self, images: Sequence[Frame], lap: Lap) -> Iterator[Found]:
        """Yield what the device says of each image; `lap(stage)` is called as each stage ends, if that can be seen.

        Who takes one piece's findings does so while the device is at the next.
        """
        pieces = [images[start : start + SIZES[-1]] for start in range(0, len(images), SIZES[-1])]
        for rows in self._by_graphs(pieces, lap) if self.records else (self.by_stages(few, lap) for few in pieces):
            yield from map(self.pipeline.packing.unpack, rows)

    def by_stages(self, images: Sequence[Frame], lap: Lap) -> NDArray[np.float32]:
        """Return the rows (n, k) of images that go through stage by stage, as when a profile is taken."""
        frames = stacked(images).to(self.device)
        lap("upload")
        rows: Tensor = self.pipeline(frames, lap)
        found: NDArray[np.float32] = rows.cpu().numpy()
        lap("download")
        return found

    def marked_ms(self, images: Sequence[Frame]) -> dict[str, float]:
        """Return what each stage takes of at most SIZES[-1] images inside their graph, in milliseconds; CUDA only."""
        size = filled_up(len(images))
        if size not in self._marked:
            marks = graph.Marks()
            recorded = graph.Recorded(self.pipeline, stacked([images[0]] * size), self.device, marks)
            self._marked[size] = recorded, marks
        recorded, marks = self._marked[size]
        recorded.start(images)
        recorded.wait()
        return marks.ms()

    def _by_graphs(self, pieces: Sequence[Sequence[Frame]], lap: Lap) -> Iterator[NDArray[np.float32]]:
        under_way: deque[tuple[graph.Recorded, int]] = deque()
        for number, images in enumerate(pieces):
            if len(under_way) == LANES:
                yield _answer(under_way, lap)
            recorded = self._graph(images, number % LANES)
            recorded.start(images)
            under_way.append((recorded, len(images)))
        while under_way:
            yield _answer(under_way, lap)

    def _graph(self, images: Sequence[Frame], lane: int) -> graph.Recorded:
        """Return the graph of the smallest batch that holds `images`, recorded when it is used for the first time."""
        size = filled_up(len(images))
        key = size, lane if size == SIZES[-1] else 0  # a rest is alone of its size
        if key not in self._recorded:
            like = stacked([images[0]] * size)
            self._recorded[key] = graph.Recorded(self.pipeline, like, self.device)
        return self._recorded[key]


def _answer(under_way: deque[tuple[graph.Recorded, int]], lap: Lap) -> NDArray[np.float32]:
    """Wait for the piece that was started first and return its rows."""
    recorded, count = under_way.popleft()
    rows = recorded.wait()[:count]
    lap("device")
    return rows


def stacked(images: Sequence[Frame]) -> Tensor:
    """Return images as one tensor (B, H, W) or (B, H, W, C)."""
    return torch.from_numpy(np.stack(images))


def filled_up(count: int) -> int:
    """Return the size of the batch that `count` images, at most SIZES[-1], are computed in."""
    return next(size for size in SIZES if size >= count)


def sizes_up_to(largest: int) -> list[int]:
    """Return the sizes of batches that have been recorded once batches of 1 to `largest` images can come."""
    recorded = sorted({*(size for size in SIZES if size < largest), min(largest, SIZES[-1])})
    return recorded if largest <= SIZES[-1] else [*recorded, LANES * SIZES[-1]]
