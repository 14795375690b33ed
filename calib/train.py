"""Train: a folder of good images becomes a bundle with its report.

read -> choose and learn the pose -> straighten -> fit the method, several times without some of the images and once
with all -> statistics and limit from images that the models had not seen -> painted defects and, where there are any,
bad parts -> golden images -> report -> bundle, written whole or not at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from calib import bad, calibration, choosing, classic, dataset, deep, zoning
from calib import power as painted
from calib import report as page
from calib.choosing import Chosen
from calib.dataset import Dataset
from calib.fitting import Fitted, Settings
from calib.head import Taught, learn_head
from calib.learned import Learned, Straightened
from calib.masks import read_masks
from calib.options import TrainOptions
from calib.power import Power
from calib.schedule import workers
from calib.zoning import Drawn
from line_worker.bundle import Bundle, check_place, write_bundle
from line_worker.errors import DatasetError
from line_worker.verdicts import Reason
from line_worker.vision import sanity
from line_worker.vision.cells import batch
from line_worker.vision.decide import Limit
from line_worker.vision.rectify import Rectified, Rectifier
from line_worker.vision.sanity import Commissioned
from line_worker.vision.score import scores
from line_worker.vision.standard import Standard

NETWORK_SHARE = 0.50  # of the time allowed, at the nominal speed: all else and a slower hour need the rest
DEADLINE_SHARE = 0.85  # of the time allowed, after which networks stop
DARK, BRIGHT = 0.5, 99.5  # percentiles of good parts' pixels between which defects are painted

Progress = Callable[[str, float], None]


class TrainResult(NamedTuple):
    """What training gave; `undecided` are good images the bundle gives no verdict on, `cut`: the time ran short."""

    bundle: Bundle
    limit: Limit
    images: int
    undecided: dict[str, str]
    suspicious: list[tuple[str, float]]  # good images above the limit, worst first, with their scores
    notes: tuple[str, ...]
    power: Power | None
    steps: int
    cut: bool
    seconds: float


def train(options: TrainOptions, progress: Progress = lambda stage, share: None) -> TrainResult:
    """Learn from the good images and write the bundle; `progress(stage, share)` is told how far each stage is.

    Raises ConfigError for options, DatasetError for images, BundleError for a place that must not be overwritten.
    """
    started = time.monotonic()
    options.check()
    if options.zones is not None:
        zoning.read_labels(options.zones, options.zone)
    if options.bad is not None:
        bad.find(options.bad)
    check_place(options.out)
    learned = learn(options, started, progress)
    inspection = learned.inspection()
    bundle = write_bundle(
        options.out, learned.sections(), learned.arrays(), learned.golden(inspection), page.render(learned)
    )
    progress("report", 1.0)
    return result(learned, bundle, time.monotonic() - started)


def learn(options: TrainOptions, started: float, progress: Progress) -> Learned:
    """Return everything that is learned from the good images."""

    def tell(stage: str) -> Callable[[float], None]:
        return lambda share: progress(stage, share)

    data = dataset.load(options.good, options.threads, tell("read images"), options.exclude)
    taught = _taught(options, data, progress)
    chosen = choosing.choose(data.images, data.names, options.locate, options.pose, tell("learn the pose"), taught)
    straight, commissioned = straighten(chosen.rectifier, data, tell("straighten"))
    fitted = _fit(options, chosen.rectifier, straight, started, progress)
    drawn = None if options.zones is None else zoning.read(options.zones, options.zone, fitted.final.mask)
    return finish(options, data, chosen, straight, fitted, commissioned, drawn, progress)


def _taught(options: TrainOptions, data: Dataset, progress: Progress) -> Taught | None:
    """Return the network that finds the part, None when its background does or nothing has to."""
    if options.locate != "head" and options.masks is None:
        return None
    masks = None
    if options.masks is not None:
        masks = read_masks(options.masks, data, lambda share: progress("read masks", share))
    return learn_head(
        data.images,
        data.names,
        masks,
        options.seed,
        options.threads,
        lambda share: progress("learn to find the part", share),
    )


def finish(
    options: TrainOptions,
    data: Dataset,
    chosen: Chosen,
    straight: Straightened,
    fitted: Fitted,
    commissioned: Commissioned,
    drawn: Drawn | None,
    progress: Progress,
) -> Learned:
    """Return what follows from a fitted method: limit, power, and how it judges the user's bad parts."""

    def tell(stage: str) -> Callable[[float], None]:
        return lambda share: progress(stage, share)

    calibrated = calibration.calibrate(fitted, straight.canonicals, options.rule, options.false_reject, drawn)
    progress("find the limit", 1.0)
    standard = Standard(
        calibrated.zones,
        calibrated.rule,
        calibrated.limit.threshold,
        sorted(calibrated.scores),
        calibrated.adaptive,
        commissioned,
    )
    found = _power(options, chosen.rectifier, straight, fitted, standard, tell("paint defects"))
    learned = Learned(options, data, chosen, straight, fitted, calibrated, standard, drawn, found, None)
    if options.bad is None:
        return learned
    return learned._replace(bad=bad.judge(options.bad, learned.inspection(), tell("judge bad parts")))


