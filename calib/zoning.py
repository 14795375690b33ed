"""Zones that the user draws: a label image on the canonical picture, and what each label means.

`--zones labels.png` is an image whose pixel values name zones, drawn over the mean part that the report shows; it is
stretched to the canonical picture. `--zone LABEL=ignore` takes a zone out of the judgement, `--zone LABEL=0.001` gives
it a false-reject target of its own. Labels that are not mentioned are judged as the rest of the part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from line_worker.errors import ConfigError
from line_worker.images import read_image

IGNORE = "ignore"


class Drawn(NamedTuple):
    """Cells to leave out, bool (rows, cols), and cells with a false-reject target of their own."""

    ignored: Tensor
    targets: tuple[tuple[Tensor, float], ...]

    def plane(self) -> NDArray[np.uint8]:
        """Return the zones as a bundle keeps them (rows, cols): 0 the rest, 1 ignored, 2 and up those with a target."""
        plane = self.ignored.to(torch.uint8)
        for number, (cells, _) in enumerate(self.targets, 2):
            plane[cells] = number
        return plane.numpy()

    @classmethod
    def of(cls, plane: NDArray[np.uint8], targets: Sequence[float]) -> Drawn:
        """Return the zones that gave `plane`, with their targets in order."""
        kept = torch.from_numpy(plane.copy())
        return cls(kept == 1, tuple((kept == number, target) for number, target in enumerate(targets, 2)))


def parse(rules: Sequence[str]) -> dict[int, float | None]:
    """Return the false-reject target of each label, None for one to ignore; raises ConfigError naming bad rules."""
    wanted: dict[int, float | None] = {}
    wrong = []
    for rule in rules:
        label, _, value = rule.partition("=")
        try:
            target = None if value == IGNORE else float(value)
            if target is not None and not 0 < target < 0.5:
                raise ValueError(value)
            wanted[int(label)] = target
        except ValueError:
            wrong.append(f"zone {rule!r}: give LABEL=ignore or LABEL=SHARE, as in 1=ignore or 2=0.001")
    if wrong:
        raise ConfigError("train", wrong)
    return wanted


def read(path: Path, rules: Sequence[str], mask: Tensor) -> Drawn:
    """Read the label image and put it on the grid of `mask` (rows, cols).

    Raises ConfigError as `read_labels` does, and for zones that leave nothing to judge.
    """
    return on_grid(*read_labels(path, rules), mask)


def read_labels(path: Path, rules: Sequence[str]) -> tuple[NDArray[np.generic], dict[int, float | None]]:
    """Return the label image (H, W) and the target of each label, see `parse`.

    Raises ConfigError for bad rules, a picture that is not a label image, or a label that it does not hold.
    """
    wanted = parse(rules)
    labels = read_image(path)
    if labels.ndim != 2:
        raise ConfigError("train", [f"zones {path}: must be a gray image whose values are labels, not colour"])
    missing = [label for label in wanted if not (labels == label).any()]
    if missing:
        raise ConfigError("train", [f"zones {path}: holds no pixel of label {missing[0]}"])
    return labels, wanted


def on_grid(labels: NDArray[np.generic], wanted: Mapping[int, float | None], mask: Tensor) -> Drawn:
    """Return the cells of each label: a cell belongs to a label that covers more than half of it."""
    size = (mask.shape[1], mask.shape[0])
    planes = {
        label: torch.from_numpy(
            cv2.resize((labels == label).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
        )
        for label in wanted
    }
    ignored = torch.zeros_like(mask)
    for label, target in wanted.items():
        if target is None:
            ignored |= planes[label]
    if not bool((mask & ~ignored).any()):
        raise ConfigError("train", ["the zones to ignore leave nothing of the part to judge"])
    own = tuple((planes[label] & mask & ~ignored, target) for label, target in wanted.items() if target is not None)
    return Drawn(ignored, tuple((cells, target) for cells, target in own if bool(cells.any())))
