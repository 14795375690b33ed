"""Recalibrate: new statistics and a new limit from new good images, with the weights as they are.

For a line whose light or supplier has changed a little: nothing is trained, so it takes as long as judging the images.
The images must be ones that the bundle was not trained on, or the limit would be too low; names that it knows are said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calib import dataset
from calib import report as page
from calib.choosing import Chosen
from calib.fitting import Fitted
from calib.options import TrainOptions
from calib.train import Progress, TrainResult, finish, result, straighten
from calib.zoning import Drawn
from line_worker.bundle import Bundle, check_place, write_bundle
from line_worker.errors import DatasetError
from line_worker.vision import reconstruct
from line_worker.vision.cells import batch
from line_worker.vision.rectify import Rectifier


def recalibrate(
    bundle: Bundle,
    good: Path,
    out: Path,
    false_reject: float | None = None,
    progress: Progress = lambda stage, share: None,
) -> TrainResult:
    """Write a bundle to `out` with the weights of `bundle` and the limit that the images in `good` set.

    false_reject: as in training, by default what the bundle was made with. Raises DatasetError for images that are not
    like those of the bundle, too few, or all known to it already; BundleError for a place that must not be overwritten.
    """
    started = time.monotonic()
    options = _options(bundle, good, out, false_reject)
    options.check()
    check_place(out)
    data = dataset.load(good, options.threads, lambda share: progress("read images", share))
    known = set(bundle.manifest["calibration"]["scores"]) & set(data.names)
    if len(known) == len(data.names):
        raise DatasetError(
            f"{good}: every image bears the name of one that the bundle learned from, so the limit would be too low. "
            "Nothing was written; give images taken since"
        )
    rectifier = Rectifier.from_state(bundle.part("rectify"), bundle.manifest["rectify"])
    straight, commissioned = straighten(rectifier, data, lambda share: progress("straighten", share))
    final = reconstruct.load(bundle.manifest["reconstruct"], bundle.part("reconstruct"))
    errors = _errors(final, straight.canonicals, lambda share: progress("judge", share))
    flat = tuple(bundle.manifest["calibration"]["flat"])
    made = bundle.manifest["calibration"]
    why = [f"Recalibrated on {len(data.names)} images; weights of bundle {bundle.sha[:12]}, which are unchanged."]
    if known:
        why.append(f"{len(known)} of them bear names that it had learned from: expect a limit that is a little low.")
    fitted = Fitted(
        final, final, torch.arange(len(errors)), errors, flat, made["steps"], made["cut"], tuple(made["notes"])
    )
    settings = bundle.settings
    chosen = Chosen(rectifier, settings["locate"], settings["pose"], tuple(why))
    zone = bundle.part("drawn").get("zone")
    drawn = None if zone is None else Drawn.of(zone, made["targets"])
    learned = finish(options, data, chosen, straight, fitted, commissioned, drawn, progress)
    inspection = learned.inspection()
    written = write_bundle(out, learned.sections(), learned.arrays(), learned.golden(inspection), page.render(learned))
    return result(learned, written, time.monotonic() - started)


def _options(bundle: Bundle, good: Path, out: Path, false_reject: float | None) -> TrainOptions:
    """Return what the bundle was made with, for the new images."""
    names = {field.name for field in fields(TrainOptions)} - {"good", "out", "zone"}
    kept = {name: value for name, value in bundle.settings.items() if name in names}
    if false_reject is not None:
        kept["false_reject"] = false_reject
    return TrainOptions(good, out, **kept)


@torch.inference_mode()
def _errors(
    final: reconstruct.Reconstructor, canonicals: Sequence[NDArray[np.float32]], tell: Callable[[float], None]
) -> Tensor:
    """Return the error maps (N, M, rows, cols), one image at a time as on the line."""
    found = []
    for canonical in canonicals:
        found.append(final(batch([canonical])))
        tell(len(found) / len(canonicals))
    return torch.cat(found)
