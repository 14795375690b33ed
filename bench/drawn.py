"""Drawn objects of several kinds, trained and judged with the defaults: is anything made for one object only?

Round and asymmetric parts, elongated ones, texture, gray and colour, on bright and dark mats, in every pose. Each is
drawn anew, learned from good pictures, and judged on good and bad ones in equal parts.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.accuracy import accuracy
from bench.show import machine
from calib.options import TrainOptions
from calib.train import train
from line_worker.errors import ConfigError
from line_worker.images import save_png
from line_worker.progress import bars
from line_worker.source.drawing import DEFECTS, Drawn, Pose, draw_part

SIZE = (480, 640)
SEEN = 4  # pixels that a defect must change to be one

Progress = Callable[[str, float], None]


class Kind(NamedTuple):
    """An object and how it is seen."""

    part: str
    colour: bool = False
    dark: bool = False
    pose: Pose = "rigid"

    def __str__(self) -> str:
        lies = {"rigid": "anywhere", "translate": "moved only", "none": "in its place"}[self.pose]
        mat = "" if self.part == "weave" else f", {'dark' if self.dark else 'bright'} mat, {lies}"
        return f"{self.part}, {'colour' if self.colour else 'gray'}{mat}"


KINDS = (
    Kind("bracket"),
    Kind("pin", dark=True),
    Kind("gear"),
    Kind("washer", dark=True),
    Kind("badge", colour=True),
    Kind("badge", pose="none"),
    Kind("bracket", colour=True, dark=True, pose="translate"),
    Kind("gear", colour=True),
    Kind("weave", pose="none"),
    Kind("weave", colour=True, pose="none"),
)


def run(parts: str, good: int, bad: int, seed: int, threads: int, *, as_json: bool) -> int:
    """Draw, train and judge each kind of one of `parts` (all when empty); print a row for each as it is known."""
    kinds = chosen(parts)
    rows = []
    with tempfile.TemporaryDirectory(prefix="line-worker-drawn-") as folder, bars() as report:
        for number, kind in enumerate(kinds):
            place = Path(folder) / str(number)
            category = draw(kind, place / "drawn", good, bad, np.random.default_rng([seed, number]))
            figures = measure(category, place / "b.bundle", threads, lambda stage, share: report(stage, share))
            rows.append({"kind": str(kind), **figures})
    print(json.dumps({"kinds": rows, "machine": machine()})) if as_json else _show(rows)
    return 0


def chosen(parts: str) -> list[Kind]:
    """Return the kinds of the parts named; raises ConfigError when one is unknown."""
    names = {name for name in parts.split(",") if name}
    unknown = names - {kind.part for kind in KINDS}
    if unknown:
        there = ", ".join(sorted({kind.part for kind in KINDS}))
        raise ConfigError("bench drawn", [f"{', '.join(sorted(unknown))}: is not drawn; there are {there}"])
    return [kind for kind in KINDS if not names or kind.part in names]


def draw(kind: Kind, category: Path, good: int, bad: int, rng: np.random.Generator) -> Path:
    """Draw `good` pictures to learn from, and `bad` good and bad ones each to judge, laid out as MVTec AD's."""

    def one(defect: str = "") -> Drawn:
        return draw_part(rng, kind.part, defect, SIZE, kind.colour, kind.pose, dark=kind.dark)

    for place, count in (("train/good", good), ("test/good", bad)):
        (category / place).mkdir(parents=True)
        for number in range(count):
            save_png(category / place / f"{number:03d}.png", one().image)
    for number in range(bad):
        defect = DEFECTS[number % len(DEFECTS)]
        while (drawn := one(defect)).mask.sum() < SEEN:
            continue
        for folder, name, picture in (
            ("test", f"{number:03d}.png", drawn.image),
            ("ground_truth", f"{number:03d}_mask.png", drawn.mask.astype(np.uint8) * 255),
        ):
            (category / folder / defect).mkdir(parents=True, exist_ok=True)
            save_png(category / folder / defect / name, picture)
    return category


def measure(category: Path, bundle: Path, threads: int, progress: Progress) -> dict[str, Any]:
    """Train with the defaults and return what `accuracy` says of it, with the seconds of training."""
    begun = time.monotonic()
    trained = train(TrainOptions(category, bundle, threads=threads, repeats=0), progress)
    seconds = time.monotonic() - begun
    return {**accuracy(trained.bundle, category, progress=progress), "train_s": seconds}


def _show(rows: Sequence[dict[str, Any]]) -> None:
    table = Table(title=f"Drawn objects, {SIZE[1]}x{SIZE[0]}, defaults only")
    table.add_column("object")
    columns = {
        "image AUROC": ("image_auroc", ".4f"),
        "AU-PRO": ("au_pro", ".3f"),
        "false reject": ("false_reject", ".3f"),
        "escape": ("escape", ".3f"),
        "undecided": ("undecided", "d"),
        "ms": ("ms_per_part", ".0f"),
        "training, s": ("train_s", ".0f"),
    }
    for name in columns:
        table.add_column(name, justify="right")
    for row in rows:
        figures = (format(cast("Any", row[key]), form) for key, form in columns.values())
        table.add_row(str(row["kind"]), *figures)
    console = Console()
    console.print(table)
    console.print(machine(), style="dim", highlight=False)
