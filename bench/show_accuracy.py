"""What `bench accuracy` runs and prints: a table for people, JSON for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.published import INSTALL, Published, anomalib_is_there, ganomaly, published
from line_worker.errors import ConfigError
from line_worker.progress import Report, bars

ROWS = (
    ("image AUROC", "image_auroc", ".4f"),
    ("pixel AUROC", "pixel_auroc", ".4f"),
    ("AU-PRO", "au_pro", ".4f"),
    ("AUROC, held-out good vs bad", "auroc_heldout_good", ".4f"),
    ("accuracy", "accuracy", ".3f"),
    ("false reject", "false_reject", ".3f"),
    ("false reject, held-out good", "false_reject_heldout", ".3f"),
    ("escape", "escape", ".3f"),
    ("ms a part", "ms_per_part", ".1f"),
    ("  locate and rectify", "ms_rectify", ".1f"),
    ("  reconstruct", "ms_reconstruct", ".1f"),
    ("  all of it on the device", "ms_device", ".1f"),
    ("images", "images", "d"),
    ("undecided", "undecided", ".1f"),
    ("trained on", "trained_on", "d"),
    ("held out", "held_out", "d"),
    ("training, s", "train_s", ".0f"),
    ("bundle, MB", "bundle_mb", ".1f"),
)
REFERENCES = ("", "ganomaly")

Figures = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """The command's arguments; one of bundle, compare, and splits, methods or images says what is measured."""

    category: Path
    bundle: Path | None = None
    compare: bool = False
    splits: int | None = None
    methods: str = ""
    images: int | None = None
    reference: str = ""
    minutes: float | None = None
    threads: int = 2
    seed: int = 0
    device: str = "auto"

    @property
    def trains(self) -> bool:
        """Whether methods are trained on splits."""
        return bool(self.splits is not None or self.methods or self.images is not None)

    def checked(self) -> Asked:
        """Return it; raises ConfigError when it is not clear what to measure."""
        wrong = []
        if [self.bundle is not None, self.compare, self.trains].count(True) != 1:
            wrong.append("give one of: --bundle B; --compare; or --splits N, --methods A,B or --images N")
        if self.reference not in REFERENCES:
            wrong.append(f"--reference {self.reference!r} is not one of {', '.join(REFERENCES[1:])}")
        if wrong:
            raise ConfigError("bench accuracy", wrong)
        return self


def run(asked: Asked, *, as_json: bool) -> int:
    """Measure what was asked for and print it; each finished training is told on standard error."""
    asked.checked()
    console = Console(stderr=True)
    measured = _reference(asked)
    with bars(console) as report:
        columns = _split_columns(asked, report, console) if asked.trains else _single_columns(asked, report)
    references = published(asked.category)
    if as_json:
        print(json.dumps(_as_json(asked, columns, references, measured)))
    else:
        show(columns, references, _ganomaly_note(asked, measured), Console())
    return 0


def _single_columns(asked: Asked, report: Report) -> dict[str, list[Figures]]:
    from bench.accuracy import accuracy, compare
    from line_worker.bundle import Bundle

    if asked.bundle is not None:
        return {asked.bundle.stem: [accuracy(Bundle.load(asked.bundle), asked.category, asked.device, report)]}
    both = compare(asked.category, asked.minutes, asked.threads, asked.seed, asked.device, report)
    return {name: [figures] for name, figures in both.items()}


def _split_columns(asked: Asked, report: Report, console: Console) -> dict[str, list[Figures]]:
    from bench import splits

    columns: dict[str, list[Figures]] = {}
    for method, figures in splits.run(_plan(asked), report):
        columns.setdefault(method, []).append(figures)
        told = ", ".join(f"{label} {_cell(figures[key], form)}" for label, key, form in (ROWS[0], ROWS[3], ROWS[7]))
        console.print(f"   {method}, split {figures['split']}: {told}", highlight=False)
    return columns


