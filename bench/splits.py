"""Random training/calibration splits: how much of a figure is luck with the images at hand.

Split k, drawn from seed k, trains on a random 80 % of the category's good training images, or on as few as asked for,
and judges the test images and good images that neither training nor calibration has seen. All methods get the same
splits, so that they can be compared split by split. What is trained on is a folder of links; no image is copied.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np

from bench.accuracy import accuracy, samples
from calib.dataset import find_images, good_folder
from calib.options import CHOICES, TrainOptions
from calib.train import train
from line_worker.errors import ConfigError, DatasetError

HELD_OUT = 0.2  # of the good training images

Progress = Callable[[str, float], None]
Figures = dict[str, Any]


class Split(NamedTuple):
    """Which good images are trained on, and which are judged unseen."""

    train: tuple[Path, ...]
    held_out: tuple[Path, ...]


@dataclass(frozen=True)
class Plan:
    """What is trained and judged: `splits` times each of `methods`, on `images` good ones (None: 80 %).

    `template` holds what all trainings share; its good, out, reconstruct and seed are set for each.
    """

    category: Path
    methods: tuple[str, ...]
    splits: int
    images: int | None
    template: TrainOptions
    device: str = "cpu"

    def checked(self) -> Plan:
        """Return it; raises ConfigError, naming everything that is wrong, before hours are spent on the rest."""
        allowed = CHOICES["reconstruct"]
        wrong = [f"method {one!r} is not one of {', '.join(allowed)}" for one in self.methods if one not in allowed]
        wrong += [] if self.methods else ["no method is named"]
        wrong += [] if self.splits >= 1 else [f"splits {self.splits} is not at least 1"]
        wrong += [] if self.images is None or self.images >= 1 else [f"images {self.images} is not at least 1"]
        if wrong:
            raise ConfigError("bench accuracy", wrong)
        return self


def draw(paths: Sequence[Path], seed: int, images: int | None = None) -> Split:
    """Return a random split of `paths`: a fifth is held out; of the rest all are trained on, or `images` of them.

    Where four fifths are fewer than `images`, less is held out. Raises DatasetError when nothing would be left.
    """
    order = [paths[i] for i in np.random.default_rng(seed).permutation(len(paths))]
    apart = max(1, round(HELD_OUT * len(order)))
    wanted = len(order) - apart if images is None else images
    apart = min(apart, len(order) - wanted)
    if apart < 1 or wanted < 1:
        raise DatasetError(
            f"{paths[0].parent if paths else 'the category'}: holds {len(order)} good images; to train on {wanted} and "
            "hold some out takes more. Nothing was measured; ask for fewer with --images"
        )
    return Split(tuple(order[:wanted]), tuple(order[-apart:]))


def link(paths: Sequence[Path], folder: Path) -> Path:
    """Make `folder` with a link to each of `paths`, by its name, and return it."""
    folder.mkdir(parents=True)
    for path in paths:
        (folder / path.name).symlink_to(path.resolve())
    return folder


def run(plan: Plan, progress: Progress = lambda stage, share: None) -> Iterator[tuple[str, Figures]]:
    """Yield (method, figures) as each training is judged, split by split.

    The figures are those of `accuracy`, with split (its seed), trained_on and held_out (images), train_s (seconds of
    training) and bundle_mb. `progress` gets the trainer's stages, and the share of all trainings under "all".
    """
    plan.checked()
    samples(plan.category)  # a category without test images is refused before anything is trained
    good = find_images(good_folder(plan.category))
    seeds = [plan.template.seed + k for k in range(plan.splits)]
    drawn = {seed: draw(good, seed, plan.images) for seed in seeds}
    todo = [(seed, method) for seed in seeds for method in plan.methods]
    for done, (seed, method) in enumerate(todo):
        progress("all", done / len(todo))
        yield method, _measured(plan, method, seed, drawn[seed], progress)
    progress("all", 1.0)


def _measured(plan: Plan, method: str, seed: int, split: Split, progress: Progress) -> Figures:
    with tempfile.TemporaryDirectory(prefix="line-worker-split-") as folder:
        images, out = link(split.train, Path(folder) / "good"), Path(folder) / "split.bundle"
        begun = time.monotonic()
        bundle = train(replace(plan.template, good=images, out=out, reconstruct=method, seed=seed), progress).bundle
        seconds = time.monotonic() - begun
        figures = accuracy(bundle, plan.category, plan.device, progress, split.held_out)
        size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    counts = {"split": seed, "trained_on": len(split.train), "held_out": len(split.held_out)}
    return {**counts, **figures, "train_s": seconds, "bundle_mb": size / 1e6}


def summary(figures: Sequence[Mapping[str, Any]]) -> Figures:
    """Return mean and standard deviation of every figure over the splits, those of each defect beneath per_defect.

    Each is {"mean": m, "std": s}; s is None for fewer than two splits, both are None where no split has the figure.
    """
    names = {name: value for one in figures for name, value in one.items()}
    found: Figures = {}
    for name, value in names.items():
        column = [one[name] for one in figures if one.get(name) is not None]
        if isinstance(value, Mapping):
            found[name] = {kind: summary([one[kind] for one in column if kind in one]) for kind in value}
        elif not isinstance(value, str) and name != "split":
            found[name] = {"mean": fmean(column) if column else None, "std": stdev(column) if column[1:] else None}
    return found
