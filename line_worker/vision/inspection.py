"""Inspection: the method on one page. An image becomes a verdict with its evidence.

locate and rectify   where the part lies; its picture in canonical pose, background divided out
sanity               whether exposure and focus are those that the station was commissioned with
reconstruct          what a method that knows good parts only cannot explain: an error per cell
score                how unusual that error is for its zone of the part
decide               the largest deviation against the limit from good parts
crop                 boxes in the original image, with the figures that led to them

What is calibrated comes from a bundle. On a CPU every image goes through alone, so that a score never depends, not even
in its last bit, on which other images were in hand; on other devices a whole batch goes through every stage together
(device/), and agrees with the CPU to `tolerance`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from line_worker.errors import BundleError, ConfigError
from line_worker.verdicts import Reason
from line_worker.vision import reconstruct
from line_worker.vision.arrays import finite
from line_worker.vision.cells import batch
from line_worker.vision.crop import Box, find_boxes
from line_worker.vision.decide import decide, p_value
from line_worker.vision.deciding import Deciding
from line_worker.vision.deep import Deep
from line_worker.vision.device.batches import TOLERANCE, Batches, sizes_up_to
from line_worker.vision.device.pipeline import Found, Pipeline
from line_worker.vision.rectify import Rectified, Rectifier
from line_worker.vision.runtime import Export, choose, compile_openvino
from line_worker.vision.sanity import measure
from line_worker.vision.score import scores
from line_worker.vision.standard import Standard

Image = NDArray[np.uint8] | NDArray[np.uint16]
Lap = Callable[[str], None]


class Calibrated(Protocol):
    """What an inspection is made from; `line_worker.bundle.Bundle` is one."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Sections rectify, reconstruct, standard and calibration, as the stages wrote them."""
        ...

    @property
    def threshold(self) -> float:
        """The score above which a part fails."""
        ...

    def part(self, prefix: str) -> dict[str, NDArray[Any]]:
        """Return the arrays of one stage."""
        ...