def _plan(asked: Asked) -> Any:
    from dataclasses import replace

    from bench.splits import Plan
    from calib.options import TrainOptions

    template = TrainOptions(asked.category, asked.category, threads=asked.threads, seed=asked.seed, repeats=0)
    template = template if asked.minutes is None else replace(template, minutes=asked.minutes)
    methods = tuple(name.strip() for name in asked.methods.split(",")) if asked.methods else (template.reconstruct,)
    return Plan(asked.category, methods, asked.splits or 1, asked.images, template, asked.device)


def _reference(asked: Asked) -> float | None:
    """Return GANomaly's image AUROC when it is asked for and can be measured."""
    return ganomaly(asked.category) if asked.reference and anomalib_is_there() else None


def _ganomaly_note(asked: Asked, measured: float | None) -> str:
    if measured is not None:
        return f"GANomaly of anomalib, measured here on all of train/good: image AUROC {measured:.4f}"
    if anomalib_is_there():
        return "GANomaly is not measured; --reference ganomaly does"
    return f"GANomaly is not measured: {INSTALL}, then --reference ganomaly"


def _as_json(
    asked: Asked, columns: Mapping[str, Sequence[Figures]], references: Sequence[Published], measured: float | None
) -> Figures:
    """Return figures by name; a bundle's alone; of splits each one's and their mean and deviation."""
    from bench.splits import summary

    if asked.trains:
        by_name: Figures = {name: {"mean_std": summary(runs), "splits": runs} for name, runs in columns.items()}
        found: Figures = {"category": asked.category.resolve().name, "methods": by_name}
    else:
        found = {name: runs[0] for name, runs in columns.items()}
        found = next(iter(found.values())) if asked.bundle is not None else found
    beside: Figures = {"published": [one._asdict() for one in references]} if references else {}
    return {**found, **beside, **({"ganomaly": {"image_auroc": measured}} if measured is not None else {})}


# ---- the table -------------------------------------------------------------------------------------------------------


def show(
    columns: Mapping[str, Sequence[Figures]], references: Sequence[Published], note: str, console: Console
) -> None:
    """Print one or several methods side by side, mean ± standard deviation over splits, and published figures below."""
    from bench.splits import summary

    most = max(len(runs) for runs in columns.values())
    over = f", mean ± standard deviation over {most} splits" if most > 1 else ""
    table = Table(title=f"Accuracy on the test images{over}")
    table.add_column("figure")
    for name in columns:
        table.add_column(name, justify="right")
    found = [summary(runs) for runs in columns.values()]
    for label, key, form in ROWS:
        if any(one.get(key, {}).get("mean") is not None for one in found):
            table.add_row(label, *(_mean(one.get(key), form) for one in found))
    for defect in sorted({defect for one in found for defect in one["per_defect"]}):
        cells = (one["per_defect"].get(defect, {}).get("escape") for one in found)
        table.add_row(f"  escape, {defect}", *(_mean(value, ".3f") for value in cells))
    console.print(table)
    if references:
        console.print(_published_table(references))
    console.print(note, style="dim", highlight=False)


def _published_table(references: Sequence[Published]) -> Table:
    table = Table(title="Reference: published for MVTec AD's screw, not measured here")
    table.add_column("published method")
    table.add_column("image AUROC", justify="right")
    table.add_column("AU-PRO", justify="right")
    table.add_column("source")
    for one in references:
        table.add_row(one.method, _range(one.image_auroc), _range(one.au_pro), one.source)
    return table


def _mean(value: Mapping[str, float | None] | None, form: str) -> str:
    if value is None or value["mean"] is None:
        return "-"
    if form == "d":
        return f"{value['mean']:.0f}"  # a count that is the same for every split
    return format(value["mean"], form) + ("" if value["std"] is None else f" ± {value['std']:{form}}")


def _range(values: tuple[float, float] | None) -> str:
    if values is None:
        return "-"
    return f"{values[0]:.3f}" if values[0] == values[1] else f"{values[0]:.3f} to {values[1]:.3f}"


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
