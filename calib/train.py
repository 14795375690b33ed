"""Train: a folder of good images becomes a bundle with its report.

read -> learn the pose -> straighten -> train the autoencoder, five fold models and the final one -> statistics and
limit from images that the models had not seen -> golden images -> report -> bundle, written whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib import autoencoder, calibration, dataset, report
from calib.calibration import Calibration
from calib.dataset import Dataset
from line_worker.bundle import Arrays, Bundle, Golden, check_place, write_bundle
from line_worker.errors import ConfigError, DatasetError
from line_worker.images import encode_png
from line_worker.verdicts import Reason
from line_worker.vision import reconstruct
from line_worker.vision.decide import Limit
from line_worker.vision.inspection import Inspection
from line_worker.vision.reconstruct import Classic, Preparation
from line_worker.vision.rectify import Rectified, Rectifier
from line_worker.vision.score import RULES

CHOICES: dict[str, tuple[str, ...]] = {
    "locate": ("background", "full"),
    "pose": ("none", "translate", "rigid"),
    "reconstruct": tuple(reconstruct.METHODS),
    "rule": RULES,
}
NETWORK_SHARE = 0.60  # of the time allowed, at the nominal speed: pose, scoring and a slower hour need the rest
DEADLINE_SHARE = 0.82  # of the time allowed, after which networks stop
DARK, BRIGHT = 0.1, 99.9  # percentiles of the good parts' pixels that set the autoencoder's range
SAMPLED = 64  # images they are taken from
GOLDEN = 5

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class TrainOptions:
    """What `train` is asked for; `steps` and `pixels` override what `minutes` would give (for tests and the demo)."""

    good: Path
    out: Path
    locate: str = "background"
    pose: str = "rigid"
    reconstruct: str = "classic"
    rule: str = "zone"
    false_reject: float = 0.02
    minutes: float = 8.0
    seed: int = 0
    threads: int = 2
    steps: int | None = None
    pixels: int | None = None

    def problems(self) -> list[str]:
        """Return what is wrong, one line each."""
        wrong = [
            f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}"
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        if not 0 < self.false_reject < 0.5:
            wrong.append(f"false_reject {self.false_reject} is not a share between 0 and 0.5")
        if not self.minutes > 0:
            wrong.append(f"minutes {self.minutes} is not more than 0")
        if self.threads < 1:
            wrong.append(f"threads {self.threads} is not at least 1")
        return wrong


class TrainResult(NamedTuple):
    """What training gave; `undecided` are good images the bundle gives no verdict on, `cut`: the time ran short."""

    bundle: Bundle
    limit: Limit
    images: int
    undecided: dict[str, str]
    suspicious: list[tuple[str, float]]  # good images above the limit, worst first, with their scores
    steps: int
    cut: bool
    seconds: float


class Straightened(NamedTuple):
    """The good images as the network sees them; indices are into the dataset."""

    usable: list[int]
    canonicals: list[NDArray[np.float32]]
    undecided: dict[str, str]


def train(options: TrainOptions, progress: Progress = lambda stage, share: None) -> TrainResult:
    """Learn from the good images and write the bundle; `progress(stage, share)` is told how far each stage is.

    Raises ConfigError for options, DatasetError for images, BundleError for a place that must not be overwritten.
    """
    started = time.monotonic()
    if options.problems():
        raise ConfigError("train", options.problems())
    check_place(options.out)
    data = dataset.load(options.good, options.threads, lambda share: progress("read images", share))
    rectifier = Rectifier.learn(
        data.images,
        locate=options.locate,  # type: ignore[arg-type]  # checked above
        pose=options.pose,  # type: ignore[arg-type]
        names=data.names,
        progress=lambda share: progress("learn the pose", share),
    )
    straight = _straighten(rectifier, data, lambda share: progress("straighten", share))
    stages, folds, trained, prepared = _train_networks(options, rectifier, straight, started, progress)
    final, calibrated = _calibrate(options, stages, folds, prepared)
    progress("find the limit", 1.0)
    inspection = Inspection(rectifier, final, calibrated.zones, calibrated.rule, calibrated.limit.threshold)
    golden = _golden(inspection, data, straight, calibrated)
    sections = _sections(options, data, rectifier, final, calibrated, straight, trained)
    page = _report(options, data, rectifier, straight, calibrated, sections)
    progress("report", 1.0)
    arrays = _arrays(rectifier, final, calibrated)
    bundle = write_bundle(options.out, sections, arrays, golden, page)
    return _result(bundle, data, calibrated, straight, trained, time.monotonic() - started)


def _straighten(rectifier: Rectifier, data: Dataset, progress: Callable[[float], None]) -> Straightened:
    """Return the canonical pictures of the good images that can be judged; raises DatasetError when too few can."""
    parts: list[Rectified] = []
    for image in data.images:
        parts.append(rectifier.rectify(image))
        progress(len(parts) / len(data.images))
    usable = [i for i, part in enumerate(parts) if part.reason is Reason.NONE]
    undecided = {data.names[i]: part.reason.name for i, part in enumerate(parts) if part.reason is not Reason.NONE}
    if len(usable) < dataset.MINIMUM:
        raise DatasetError(
            f"{data.folder}: only {len(usable)} of {len(parts)} images show a part as the others do "
            f"({', '.join(f'{name}: {reason}' for name, reason in list(undecided.items())[:5])}, ...). Nothing was "
            "learned; check lighting and background, or try --pose none, or --locate full for texture"
        )
    return Straightened(usable, [parts[i].canonical for i in usable], undecided)


def _train_networks(
    options: TrainOptions, rectifier: Rectifier, straight: Straightened, started: float, progress: Progress
) -> tuple[list[Classic], list[Tensor], autoencoder.Trained, Tensor]:
    """Return a stage for each fold and, last, the final one, with the folds and the images on the working grid."""
    count = len(straight.usable)
    seconds = 60 * options.minutes
    plan = autoencoder.plan(NETWORK_SHARE * seconds, calibration.FOLDS + 1, options.threads)
    plan = autoencoder.Plan(options.steps or plan.steps, options.pixels or plan.pixels)
    preparation = _preparation(rectifier, straight.canonicals, plan.pixels)
    prepared = _prepared(preparation, straight.canonicals)
    folds = calibration.split(count, options.seed)
    fits = [calibration.rest(fold, count) for fold in folds] + [torch.arange(count)]
    trained = autoencoder.train_together(
        prepared,
        preparation.visible,
        fits,
        plan.steps,
        options.seed,
        deadline=started + DEADLINE_SHARE * seconds,
        threads=options.threads,
        progress=lambda share: progress("train", share),
    )
    stages = [Classic(preparation, reconstruct.fold(net), rectifier.template_mask).eval() for net in trained.nets]
    return stages, folds, trained, prepared


def _preparation(rectifier: Rectifier, canonicals: Sequence[NDArray[np.float32]], pixels: int) -> Preparation:
    """Return the way to the working grid, its range set by the good parts' own darkest and brightest pixels."""
    sample = np.stack(canonicals[:: -(-len(canonicals) // SAMPLED)])[:, rectifier.template_mask]
    low, high = (float(value) for value in np.percentile(sample, [DARK, BRIGHT]))
    size = reconstruct.working_size(*rectifier.size, pixels)
    return Preparation(size, low, max(high, low + 1e-3), torch.from_numpy(rectifier.template_mask)).eval()


@torch.inference_mode()
def _prepared(preparation: Preparation, canonicals: Sequence[NDArray[np.float32]]) -> Tensor:
    """Return the images on the working grid, one at a time so that each is what the line will see."""
    return torch.cat([preparation(reconstruct.batch([canonical])) for canonical in canonicals])


def _calibrate(
    options: TrainOptions, stages: Sequence[Classic], folds: Sequence[Tensor], prepared: Tensor
) -> tuple[Classic, Calibration]:
    """Return the final stage, its error weights set, and the calibration from the fold models."""
    final = stages[-1]
    both = calibration.out_of_fold(stages, folds, prepared, options.threads)
    final.weights.copy_(calibration.usual_weights(both, final.mask))
    return final, calibration.calibrate(final.combine(both), final.mask, options.rule, options.false_reject)


def _golden(inspection: Inspection, data: Dataset, straight: Straightened, calibrated: Calibration) -> list[Golden]:
    """Return a handful of good images from the least to the most unusual, and one without a verdict if there is any."""
    order = np.argsort(calibrated.scores)
    chosen = [straight.usable[order[round(q)]] for q in np.linspace(0, len(order) - 1, GOLDEN)]
    chosen += [data.names.index(name) for name in list(straight.undecided)[:1]]
    goldens = []
    for number, index in enumerate(chosen):
        judged = inspection.inspect([data.images[index]])[0]
        name = f"{number}_{Path(data.names[index]).stem}.png"
        goldens.append(Golden(name, encode_png(data.images[index]), judged.reason, judged.score))
    return goldens


def _sections(
    options: TrainOptions,
    data: Dataset,
    rectifier: Rectifier,
    final: Classic,
    calibrated: Calibration,
    straight: Straightened,
    trained: autoencoder.Trained,
) -> dict[str, Any]:
    """Return the manifest's sections."""
    settings = {name: value for name, value in asdict(options).items() if name not in ("good", "out")}
    image = data.images[0]
    names = [data.names[i] for i in straight.usable]
    return {
        "settings": settings,
        "input": {"shape": list(image.shape), "dtype": str(image.dtype)},
        "rectify": rectifier.meta(),
        "reconstruct": final.meta(),
        "rule": calibrated.rule._asdict(),
        "threshold": calibrated.limit.threshold,
        "calibration": {
            "limit": calibrated.limit._asdict(),
            "scores": dict(zip(names, calibrated.scores, strict=True)),
            "undecided": straight.undecided,
            "folds": calibration.FOLDS,
            "steps": trained.steps,
            "cut": trained.cut,
        },
    }


def _report(
    options: TrainOptions,
    data: Dataset,
    rectifier: Rectifier,
    straight: Straightened,
    calibrated: Calibration,
    sections: dict[str, Any],
) -> str:
    names = [data.names[i] for i in straight.usable]
    return report.render(
        report.Learned(sections, names, straight.canonicals, rectifier.mean, calibrated, options.out.stem)
    )


def _arrays(rectifier: Rectifier, final: Classic, calibrated: Calibration) -> Arrays:
    parts = {"rectify": rectifier.state(), "reconstruct": final.state(), "zones": calibrated.zones.state()}
    return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}


def _result(
    bundle: Bundle,
    data: Dataset,
    calibrated: Calibration,
    straight: Straightened,
    trained: autoencoder.Trained,
    seconds: float,
) -> TrainResult:
    scored = zip((data.names[i] for i in straight.usable), calibrated.scores, strict=True)
    above = sorted((pair for pair in scored if pair[1] > calibrated.limit.threshold), key=lambda pair: -pair[1])
    return TrainResult(
        bundle, calibrated.limit, len(data.images), straight.undecided, above, trained.steps, trained.cut, seconds
    )
