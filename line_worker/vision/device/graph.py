"""What only CUDA has: pinned memory, graphs, narrow arithmetic. The one file that no CPU can test.

A graph replays a whole inspection with one call instead of some two thousand launches. It is recorded for one batch
size, reads from one place and writes to one place; batches in between are filled up to the next size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


class Recorded:
    """One batch size: what is staged in pinned memory goes up, through the graph, and down into pinned memory."""

    def __init__(self, pipeline: Callable[[Tensor], Tensor], like: Tensor, device: torch.device) -> None:
        self.staging = torch.empty_like(like, device="cpu", pin_memory=True)
        self.frames = self.staging.copy_(like).to(device)
        beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        beside.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(beside):
            for _ in range(ROUNDS):
                pipeline(self.frames)
        torch.cuda.current_stream(device).wait_stream(beside)
        self.graph = torch.cuda.CUDAGraph()
        # thread_local: another bundle's batches may be computed meanwhile by the thread that judges
        with torch.cuda.device(device), torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.rows = pipeline(self.frames)
        self.answer = torch.empty_like(self.rows, device="cpu", pin_memory=True)
        self.device = device

    def __call__(self, images: Sequence[Frame]) -> NDArray[np.float32]:
        """Return the rows (n, k) of at most as many images as it was recorded for; the next call overwrites them."""
        staged = self.staging.numpy()
        for place, image in zip(staged, images, strict=False):
            np.copyto(place, image)
        with torch.cuda.device(self.device):
            self.frames.copy_(self.staging, non_blocking=True)
            self.graph.replay()
            self.answer.copy_(self.rows, non_blocking=True)
            torch.cuda.current_stream(self.device).synchronize()
        return self.answer.numpy()[: len(images)]
