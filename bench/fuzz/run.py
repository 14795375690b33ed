"""`line-worker bench fuzz`: hostile input by the million, counted by layer and outcome; it can be stopped and resumed.

Case number n of a layer is a function of n alone: what fails is named by it, and can be made again with `generator`.
The counts so far lie in the state file, which is written every few seconds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from random import Random

from bench.fuzz import files
from bench.fuzz.files import Case
from bench.fuzz.sockets import sockets

LAYERS: dict[str, Callable[[Path], AbstractContextManager[Case]]] = {
    "messages": files.messages,
    "images": files.images,
    "bundles": files.bundles,
    "recordings": files.recordings,
    "sockets": sockets,
}
SAVED_S = 5.0
Counts = dict[str, Counter[str]]


def generator(layer: str, number: int) -> Random:
    """Return what makes case `number` of `layer`, and no other."""
    return Random(f"{layer} {number}")


def load_state(path: Path | None) -> Counts:
    """Return the counts of an earlier run."""
    raw = json.loads(path.read_text("utf-8")) if path is not None and path.exists() else {}
    return {layer: Counter(raw.get(layer, {})) for layer in LAYERS}


def save_state(path: Path | None, counts: Counts) -> None:
    """Write the counts, whole or not at all."""
    if path is not None:
        part = path.with_suffix(".part")
        part.write_text(json.dumps(counts), "utf-8")
        os.replace(part, path)


def fuzz(wanted: dict[str, int], state: Path | None = None, seconds: float = float("inf")) -> tuple[Counts, str]:
    """Run until each layer has had so many cases, or for `seconds`; returns the counts, and what failed or ""."""
    counts, until = load_state(state), time.monotonic() + seconds
    for layer, cases in wanted.items():
        failed = _layer(layer, cases, counts, state, until) if counts[layer].total() < cases else ""
        save_state(state, counts)
        if failed:
            return counts, failed
    return counts, ""


def _layer(layer: str, cases: int, counts: Counts, state: Path | None, until: float) -> str:
    """Run one layer; returns what failed."""
    saved, number = time.monotonic(), counts[layer].total()
    with tempfile.TemporaryDirectory(prefix="lwf") as folder:
        try:
            with LAYERS[layer](Path(folder)) as case:
                while number < cases and (now := time.monotonic()) < until:
                    counts[layer][case(generator(layer, number), number)] += 1
                    number += 1
                    if now - saved > SAVED_S:
                        saved = now
                        save_state(state, counts)
        except Exception as error:  # noqa: BLE001 - whatever else comes out of hostile input is what is looked for
            return f"{layer}, case {number}: {type(error).__name__}: {error}"
    return ""


def render(counts: Counts) -> str:
    """Return the counts for people."""
    lines = []
    for layer, outcomes in counts.items():
        told = ", ".join(f"{n:,} {outcome}" for outcome, n in outcomes.most_common())
        lines.append(f"{layer}: {outcomes.total():,} cases: {told or 'none'}")
    return "\n".join(lines) + "\n"


def run(wanted: dict[str, int], state: Path | None, seconds: float, *, as_json: bool) -> int:
    """Fuzz and print the counts; returns 1 when anything failed."""
    counts, failed = fuzz(wanted, state, seconds)
    told = json.dumps({"failed": failed, "counts": counts}) + "\n" if as_json else render(counts)
    sys.stdout.write(told)
    if failed and not as_json:
        sys.stdout.write(f"FAILED: {failed}\n")
    return 1 if failed else 0
