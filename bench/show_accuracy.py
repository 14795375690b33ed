"""What `bench accuracy` prints: a table for people, JSON for scripts."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table

ROWS = (
    ("image AUROC", "image_auroc", ".4f"),
    ("pixel AUROC", "pixel_auroc", ".4f"),
    ("AU-PRO", "au_pro", ".4f"),
    ("AUROC, held-out training-good", "auroc_heldout_good", ".4f"),
    ("accuracy", "accuracy", ".3f"),
    ("false reject", "false_reject", ".3f"),
    ("escape", "escape", ".3f"),
    ("ms a part", "ms_per_part", ".1f"),
    ("images", "images", "d"),
    ("undecided", "undecided", "d"),
)


def show_accuracy(figures: dict[str, dict[str, Any]], *, as_json: bool) -> None:
    """Print the figures of one or several methods, side by side."""
    if as_json:
        print(json.dumps(figures if len(figures) > 1 else next(iter(figures.values()))))
        return
    table = Table(title="Accuracy on the test images")
    table.add_column("figure")
    for name in figures:
        table.add_column(name, justify="right")
    for label, key, form in ROWS:
        table.add_row(label, *(_cell(found[key], form) for found in figures.values()))
    defects = sorted({defect for found in figures.values() for defect in found["per_defect"]})
    for defect in defects:
        cells = [found["per_defect"].get(defect, {}).get("escape") for found in figures.values()]
        table.add_row(f"  escape, {defect}", *(_cell(value, ".3f") for value in cells))
    Console().print(table)


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
