"""Accuracy on a category in MVTec AD's layout: how well good and bad parts, and their pixels, are told apart.

judge        test images, and good images that training has not seen, one by one as on the line
figures_of   what these judgements amount to
accuracy     both; `bench.splits` does it for many bundles

The bundle's own threshold decides, as on the line; a part without a decision is a reject. Image scores and maps are
judged beside it without any threshold. Nothing here is chosen by looking at the test images.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from bench import metrics
from line_worker.bundle import Bundle
from line_worker.errors import DatasetError
from line_worker.images import IMAGE_SUFFIXES, read_image
from line_worker.selftest import self_tested
from line_worker.verdicts import Reason
from line_worker.vision.crop import to_original
from line_worker.vision.inspection import Inspected, Inspection

LONG_SIDE = 512  # of the original frame, in which maps are compared with the ground truth
COMPARED = {"segmented and aligned": ("background", "rigid"), "whole frame": ("full", "none")}

Progress = Callable[[str, float], None]
Mask = NDArray[np.bool_]


class Sample(NamedTuple):
    """A test image: where it is, its defect ("" when good), and its ground truth mask if there is one."""

    path: Path
    defect: str
    mask: Path | None


class Judgement(NamedTuple):
    """What the bundle said of a sample; map and truth are at most LONG_SIDE large, in the original frame."""

    sample: Sample
    score: float  # infinite when there was no decision
    rejected: bool
    undecided: bool
    ms: dict[str, float]  # of each stage
    plane: NDArray[np.float32] | None
    truth: Mask


def samples(category: Path) -> list[Sample]:
    """Return the test images of `category`; raises DatasetError unless there are good and bad ones."""
    found = list(_samples(category))
    if not any(s.defect for s in found) or all(s.defect for s in found):
        raise DatasetError(
            f"{category}: needs test/good and test/DEFECT with images, as MVTec AD has them. Nothing was measured"
        )
    return found


def _samples(category: Path) -> Iterator[Sample]:
    for path in sorted((category / "test").glob("*/*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        kind = path.parent.name
        mask = category / "ground_truth" / kind / f"{path.stem}_mask.png"
        yield Sample(path, "" if kind == "good" else kind, mask if mask.is_file() else None)


def accuracy(
    bundle: Bundle,
    category: Path,
    device: str = "cpu",
    progress: Progress = lambda stage, share: None,
    held_out: Sequence[Path] = (),
) -> dict[str, Any]:
    """Judge the test images of `category`, and good images that were held out of training, with `bundle`.

    Returns the figures of `figures_of`, with the bundle's sha under bundle, ready for JSON.
    """
    inspection = self_tested(bundle, device)
    todo = samples(category)
    unseen = [Sample(path, "", None) for path in held_out]
    judged = judge(inspection, [*todo, *unseen], progress)
    tested, apart = judged[: len(todo)], judged[len(todo) :]
    crossed = np.array(list(bundle.manifest["calibration"]["scores"].values()))
    return {**figures_of(tested, apart, crossed), "bundle": bundle.sha}


def judge(inspection: Inspection, todo: Sequence[Sample], progress: Progress) -> list[Judgement]:
    """Judge each sample alone, after one for warming up."""
    inspection.inspect([read_image(todo[0].path)])
    judged = []
    for sample in todo:
        judged.append(_judge(inspection, sample))
        progress("inspect", len(judged) / len(todo))
    return judged


def figures_of(
    tested: Sequence[Judgement], held_out: Sequence[Judgement], crossed: NDArray[np.float64]
) -> dict[str, Any]:
    """Return the figures of test images, ready for JSON.

    image_auroc, pixel_auroc, au_pro: threshold-free; the pixel figures are None without ground truth. accuracy,
    false_reject, escape: at the bundle's threshold, shares. auroc_heldout_good: `held_out` good images against the bad
    test images, or without any the cross-fitted scores of the training images, `crossed`. false_reject_heldout: share
    of `held_out` that is rejected, None without any. ms_per_part: median from pixels to verdict; ms_STAGE: of a stage
    of it. undecided, images: of the test images. per_defect: images, escape and AUROC of each kind.
    """
    good, bad = [j for j in tested if not j.sample.defect], [j for j in tested if j.sample.defect]
    return {
        "image_auroc": metrics.auroc(_scores(good), _scores(bad)),
        **_pixel_figures(tested),
        "accuracy": float(np.mean([j.rejected == bool(j.sample.defect) for j in tested])),
        "false_reject": float(np.mean([j.rejected for j in good])),
        "escape": float(np.mean([not j.rejected for j in bad])),
        "auroc_heldout_good": metrics.auroc(_scores(held_out) if held_out else crossed, _scores(bad)),
        "false_reject_heldout": float(np.mean([j.rejected for j in held_out])) if held_out else None,
        "ms_per_part": float(np.median([sum(j.ms.values()) for j in tested])),
        **_stages(tested),
        "undecided": sum(j.undecided for j in tested),
        "images": len(tested),
        "per_defect": {defect: _of_defect(defect, good, bad) for defect in sorted({j.sample.defect for j in bad})},
    }


def compare(
    category: Path, minutes: float | None, threads: int, seed: int, device: str, progress: Progress
) -> dict[str, dict[str, Any]]:
    """Train the classic method with and without segmentation and return the figures of both, by name."""
    from calib.options import TrainOptions
    from calib.train import train

    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (locate, pose)) in enumerate(COMPARED.items()):
            place = Path(folder) / f"{number}.bundle"
            options = TrainOptions(category, place, locate, pose, "classic", threads=threads, seed=seed)
            options = options if minutes is None else replace(options, minutes=minutes)
            trained = train(options, lambda stage, share, name=name: progress(f"{name}: {stage}", share))  # type: ignore[misc]
            figures[name] = accuracy(trained.bundle, category, device, progress)
    return figures


def _judge(inspection: Inspection, sample: Sample) -> Judgement:
    image = read_image(sample.path)
    marks = [("", time.perf_counter())]
    inspected = inspection.inspect([image], lambda stage: marks.append((stage, time.perf_counter())))[0]
    ms = {stage: 1e3 * (mark - before) for (_, before), (stage, mark) in pairwise(marks)}
    scale = min(1.0, LONG_SIDE / max(image.shape[:2]))
    size = round(image.shape[0] * scale), round(image.shape[1] * scale)
    undecided = inspected.score is None
    score = float("inf") if inspected.score is None else inspected.score
    rejected = inspected.reason is not Reason.NONE
    return Judgement(sample, score, rejected, undecided, ms, _plane(inspected, scale, size), _truth(sample, size))


def _plane(inspected: Inspected, scale: float, size: tuple[int, int]) -> NDArray[np.float32] | None:
    """Return the anomaly map in the original frame scaled by `scale`, its lowest value where the part is not."""
    if inspected.anomaly is None or inspected.matrix is None:
        return None
    matrix = inspected.matrix * scale
    matrix[:, 2] += (scale - 1) / 2  # pixel centres are at whole numbers
    return to_original(inspected.anomaly, matrix, size, float(inspected.anomaly.min()))


def _truth(sample: Sample, size: tuple[int, int]) -> Mask:
    """Return which pixels are defective, (H, W) of `size`."""
    if sample.mask is None:
        return np.zeros(size, np.bool_)
    mask = read_image(sample.mask)
    plane = (mask.max(2) if mask.ndim == 3 else mask) > 0
    return np.asarray(cv2.resize(plane.astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA) > 127)


def _pixel_figures(judged: Sequence[Judgement]) -> dict[str, float | None]:
    """Return the pixel metrics over images with a map and, when they are bad, a ground truth."""
    usable = [j for j in judged if j.plane is not None and (j.truth.any() or not j.sample.defect)]
    if not any(j.truth.any() for j in usable):
        return {"pixel_auroc": None, "au_pro": None}
    maps, truths = [j.plane for j in usable if j.plane is not None], [j.truth for j in usable]
    return {"pixel_auroc": metrics.pixel_auroc(maps, truths), "au_pro": metrics.au_pro(maps, truths)}


def _stages(judged: Sequence[Judgement]) -> dict[str, float]:
    """Return the median of each stage; a picture of another size goes through none on a device."""
    names = {stage: None for j in judged for stage in j.ms}
    return {f"ms_{stage}": float(np.median([j.ms[stage] for j in judged if stage in j.ms])) for stage in names}


def _of_defect(defect: str, good: Sequence[Judgement], bad: Sequence[Judgement]) -> dict[str, float | int]:
    these = [j for j in bad if j.sample.defect == defect]
    escape = float(np.mean([not j.rejected for j in these]))
    return {"images": len(these), "escape": escape, "auroc": metrics.auroc(_scores(good), _scores(these))}


def _scores(judged: Sequence[Judgement]) -> NDArray[np.float64]:
    return np.array([j.score for j in judged])
