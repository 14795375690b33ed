"""What a worker computes with: the inspection of a bundle, or a stub that measures the line alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from line_worker.config import STUB_LIMIT, Workers
from line_worker.errors import DeviceMemoryError
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.vision.inspection import Inspected

Lap = Callable[[str], None]
Limits = Sequence[float | None]  # what each score is held against; None: the bundle's own


class Finding(Protocol):
    """What the worker needs of one inspected picture; `Inspected` has more."""

    @property
    def reason(self) -> Reason: ...  # noqa: D102
    @property
    def score(self) -> float | None: ...  # noqa: D102
    @property
    def threshold(self) -> float: ...  # noqa: D102
    @property
    def boxes(self) -> tuple[Any, ...]: ...  # noqa: D102
    @property
    def p_value(self) -> float | None: ...  # noqa: D102


class Model(Protocol):
    """Loaded, self-tested and ready to compute. `bundle` is the sha256 that names it."""

    bundle: str
    device: str

    def example(self) -> NDArray[Any]:
        """Return a picture to warm up with."""

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array for a picture, in memory that the device likes best."""

    def sizes(self, largest: int) -> list[int]:
        """Return the sizes of batches that have to be warm before batches of 1 to `largest` pictures come."""

    def inspect(
        self, images: Sequence[NDArray[Any]], lap: Lap | None = None, limits: Limits | None = None
    ) -> Sequence[Finding]:
        """Inspect a batch, each picture against its own of `limits`; `lap` is called after every stage.

        Raises:
            DeviceMemoryError: the batch does not fit into the device's memory.
        """

    def canary(self, image: NDArray[Any], seed: int, limit: float | None = None) -> Finding | None:
        """Paint a strong defect on a copy of `image` and inspect it; None when there is no place for one."""

    def pictures(self, image: NDArray[Any], finding: Finding) -> list[tuple[str, bytes]]:
        """Return (name, PNG) of what people want to see of an anomaly."""


STUB_DEFECT = 2.0  # the score of a stub's canaries


class StubFinding(NamedTuple):
    """Everything passes."""

    reason: Reason = Reason.NONE
    score: float | None = 0.0
    threshold: float = STUB_LIMIT
    boxes: tuple[Any, ...] = ()
    p_value: float | None = None  # nothing is calibrated


class StubModel:
    """No model at all: every intact frame passes after `stub_ms`; measures source, hub, wire and sinks."""

    bundle, device = "stub", "none"

    def __init__(self, stub_ms: float, blind: bool = False) -> None:
        self._seconds, self._blind = stub_ms / 1000, blind

    def example(self) -> NDArray[Any]:
        """Return a small gray picture."""
        return np.zeros((64, 64), np.uint8)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array."""
        return np.empty(shape, dtype)

    def sizes(self, largest: int) -> list[int]:
        """Return the smallest two and the largest."""
        return sorted({1, 2, largest})

    def inspect(
        self, images: Sequence[NDArray[Any]], lap: Lap | None = None, limits: Limits | None = None
    ) -> Sequence[Finding]:
        """Sleep for as long as computing would take; pass everything."""
        if self._seconds:
            time.sleep(self._seconds * len(images))
        if lap is not None:
            lap("stub")
        return [StubFinding(threshold=limit or STUB_LIMIT) for limit in limits or [None] * len(images)]

    def canary(self, image: NDArray[Any], seed: int, limit: float | None = None) -> Finding | None:
        """Fail, unless this stub is to be blind, or held against a limit that no defect of it reaches."""
        [finding] = self.inspect([image], limits=[limit])
        seen = not self._blind and finding.threshold < STUB_DEFECT
        return StubFinding(Reason.ANOMALY, STUB_DEFECT, finding.threshold) if seen else finding

    def pictures(self, image: NDArray[Any], finding: Finding) -> list[tuple[str, bytes]]:
        """Return nothing: a stub sees no anomalies."""
        return []


class BundleModel:
    """The inspection of one bundle, which has reproduced its golden images on this device.

    Raises:
        BundleError: the bundle is damaged, of another version, or does not reproduce its golden images.
    """

    def __init__(self, workers: Workers) -> None:
        import torch

        from line_worker.bundle import Bundle
        from line_worker.images import read_image
        from line_worker.selftest import self_tested

        if workers.threads:
            torch.set_num_threads(workers.threads)
        bundle = Bundle.load(workers.bundle)
        self._inspection = self_tested(bundle, workers.device, workers.runtime)
        self.bundle, self.device = bundle.sha, str(self._inspection.device)
        self._example = np.zeros(bundle.input_shape, bundle.manifest["input"]["dtype"])
        golden = bundle.manifest["golden"]
        if golden:
            self._example = read_image(bundle.path / golden[0]["file"])

    def example(self) -> NDArray[Any]:
        """Return a golden image: its stages take as long as those of any good part."""
        return self._example

    def empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return an array that a GPU can fetch from by itself, where there is one."""
        return self._inspection.empty(shape, np.dtype(dtype))

    def sizes(self, largest: int) -> list[int]:
        """Return those that the inspection is prepared for: on a GPU a graph is recorded for each."""
        return self._inspection.sizes(largest)

    def inspect(
        self, images: Sequence[NDArray[Any]], lap: Lap | None = None, limits: Limits | None = None
    ) -> Sequence[Inspected]:
        """Inspect a batch; see `Model`."""
        import torch

        try:
            return self._inspection.inspect(images, lap, limits)
        except (torch.OutOfMemoryError, MemoryError) as error:
            torch.cuda.empty_cache()  # nothing without CUDA
            raise DeviceMemoryError(
                f"{self.device}: no memory for a batch of {len(images)} ({error}); it is computed in halves once; "
                "make workers.batch smaller, or the device freer"
            ) from error

    def canary(self, image: NDArray[Any], seed: int, limit: float | None = None) -> Inspected | None:
        """Paint a spot on the part of a copy of `image`, where it is judged, and inspect that."""
        import cv2

        from line_worker.vision.canary import paint_spot

        rectifier, zones = self._inspection.rectifier, self._inspection.standard.zones
        part = rectifier.rectify(image)
        if part.reason is not Reason.NONE:
            return None
        cells = zones.mask.cpu().numpy().astype(np.uint8)
        judged = cv2.resize(cells, rectifier.size[::-1], interpolation=cv2.INTER_NEAREST) > 0
        spotted = paint_spot(image, part.matrix, judged & rectifier.template_mask, rectifier.frame.white, seed)
        return self._inspection.inspect([spotted], limits=[limit])[0]

    def pictures(self, image: NDArray[Any], finding: Any) -> list[tuple[str, bytes]]:
        """Return overlay, anomaly map, limits of the zones and a crop of each anomalous region, as PNG files."""
        from line_worker.images import encode_png
        from line_worker.vision.crop import crops, overlay
        from line_worker.vision.evidence import anomaly_map, zone_limits

        found = [("overlay", encode_png(overlay(image, finding)))]
        drawn = {"map": anomaly_map(image, finding), "zones": zone_limits(image, finding)}
        found += [(name, encode_png(picture)) for name, picture in drawn.items() if picture is not None]
        found += [(f"crop-{n}", encode_png(crop)) for n, crop in enumerate(crops(image, finding))]
        return found


def load_model(workers: Workers) -> Model:
    """Return the model that the configuration names."""
    return StubModel(workers.stub_ms, workers.stub_blind) if workers.stub else BundleModel(workers)
