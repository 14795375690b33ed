"""What only CUDA has: pinned memory, graphs, narrow arithmetic. The one file that no CPU can test.

A graph replays a whole inspection with one call instead of some two thousand launches. It is recorded for one batch
size, reads from one place and writes to one place; batches in between are filled up to the next size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from line_worker.vision.device.pipeline import Pipeline

# Not bfloat16: it moves scores by up to 0.55, which is half of what good parts differ by; float16 by 0.03 (40 images of
# MVTec AD's screw), as fast. ReLU6 keeps the backbone's numbers small; should one overflow, its part is NONFINITE.
HALF = torch.float16
ROUNDS = 3  # before recording: libraries choose their kernels and take their memory

Frame = NDArray[np.uint8] | NDArray[np.uint16]


def prepared(pipeline: Pipeline, device: torch.device) -> Pipeline:
    """Return `pipeline` on a CUDA device: the backbone in half precision, everything else in full single precision."""
    torch.backends.cudnn.allow_tf32 = False  # torch's own choice for convolutions; it would round gray levels
    torch.backends.cuda.matmul.allow_tf32 = False
    pipeline.lower(HALF)
    return pipeline.on(device)


def pinned(shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array that the device can fetch from by itself; such memory is kept for the next array."""
    nbytes = int(np.prod(shape)) * dtype.itemsize
    return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy().view(dtype).reshape(shape)


class Marks:
    """Marks between the stages of a graph, and the milliseconds between them when it was last replayed."""

    def __init__(self) -> None:
        self._events: list[tuple[str, Any]] = []

    def __call__(self, stage: str) -> None:
        """Leave one where `stage` ends."""
        event = torch.cuda.Event(enable_timing=True, external=True)  # type: ignore[no-untyped-call]
        event.record()
        self._events.append((stage, event))

    def ms(self) -> dict[str, float]:
        """Return the time of each stage but the first, which is only a beginning."""
        pairs = zip(self._events, self._events[1:], strict=False)
        return {stage: before.elapsed_time(after) for (_, before), (stage, after) in pairs}


class Recorded:
    """One batch size on a stream of its own: images go up one by one, through the graph, and their rows come down."""

    def __init__(self, pipeline: Pipeline, like: Tensor, device: torch.device, marks: Marks | None = None) -> None:
        mark: Callable[[str], None] = marks or (lambda stage: None)
        self.frames = like.to(device)
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self.stream):
            for _ in range(ROUNDS):
                pipeline(self.frames)
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: another bundle's batches may be computed meanwhile by the thread that judges
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            mark("start")
            self.rows = pipeline(self.frames, mark)
        self.answer = torch.empty_like(self.rows, device="cpu", pin_memory=True)
        self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def start(self, images: Sequence[Frame]) -> None:
        """Ask for the rows of at most as many images as it was recorded for; they must stay until the answer."""
        with torch.cuda.stream(self.stream):
            for place, image in zip(self.frames, images, strict=False):
                place.copy_(torch.from_numpy(np.require(image, None, ["C", "W"])), non_blocking=True)
            self.graph.replay()
            self.answer.copy_(self.rows, non_blocking=True)
            self.done.record()

    def wait(self) -> NDArray[np.float32]:
        """Return the rows (n, k), once they are there; the next start overwrites them."""
        self.done.synchronize()
        return self.answer.numpy()
