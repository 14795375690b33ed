"""What a batch costs where it is computed: parts a second and milliseconds by batch size, and by stage.

`whole` is what a worker sees, from images in memory to verdicts with boxes; on CUDA its batches run as recorded graphs.
The stages are those of one piece (of a batch that is cut into several), on CUDA between marks inside its graph: without
the way up and down and without what the host does.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from line_worker.bundle import Bundle
from line_worker.errors import ConfigError
from line_worker.images import read_image
from line_worker.scoring import find
from line_worker.selftest import self_tested
from line_worker.vision.device.batches import SIZES, Batches
from line_worker.vision.inspection import Image, Inspection

WARM = 2  # rounds that are not counted
ROUNDS_MIN, SECONDS = 3, 3.0  # of each batch size: at least so many, and so long
READ = 256  # images held in memory


class Timing(NamedTuple):
    """One batch size: median and worst milliseconds from images to verdicts, and the median of each stage."""

    batch: int
    ms: float
    worst_ms: float
    rounds: int
    stages_ms: dict[str, float]

    @property
    def parts_per_s(self) -> float:
        """Return how many parts a second that makes."""
        return 1e3 * self.batch / self.ms

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**self._asdict(), "parts_per_s": self.parts_per_s}


class Agreement(NamedTuple):
    """How far the device's verdicts and scores lie from a CPU's; scores as a share of the larger of 1 and the score."""

    images: int
    verdicts_that_differ: int
    largest: float
    median: float
    tolerance: float


class Profile(NamedTuple):
    """Timings of a bundle on a device, in words, and how far it agrees with a CPU, when that was asked."""

    device: str
    method: str
    shape: tuple[int, ...]
    timings: list[Timing]
    agreement: Agreement | None


def sizes(text: str) -> list[int]:
    """Return the batch sizes of "1,8,32"; raises ConfigError for anything else."""
    try:
        found = [int(one) for one in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1 or max(found) > READ:
        raise ConfigError("batches", [f"{text!r}: give sizes from 1 to {READ}, as in 1,8,32"])
    return found


def profile(bundle: Bundle, folder: Path, batches: Sequence[int], device: str, agree: bool) -> Profile:
    """Measure `bundle` on images of `folder`; it must reproduce its golden images there first.

    agree: judge them on a CPU, too.

    Raises ConfigError for a method without a batched form, a device that is not here and a folder without an image,
    ImageError for one that cannot be read, BundleError when the golden images are not reproduced.
    """
    inspection = self_tested(bundle, device, "device")
    images = [_placed(inspection, read_image(path)) for path in find([folder])[:READ]]
    timings = [timed(inspection, images, batch) for batch in batches]
    beside = agreement(inspection, Inspection.from_bundle(bundle), images) if agree else None
    method = bundle.manifest["reconstruct"]["method"]
    return Profile(_name(inspection.device), method, bundle.input_shape, timings, beside)


def _placed(inspection: Inspection, image: Image) -> Image:
    """Return `image` where a worker has it: in memory from which the device fetches by itself."""
    place: Image = inspection.empty(image.shape, image.dtype)
    place[...] = image
    return place


def timed(inspection: Inspection, images: Sequence[Image], batch: int) -> Timing:
    """Return what batches of `batch` images, in turn, cost `inspection`."""
    assert inspection.batches is not None  # runtime device has them, or says why it has not
    whole = _repeated(images, batch, lambda few: _timed_whole(inspection, few))
    batches = inspection.batches
    by_stage = batches.marked_ms if batches.records else lambda few: _stages_ms(batches, few)
    stages = _repeated(images, min(batch, SIZES[-1]), by_stage)
    laps = {name: median(one[name] for one in stages) for name in stages[0]}
    return Timing(batch, median(whole), max(whole), len(whole), laps)


def _repeated(images: Sequence[Image], batch: int, measure: Callable[[list[Image]], Any]) -> list[Any]:
    """Return what `measure` says of batches, each of other images, after WARM ones that do not count."""
    found: list[Any] = []
    start, number = time.perf_counter(), 0
    while number < WARM + ROUNDS_MIN or time.perf_counter() - start < SECONDS:
        found.append(measure([images[(number * batch + k) % len(images)] for k in range(batch)]))
        number += 1
        if number == WARM:
            found.clear()
            start = time.perf_counter()
    return found


def _timed_whole(inspection: Inspection, images: list[Image]) -> float:
    begun = time.perf_counter()
    inspection.inspect(images)  # waits for its answer
    return 1e3 * (time.perf_counter() - begun)


def _stages_ms(batches: Batches, images: list[Image]) -> dict[str, float]:
    ends = [("", time.perf_counter())]
    batches.by_stages(images, lambda stage: ends.append((stage, time.perf_counter())))
    return {stage: 1e3 * (end - start) for (_, start), (stage, end) in itertools.pairwise(ends)}


def _name(device: torch.device) -> str:
    """Return the device in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device}, {torch.get_num_threads()} thread(s)"


def agreement(inspection: Inspection, reference: Inspection, images: Sequence[Image]) -> Agreement:
    """Return how far `inspection` lies from `reference` on `images`."""
    differ, apart = 0, [0.0]
    for image in images:
        one, other = inspection.inspect([image])[0], reference.inspect([image])[0]
        differ += one.reason is not other.reason
        if one.score is not None and other.score is not None:
            apart.append(abs(one.score - other.score) / max(1.0, abs(other.score)))
    return Agreement(len(images), differ, max(apart), median(apart), inspection.tolerance)
