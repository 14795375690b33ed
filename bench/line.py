"""Throughput and latency of the line through its real processes, open loop.

Parts come at a fixed rate whatever the line does, and a late one counts its waiting: `elapsed` runs from the moment at
which the part should have been photographed until its outcome is at the sink. With the stub model the line alone is
measured; with a bundle, everything.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from line_worker.config import Config, parse
from line_worker.rehearsal import Rehearsal
from line_worker.verdicts import Reason
from line_worker.wire.messages import Outcome

QUANTILES = {"p50": 0.5, "p99": 0.99, "p99_9": 0.999}


@dataclass(frozen=True, slots=True)
class Load:
    """What the line is asked to do. `model` is "stub" or the path of a bundle."""

    model: str = "stub"
    rate: float = 100.0
    seconds: float = 10.0
    workers: int = 2
    width: int = 1024
    height: int = 1024
    colour: bool = False
    deadline_ms: float = 1000.0
    batch: int = 4
    device: str = "auto"
    transport: str = "ring"
    part: str = "noise"
    folder: str = ""
    threads: int | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One run: counts, milliseconds from frame ready to outcome at the sink, and by stage in the worker."""

    load: Load
    parts: int
    counts: dict[str, int]
    reasons: dict[str, int]
    rate: float
    lost: int
    elapsed_ms: dict[str, float]
    stages_ms: dict[str, dict[str, float]]

    @property
    def in_time(self) -> bool:
        """Whether every part was decided by a worker."""
        return self.lost == 0 and self.counts.get("NO_DECISION", 0) == 0

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self)


def measure(load: Load) -> Measured:
    """Run the line under `load` in a temporary folder and return what was measured."""
    with tempfile.TemporaryDirectory(prefix="lw-bench-") as folder:
        config = line_config(load, Path(folder))
        rehearsal = Rehearsal(config, Path(folder) / "line.log")
        rehearsal.run(seconds=load.seconds if load.folder else None)  # a folder is shown again and again
        return summarise(load, rehearsal.watcher.outcomes, rehearsal.watcher.elapsed_ms)


def line_config(load: Load, folder: Path) -> Config:
    """Return the configuration of a line under `load` whose files lie in `folder`."""
    parts = max(1, round(load.rate * load.seconds))
    source: dict[str, Any] = {"kind": "synthetic", "part": load.part, "parts": parts, "rate": load.rate}
    source |= {"width": load.width, "height": load.height, "colour": load.colour, "defects": 0.0}
    if load.folder:
        source = {"kind": "folder", "path": load.folder, "rate": load.rate, "loop": True}
    camera = {"name": "camera", "deadline_ms": load.deadline_ms, "window": 64, "transport": load.transport}
    camera["frozen"] = "allow"  # a folder of one picture may be measured
    frame_mb = max(1.0, load.width * load.height * (3 if load.colour else 1) / 1e6 * 1.05)
    workers: dict[str, Any] = {"bundle": load.model, "count": load.workers, "batch": load.batch, "device": load.device}
    if load.threads:
        workers["threads"] = load.threads
    return parse(
        {
            "line": {"name": "bench", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [{**camera, "max_frame_mb": frame_mb, "source": source}],
            "workers": workers,
        },
        base=Path.cwd(),
    )


def summarise(load: Load, outcomes: list[Outcome], elapsed_ms: list[float]) -> Measured:
    """Return the figures of one run."""
    announced = max((o.key.seq for o in outcomes), default=-1) + 1
    stages: dict[str, list[float]] = {}
    for outcome in outcomes:
        for stage, ms in outcome.stages.items():
            stages.setdefault(stage, []).append(ms)
    first, last = (min(o.wall for o in outcomes), max(o.wall for o in outcomes)) if outcomes else (0.0, 0.0)
    expected = announced if load.folder else max(1, round(load.rate * load.seconds))
    return Measured(
        load=load,
        parts=len(outcomes),
        counts=dict(Counter(o.verdict for o in outcomes)),
        reasons=dict(Counter(Reason(o.reason).name for o in outcomes)),
        rate=(len(outcomes) - 1) / (last - first) if last > first else 0.0,
        lost=expected - len(outcomes),
        elapsed_ms=quantiles(elapsed_ms),
        stages_ms={stage: quantiles(values) for stage, values in stages.items()},
    )


def quantiles(values: list[float]) -> dict[str, float]:
    """Return p50, p99, p99.9 and the maximum."""
    if not values:
        return {}
    found = {name: float(np.quantile(values, q)) for name, q in QUANTILES.items()}
    return {**found, "max": float(max(values))}


def knee(load: Load, p99_ms: float, rates: tuple[float, ...] = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)) -> list[Measured]:
    """Raise the rate step by step from `load.rate` until p99 exceeds `p99_ms` or a part is not decided."""
    runs = []
    for factor in rates:
        runs.append(measure(Load(**{**asdict(load), "rate": load.rate * factor})))
        if not runs[-1].in_time or runs[-1].elapsed_ms["p99"] > p99_ms:
            break
    return runs
