"""Everything that training has learned, and the bundle's parts that are made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calib.calibration import Calibration
from calib.choosing import Chosen
from calib.dataset import Dataset
from calib.fitting import Fitted
from calib.options import TrainOptions
from calib.power import Power
from calib.zoning import Drawn
from line_worker.bundle import Arrays, Golden
from line_worker.images import encode_png
from line_worker.vision.inspection import Inspection
from line_worker.vision.standard import Standard

GOLDEN = 5


class Straightened(NamedTuple):
    """The good images as the network sees them; indices are into the dataset."""

    usable: list[int]
    canonicals: list[NDArray[np.float32]]
    undecided: dict[str, str]  # name: reason, of good images that the bundle gives no verdict on


class Learned(NamedTuple):
    """All results of training.

    drawn: the user's zones, if any. power: None when nothing was painted. bad: name: (score, reason) of defective
    parts, None when none were given; the score is None when there was none.
    """

    options: TrainOptions
    data: Dataset
    chosen: Chosen
    straight: Straightened
    fitted: Fitted
    calibrated: Calibration
    standard: Standard
    drawn: Drawn | None
    power: Power | None
    bad: dict[str, tuple[float | None, str]] | None

    @property
    def names(self) -> list[str]:
        """Names of the good images that were learned from, in the order of scores and canonical pictures."""
        return [self.data.names[i] for i in self.straight.usable]

    def notes(self) -> list[str]:
        """Return what was chosen and why, sentences for people."""
        return [*self.chosen.why, *self.fitted.notes, *self.calibrated.notes]

    def inspection(self) -> Inspection:
        """Return what the line will judge with, on the CPU by torch."""
        return Inspection(self.chosen.rectifier, self.fitted.final, self.standard)

    def sections(self) -> dict[str, Any]:
        """Return the manifest's sections."""
        image, limit = self.data.images[0], self.calibrated.limit
        return {
            "settings": self.options.settings() | {"locate": self.chosen.locate, "pose": self.chosen.pose},
            "input": {"shape": list(image.shape), "dtype": str(image.dtype)},
            "rectify": self.chosen.rectifier.meta(),
            "reconstruct": self.fitted.final.meta(),
            "standard": self.standard.meta(),
            "threshold": limit.threshold,
            "calibration": {
                "limit": limit._asdict(),
                "scores": dict(zip(self.names, self.calibrated.scores, strict=True)),
                "undecided": self.straight.undecided,
                "folds": self.fitted.folds,
                "steps": self.fitted.steps,
                "cut": self.fitted.cut,
                "flat": list(self.fitted.flat),
                "targets": [] if self.drawn is None else [target for _, target in self.drawn.targets],
                "notes": self.notes(),
                "power": None if self.power is None else self.power.as_json(),
                "bad": self.bad,
            },
        }

    def arrays(self) -> Arrays:
        """Return the bundle's arrays."""
        parts = {
            "rectify": self.chosen.rectifier.state(),
            "reconstruct": self.fitted.final.state(),
            "standard": self.standard.arrays(),
        }
        if self.drawn is not None:
            parts["drawn"] = {"zone": self.drawn.plane()}
        return {f"{part}.{name}": array for part, arrays in parts.items() for name, array in arrays.items()}

    def golden(self, inspection: Inspection) -> list[Golden]:
        """Return a handful of good images from the least to the most unusual, and one without a verdict if any."""
        order = np.argsort(self.calibrated.scores)
        chosen = [self.straight.usable[order[round(q)]] for q in np.linspace(0, len(order) - 1, GOLDEN)]
        chosen += [self.data.names.index(name) for name in list(self.straight.undecided)[:1]]
        goldens = []
        for number, index in enumerate(chosen):
            judged = inspection.inspect([self.data.images[index]])[0]
            name = f"{number}_{Path(self.data.names[index]).stem}.png"
            goldens.append(Golden(name, encode_png(self.data.images[index]), judged.reason, judged.score))
        return goldens