class Inspected(NamedTuple):
    """What became of one image.

    reason: NONE (pass), ANOMALY (fail), or why there is no decision. score, threshold: in the rule's unit; score is
    None when the part was not scored. p_value: the chance that a good part scores this much or more. cells: float32
    (rows, cols), what was compared with the threshold; canonical: (H, W) of the picture that they divide. matrix:
    float64 (2, 3), canonical pixel -> original pixel. allowed: of an anomaly, float32 (rows, cols), the error at which
    each zone alone would fail the part, in the unit of its worst cell's; infinite where nothing is judged.
    """

    reason: Reason
    score: float | None
    threshold: float
    boxes: tuple[Box, ...] = ()
    cells: NDArray[np.float32] | None = None
    canonical: tuple[int, int] = (0, 0)
    matrix: NDArray[np.float64] | None = None
    p_value: float | None = None
    allowed: NDArray[np.float32] | None = None

    @property
    def anomaly(self) -> NDArray[np.float32] | None:
        """`cells` as a canonical picture, float32 (H, W)."""
        if self.cells is None:
            return None
        height, width = self.canonical
        return np.asarray(cv2.resize(self.cells, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


class Judged(NamedTuple):
    """One part's error maps (1, M, rows, cols), what its texture excuses, decision map (1, rows, cols), and score."""

    errors: Tensor
    expected: Tensor | None
    decision: Tensor
    value: float


class Inspection:
    """A method ready to judge; build it with `from_bundle`."""

    def __init__(
        self,
        rectifier: Rectifier,
        reconstructor: reconstruct.Reconstructor,
        standard: Standard,
        device: str = "cpu",
        runtime: str = "torch",
        export: Export = lambda convert: convert(),
    ) -> None:
        self.device = _device(device)
        self.rectifier, self.reconstructor = rectifier, reconstructor
        self.runtime = choose(runtime, self.device)
        self.standard, self.batches = standard, self._batched(standard)
        if self.batches is None:
            if isinstance(reconstructor, nn.Module):
                reconstructor.to(self.device)
            self.standard = standard.to(self.device)
        self.deciding = Deciding(self.standard)
        self._maps = self._compiled(export) if self.runtime == "openvino" else reconstructor

    @classmethod
    def from_bundle(
        cls,
        bundle: Calibrated,
        device: str = "cpu",
        runtime: str = "torch",
        export: Export = lambda convert: convert(),
    ) -> Inspection:
        """Make an inspection of what is in `bundle` on `device` (auto, cpu, cuda, cuda:1, ...).

        runtime: auto, torch, openvino or device; export: where its converter's work may be kept; see runtime.py. Raises
        BundleError when the parts of the bundle do not fit together, ConfigError for a device or a runtime that is not
        here.
        """
        m = bundle.manifest
        try:
            rectifier = Rectifier.from_state(finite(bundle.part("rectify")), m["rectify"])
            reconstructor = reconstruct.load(m["reconstruct"], bundle.part("reconstruct"))
            good = list(m["calibration"]["scores"].values())
            standard = Standard.make(m["standard"], bundle.part("standard"), bundle.threshold, good)
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise BundleError(
                f"the bundle's parts do not fit together ({type(error).__name__}: {error}). "
                "It cannot judge parts; train it again with this version"
            ) from error
        return cls(rectifier, reconstructor, standard, device, runtime, export)

    def inspect(
        self, images: Sequence[Image], lap: Lap | None = None, limits: Sequence[float | None] | None = None
    ) -> list[Inspected]:
        """Judge `images`, each uint8 or uint16, (H, W) or (H, W, 3), and its score against its own of `limits`.

        limits: left out or None: the bundle's own. `lap(stage)` is called as each stage ends.
        """
        lap, own = lap or (lambda _: None), self.standard.threshold
        against = [own if limit is None else limit for limit in limits or [None] * len(images)]
        if self.batches is not None:
            return self._inspect_together(self.batches, images, lap, against)
        parts = [self._checked(image, self.rectifier.rectify(image)) for image in images]
        lap("rectify")
        seen = [part.canonical for part in parts if part.reason is Reason.NONE]
        errors = self._errors(seen)
        lap("reconstruct")
        judged = iter([self._judged(canonical, error) for canonical, error in zip(seen, errors, strict=True)])
        lap("score")
        inspected = [
            self._decided(image, part.matrix, next(judged), limit)
            if part.reason is Reason.NONE
            else self._undecided(part.reason, limit)
            for image, part, limit in zip(images, parts, against, strict=True)
        ]
        lap("decide")
        return inspected

    @property
    def tolerance(self) -> float:
        """How far its scores may lie from a CPU's, as a share of the larger of 1 and the score."""
        return 0.0 if self.batches is None else TOLERANCE

    def empty(self, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return an array for an image, where the device gets at it fastest."""
        return np.empty(shape, dtype) if self.batches is None else self.batches.empty(shape, dtype)

    def sizes(self, largest: int) -> list[int]:
        """Return the sizes of batches that have to be warm before batches of 1 to `largest` images come."""
        return sorted({1, 2, largest}) if self.batches is None else sizes_up_to(largest)

    def _batched(self, standard: Standard) -> Batches | None:
        """Return what takes whole batches through all stages on the device; None where each stage is called alone."""
        if isinstance(self.reconstructor, Deep):
            if self.runtime != "device" and self.device.type == "cpu":
                return None
            return Batches(Pipeline(self.rectifier, self.reconstructor, standard), self.device)
        if self.runtime == "device":
            raise ConfigError("runtime", ["device is for methods on pretrained features; use torch for this bundle"])
        return None

    def _inspect_together(
        self, batches: Batches, images: Sequence[Image], lap: Lap, against: Sequence[float]
    ) -> list[Inspected]:
        fits = [self.rectifier.frame.fits(image) for image in images]
        found = iter(batches.judge([image for image, fit in zip(images, fits, strict=True) if fit], lap))
        inspected = [
            self._told(image, next(found), limit) if fit else self._undecided(Reason.SHAPE, limit)
            for image, fit, limit in zip(images, fits, against, strict=True)
        ]
        lap("decide")
        return inspected

    def _told(self, image: Image, found: Found, limit: float) -> Inspected:
        if found.reason is not Reason.NONE:
            return self._undecided(found.reason, limit)
        judged = Judged(found.errors, found.expected, found.decision, found.score)
        return self._decided(image, found.matrix, judged, limit)

    def _checked(self, image: Image, part: Rectified) -> Rectified:
        """Return `part`, with a reason when the picture is not like those that the station was commissioned with.

        A wrong exposure often hides the part or its pose; it is the cause, and named first.
        """
        if not np.isfinite(part.canonical).all():
            return part._replace(reason=Reason.NONFINITE)
        commissioned = self.standard.commissioned
        if commissioned is None or part.reason is Reason.SHAPE:
            return part
        mask, white = self.rectifier.template_mask, self.rectifier.frame.white
        reason = commissioned.check(measure(image, part.canonical, mask, white))
        return part._replace(reason=reason) if part.reason is Reason.NONE or reason is Reason.EXPOSURE else part

    def _compiled(self, export: Export) -> Callable[[Tensor], Tensor]:
        assert isinstance(self.reconstructor, nn.Module)
        return compile_openvino(self.reconstructor, self.rectifier.frame.channels, self.rectifier.size, export)

    @torch.inference_mode()
    def _errors(self, canonicals: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Return the error maps (1, M, rows, cols) of each canonical image."""
        if not canonicals:
            return []
        step = 1 if self.device.type == "cpu" else len(canonicals)
        chunks = [canonicals[i : i + step] for i in range(0, len(canonicals), step)]
        maps = [self._maps(batch(chunk).to(self.device)) for chunk in chunks]
        return [planes[None] for together in maps for planes in together]

    def _judged(self, canonical: NDArray[np.float32], errors: Tensor) -> Judged:
        expected = None
        if self.standard.adaptive is not None:
            expected = self.standard.expected(batch([canonical]).to(self.device))
        decision = self.deciding(errors, expected)
        return Judged(errors, expected, decision, float(scores(decision)))

    def _decided(self, image: Image, matrix: NDArray[np.float64], judged: Judged, limit: float) -> Inspected:
        errors, expected, decision, value = judged
        standard = self.standard
        cells, canonical = decision[0].cpu().numpy(), self.rectifier.size
        reason = decide(value, limit)
        if reason is Reason.NONFINITE or not (np.isfinite(cells).all() and bool(torch.isfinite(errors).all())):
            return Inspected(Reason.NONFINITE, None, limit, matrix=matrix)
        boxes: tuple[Box, ...] = ()
        allowed: NDArray[np.float32] | None = None
        if reason is Reason.ANOMALY:
            explain, frame = self.deciding.explained(errors, expected, limit), (image.shape[0], image.shape[1])
            boxes = find_boxes(cells, explain, limit, matrix, canonical, frame)
            allowed = self.deciding.allowed(errors, expected, limit)
        p = p_value(value, standard.good) if standard.good else None
        return Inspected(reason, value, limit, boxes, cells, canonical, matrix, p, allowed)

    def _undecided(self, reason: Reason, limit: float) -> Inspected:
        return Inspected(reason, None, limit, matrix=None)


def _device(name: str) -> torch.device:
    """Return the device; raises ConfigError when it is not one of this machine's."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError("device", [f"{name!r} is not available here ({first}); use auto or cpu"]) from error
