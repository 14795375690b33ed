"""How much faster `rescore` is on more processes: the same pictures by turns, whole and once every model is loaded."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from line_worker.rescore.shares import rescore

LOADED = 4  # verdicts of each process after which it has certainly loaded its model and warmed up


@dataclass(frozen=True, slots=True)
class Pace:
    """Medians of the runs with so many processes: seconds in all, pictures a second once all models are loaded."""

    processes: int
    pictures: int
    seconds: float
    a_second: float


def measure(sources: Sequence[Path], bundle: Path, processes: Sequence[int], rounds: int) -> tuple[list[Pace], bool]:
    """Judge `sources` with each number of processes by turns, `rounds` times.

    Returns the paces in the order asked for, and whether all gave the same verdicts. Raises what rescore does, and
    ValueError for too few pictures to tell.
    """
    runs: dict[int, list[tuple[float, float]]] = {count: [] for count in processes}
    found: list[list[dict[str, Any]]] = []
    for _ in range(rounds):
        for count in processes:
            verdicts, seconds, a_second = _run(sources, bundle, count)
            found.append(verdicts)
            runs[count].append((seconds, a_second))
    paces = [
        Pace(count, len(found[0]), median(run[0] for run in timed), median(run[1] for run in timed))
        for count, timed in runs.items()
    ]
    return paces, all(verdicts == found[0] for verdicts in found)


def _run(sources: Sequence[Path], bundle: Path, count: int) -> tuple[list[dict[str, Any]], float, float]:
    verdicts, came, begun = list[dict[str, Any]](), list[float](), time.monotonic()
    for verdict in rescore(sources, bundle, count):
        verdicts.append(verdict)
        came.append(time.monotonic())
    first = LOADED * count
    if len(came) <= 2 * first:
        raise ValueError(f"{len(came)} pictures are too few for {count} processes: give at least {2 * first + 1}")
    return verdicts, came[-1] - begun, (len(came) - first) / (came[-1] - came[first - 1])
