"""What recording costs the line: the same load without a recorder and with one, in runs that take turns, so that what
else the machine does hits each alike. Afterwards every frame and every outcome must be in the file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple, get_args

from bench.line import Load, Measured, line_config, summarise
from line_worker.recordings import look
from line_worker.rehearsal import Rehearsal
from line_worker.serving import with_recorder

Way = Literal["without", "none", "delta", "png"]  # no recorder, or how it stores pictures
WAYS: tuple[Way, ...] = get_args(Way)


class Run(NamedTuple):
    """One run: `missing` counts frames, pictures and outcomes that are not in the file, `mb` is the file's size."""

    line: Measured
    missing: int = 0
    mb: float = 0.0


@dataclass(frozen=True, slots=True)
class Cost:
    """All runs of one way: medians of their p50 and p99, the lowest and highest p99 (ms), and sums of the counts."""

    way: Way
    runs: int
    parts: int
    undecided: int
    missing: int
    p50_ms: float
    p99_ms: float
    lowest_p99_ms: float
    highest_p99_ms: float
    mb: float

    @property
    def whole(self) -> bool:
        """Whether every part was decided, and is in the file."""
        return not self.undecided and not self.missing


def measure(load: Load, runs: int, ways: Sequence[Way] = WAYS, place: Path | None = None) -> list[Cost]:
    """Run the line under `load`, `runs` times in each way; recordings lie in a temporary folder, in `place` if given.

    Raises:
        SourceError: the line did not become ready.
    """
    found: dict[Way, list[Run]] = {way: [] for way in ways}
    for _ in range(runs):
        for way in ways:
            found[way].append(_run(load, way, place))
    return [_cost(way, its_runs) for way, its_runs in found.items()]


def _run(load: Load, way: Way, place: Path | None) -> Run:
    with tempfile.TemporaryDirectory(prefix="lw-bench-") as folder, _folder(place) as recordings:
        config, path = line_config(load, Path(folder)), Path(recordings) / "bench.mcap"
        if way != "without":
            config = with_recorder(config, path, way)
        rehearsal = Rehearsal(config, Path(folder) / "line.log")
        rehearsal.run(seconds=load.seconds if load.folder else None)
        line = summarise(load, rehearsal.watcher.outcomes, rehearsal.watcher.elapsed_ms)
        if way == "without":
            return Run(line)
        return Run(line, _missing(path, line.parts), path.stat().st_size / 1e6)


def _folder(place: Path | None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="lw-bench-", dir=place)


def _missing(path: Path, parts: int) -> int:
    """Return how many frames, pictures and outcomes of the parts that the line decided are not in the file."""
    info = look(path)
    cameras = info.cameras.values()
    frames, pictures = sum(camera.frames for camera in cameras), sum(camera.pictures for camera in cameras)
    return sum(max(0, parts - there) for there in (frames, pictures, sum(info.outcomes.values()))) + len(info.problems)


def _cost(way: Way, runs: Sequence[Run]) -> Cost:
    p99 = [run.line.elapsed_ms["p99"] for run in runs]
    return Cost(
        way=way,
        runs=len(runs),
        parts=sum(run.line.parts for run in runs),
        undecided=sum(run.line.lost + run.line.counts.get("NO_DECISION", 0) for run in runs),
        missing=sum(run.missing for run in runs),
        p50_ms=median(run.line.elapsed_ms["p50"] for run in runs),
        p99_ms=median(p99),
        lowest_p99_ms=min(p99),
        highest_p99_ms=max(p99),
        mb=sum(run.mb for run in runs),
    )
