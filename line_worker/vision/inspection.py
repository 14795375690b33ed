"""Inspection: the method on one page. An image becomes a verdict with its evidence.

locate and rectify   where the part lies; its picture in canonical pose, background divided out
reconstruct          what a network that knows good parts only cannot draw again: an error per cell
score                how unusual that error is for its zone of the part
decide               the largest deviation against the limit from good parts
crop                 boxes in the original image, with the figures that led to them

What is calibrated comes from a bundle. On a CPU every image goes through alone, so that a score never depends, not even
in its last bit, on which other images were in hand; on other devices batches agree within their arithmetic.
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
from line_worker.vision import reconstruct, score
from line_worker.vision.crop import Box, Evidence, find_boxes
from line_worker.vision.decide import decide
from line_worker.vision.rectify import Rectified, Rectifier
from line_worker.vision.score import Rule, Zones

Image = NDArray[np.uint8] | NDArray[np.uint16]
Lap = Callable[[str], None]


class Calibrated(Protocol):
    """What an inspection is made from; `line_worker.bundle.Bundle` is one."""

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Sections rectify, reconstruct and rule, as the stages wrote them."""
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
    None when the part was not scored. anomaly: float32 (H, W), canonical, what was compared with the threshold.
    matrix: float64 (2, 3), canonical pixel -> original pixel.
    """

    reason: Reason
    score: float | None
    threshold: float
    boxes: tuple[Box, ...] = ()
    anomaly: NDArray[np.float32] | None = None
    matrix: NDArray[np.float64] | None = None


class Inspection:
    """A method ready to judge; build it with `from_bundle`."""

    def __init__(
        self,
        rectifier: Rectifier,
        reconstructor: reconstruct.Reconstructor,
        zones: Zones,
        rule: Rule,
        threshold: float,
        device: str = "cpu",
    ) -> None:
        self.device = _device(device)
        self.rectifier, self.rule, self.threshold = rectifier, rule, threshold
        self.reconstructor = reconstructor
        if isinstance(reconstructor, nn.Module):
            reconstructor.to(self.device)
        self.zones = zones.to(self.device)

    @classmethod
    def from_bundle(cls, bundle: Calibrated, device: str = "cpu") -> Inspection:
        """Make an inspection of what is in `bundle` on `device` (auto, cpu, cuda, cuda:1, ...).

        Raises BundleError when the parts of the bundle do not fit together, ConfigError for a device that is not here.
        """
        m = bundle.manifest
        try:
            rectifier = Rectifier.from_state(bundle.part("rectify"), m["rectify"])
            reconstructor = reconstruct.load(m["reconstruct"], bundle.part("reconstruct"))
            zones, rule = Zones.make(bundle.part("zones")), Rule(**m["rule"])
        except (KeyError, ValueError, TypeError, RuntimeError) as error:
            raise BundleError(
                f"the bundle's parts do not fit together ({type(error).__name__}: {error}). "
                "It cannot judge parts; train it again with this version"
            ) from error
        return cls(rectifier, reconstructor, zones, rule, bundle.threshold, device)

    def inspect(self, images: Sequence[Image], lap: Lap | None = None) -> list[Inspected]:
        """Judge `images`, each uint8 or uint16, (H, W) or (H, W, 3). `lap(stage)` is called as each stage ends."""
        lap = lap or (lambda _: None)
        parts = [self.rectifier.rectify(image) for image in images]
        lap("rectify")
        errors = self._errors([part.canonical for part in parts if part.reason is Reason.NONE])
        lap("reconstruct")
        decisions = [score.decision_map(error, self.zones, self.rule) for error in errors]
        scores = [float(score.scores(decision)) for decision in decisions]
        lap("score")
        judged = zip(errors, decisions, scores, strict=True)
        inspected = [
            self._judged(image, part, *next(judged)) if part.reason is Reason.NONE else self._undecided(part)
            for image, part in zip(images, parts, strict=True)
        ]
        lap("decide")
        return inspected

    @torch.inference_mode()
    def _errors(self, canonicals: Sequence[NDArray[np.float32]]) -> list[Tensor]:
        """Return the error map (1, rows, cols) of each canonical image."""
        if not canonicals:
            return []
        step = 1 if self.device.type == "cpu" else len(canonicals)
        chunks = [canonicals[i : i + step] for i in range(0, len(canonicals), step)]
        maps = [self.reconstructor(reconstruct.batch(chunk).to(self.device)) for chunk in chunks]
        return [plane[None] for together in maps for plane in together]

    def _judged(self, image: Image, part: Rectified, error: Tensor, decision: Tensor, value: float) -> Inspected:
        reason = decide(value, self.threshold)
        if reason is Reason.NONFINITE or not bool(torch.isfinite(error).all()):
            return Inspected(Reason.NONFINITE, None, self.threshold, matrix=part.matrix)
        boxes = self._boxes(image, part, error, decision) if reason is Reason.ANOMALY else ()
        size = part.canonical.shape[1], part.canonical.shape[0]
        anomaly = cv2.resize(decision[0].cpu().numpy(), size, interpolation=cv2.INTER_LINEAR)
        return Inspected(reason, value, self.threshold, boxes, anomaly, part.matrix)

    def _boxes(self, image: Image, part: Rectified, error: Tensor, decision: Tensor) -> tuple[Box, ...]:
        around = score.neighbours(error, self.zones.mask, self.rule.radius)
        sigma = score.standardise(error, self.zones)
        limit = self.zones.limit(self.threshold)[None]
        evidence = Evidence(*(plane[0].cpu().numpy() for plane in (decision, error, around, limit, sigma)))
        shape = part.canonical.shape
        return find_boxes(evidence, self.threshold, part.matrix, (shape[0], shape[1]), (image.shape[0], image.shape[1]))

    def _undecided(self, part: Rectified) -> Inspected:
        return Inspected(part.reason, None, self.threshold, matrix=None)


def _device(name: str) -> torch.device:
    """Return the device; raises ConfigError when it is not one of this machine's."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError("device", [f"{name!r} is not available here ({first}); use auto or cpu"]) from error