def straighten(
    rectifier: Rectifier, data: Dataset, progress: Callable[[float], None]
) -> tuple[Straightened, Commissioned]:
    """Return the canonical pictures of the good images that can be judged, and what such pictures are like.

    Raises DatasetError when too few can be judged.
    """
    parts: list[Rectified] = []
    measures = []
    for image in data.images:
        parts.append(rectifier.rectify(image))
        if parts[-1].reason is Reason.NONE:
            canonical, mask = parts[-1].canonical, rectifier.template_mask
            measures.append(sanity.measure(image, canonical, mask, rectifier.frame.white))
        progress(len(parts) / len(data.images))
    usable = [i for i, part in enumerate(parts) if part.reason is Reason.NONE]
    undecided = {data.names[i]: part.reason.name for i, part in enumerate(parts) if part.reason is not Reason.NONE}
    if len(usable) < dataset.MINIMUM:
        raise DatasetError(
            f"{data.folder}: only {len(usable)} of {len(parts)} images show a part as the others do "
            f"({', '.join(f'{name}: {reason}' for name, reason in list(undecided.items())[:5])}, ...). Nothing was "
            "learned; check lighting and background, or try --pose none, or --locate full for texture"
        )
    straight = Straightened(usable, [parts[i].canonical for i in usable], undecided)
    return straight, Commissioned.of(measures)


def _fit(
    options: TrainOptions, rectifier: Rectifier, straight: Straightened, started: float, progress: Progress
) -> Fitted:
    seconds = 60 * options.minutes
    settings = Settings(
        options.method,
        options.seed,
        options.threads,
        started + DEADLINE_SHARE * seconds,
        NETWORK_SHARE * seconds,
        options.steps,
        options.pixels,
        options.backbone,
        options.attention,
        progress,
    )
    fit = classic.fit if options.method == "classic" else deep.fit
    return fit(settings, straight.canonicals, rectifier.template_mask)


def _power(
    options: TrainOptions,
    rectifier: Rectifier,
    straight: Straightened,
    fitted: Fitted,
    standard: Standard,
    progress: Callable[[float], None],
) -> Power | None:
    """Return how often painted defects are found on pictures that the model judging them has not seen."""
    if not options.repeats:
        return None

    @torch.inference_mode()
    def one(canonical: NDArray[np.float32]) -> float:
        picture = batch([canonical])
        return float(scores(standard.decisions(fitted.apart(picture), standard.expected(picture))))

    def judge(canonicals: Sequence[NDArray[np.float32]]) -> list[float]:
        with workers(options.threads) as pool:
            return list(pool.map(one, canonicals))

    unseen = [straight.canonicals[i] for i in fitted.held_out.tolist()]
    dice = np.random.default_rng(options.seed)
    return painted.power(
        judge,
        unseen,
        rectifier.template_mask,
        span(rectifier),
        standard.threshold,
        dice,
        options.repeats,
        scale=rectifier.scale,
        progress=progress,
    )


def span(rectifier: Rectifier) -> tuple[float, float]:
    """Return the darkest and brightest that good parts usually are, in canonical values."""
    low, high = np.percentile(rectifier.mean[rectifier.template_mask], [DARK, BRIGHT])
    return float(low), float(max(high, low + 0.05))


def result(learned: Learned, bundle: Bundle, seconds: float) -> TrainResult:
    """Return what the user is told of it."""
    calibrated, fitted, straight = learned.calibrated, learned.fitted, learned.straight
    limit = calibrated.limit
    scored = zip(learned.names, calibrated.scores, strict=True)
    above = sorted((pair for pair in scored if pair[1] > limit.threshold), key=lambda pair: -pair[1])
    notes = tuple(bundle.manifest["calibration"]["notes"])
    images = len(learned.data.images)
    return TrainResult(
        bundle, limit, images, straight.undecided, above, notes, learned.power, fitted.steps, fitted.cut, seconds
    )
