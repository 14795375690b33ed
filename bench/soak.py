"""Does anything grow? A line runs for a while, and each of its processes is watched for memory and descriptors.

Memory is what a process holds for itself (VmRSS without shared memory, whose pages are the rings' and are filled once).
The slope is the median of the slopes between all pairs of samples (Theil, 1950; Sen, 1968), which a single step does
not move, after a warm-up. A process grows when its slope exceeds the bound and what has come of it in the time measured
is more than the noise of an allocator; a run of ten minutes sees 24 MB an hour, one of an hour sees the bound.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.line import Load, line_config
from line_worker.config import Config
from line_worker.hub.bounds import memory_bound
from line_worker.rehearsal import Rehearsal, Watcher
from line_worker.wire.messages import Outcome

SAMPLES = 300  # in a run, at most two a second
WARM_UP, WARM_UP_S = 0.2, 10.0  # of the run, and at least
NOISE_MB, NOISE_DESCRIPTORS = 4.0, 2.0  # that come and go without anything growing
DESCRIPTORS_PER_HOUR = 10.0
RESERVE_S = 120.0  # that the sources could go on: they are stopped while they still run


class Sample(NamedTuple):
    """One look at a process: seconds, megabytes of its own, descriptors."""

    at: float
    mb: float
    descriptors: int


@dataclass(frozen=True, slots=True)
class Trend:
    """What one process did after the warm-up; slopes are per hour. `starts` is how often it was started."""

    process: str
    mb: float
    mb_slope: float
    descriptors: int
    descriptor_slope: float
    starts: int
    grows: bool


@dataclass(frozen=True, slots=True)
class Soaked:
    """One run: `max_slope` is the bound in megabytes an hour that the processes were held to."""

    load: Load
    minutes: float
    max_slope: float
    counts: dict[str, int]
    bound_mb: float
    trends: tuple[Trend, ...]

    @property
    def flat(self) -> bool:
        """Whether nothing grew and no process was started again."""
        return bool(self.trends) and not any(trend.grows or trend.starts > 1 for trend in self.trends)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain values, for JSON."""
        return asdict(self) | {"flat": self.flat}


class Counting(Watcher):
    """A watcher that keeps counts only: one that keeps outcomes would grow itself."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.counts: Counter[str] = Counter()

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Count `outcome`."""
        self.counts[outcome.verdict] += 1
        return True


@dataclass(slots=True)
class Watched:
    """The samples of one process by name; another process id under the same name is another start."""

    samples: list[Sample] = field(default_factory=list)
    pids: set[int] = field(default_factory=set)


def look(pid: int, at: float, proc: Path = Path("/proc")) -> Sample | None:
    """Return a sample of process `pid`, None when it is gone."""
    folder = proc / str(pid)
    try:
        lines = (folder / "status").read_text().splitlines()
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return None
    kb = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if name in _KB}
    return None if "VmRSS" not in kb else Sample(at, (kb["VmRSS"] - kb.get("RssShmem", 0)) / 1024, descriptors)


_KB = {"VmRSS", "RssShmem"}


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """Return the median slope between all pairs, per hour; 0 with fewer than two samples."""
    times, heights = np.asarray(at, float), np.asarray(values, float)
    first, second = np.triu_indices(len(times), 1)
    apart = times[second] - times[first]
    rises = (heights[second] - heights[first])[apart > 0] / apart[apart > 0]
    return float(np.median(rises)) * 3600 if len(rises) else 0.0


def trend(process: str, watched: Watched, from_s: float, max_slope: float) -> Trend:
    """Return what the samples after `from_s` say."""
    samples = [sample for sample in watched.samples if sample.at >= from_s] or watched.samples[-1:]
    at = [sample.at for sample in samples]
    hours = (at[-1] - at[0]) / 3600
    mb, descriptors = (slope(at, [sample[n] for sample in samples]) for n in (1, 2))
    more_memory = mb > max_slope and mb * hours > NOISE_MB
    more_descriptors = descriptors > DESCRIPTORS_PER_HOUR and descriptors * hours > NOISE_DESCRIPTORS
    last = samples[-1]
    starts = len(watched.pids)
    return Trend(process, last.mb, mb, last.descriptors, descriptors, starts, more_memory or more_descriptors)


def soak(load: Load, minutes: float, max_slope: float, on_sample: Callable[[float], None] = lambda _: None) -> Soaked:
    """Run the line under `load` for so long; `on_sample` is told the seconds that have passed."""
    seconds = minutes * 60
    load = Load(**asdict(load) | {"seconds": seconds + RESERVE_S})
    with tempfile.TemporaryDirectory(prefix="lw-soak-") as folder:
        config = line_config(load, Path(folder))
        rehearsal = Rehearsal(config, Path(folder) / "line.log")
        rehearsal.watcher = watcher = Counting(config)
        watched: dict[str, Watched] = {}
        start = time.monotonic()
        due = 0.0

        def on_turn() -> None:
            nonlocal due
            if (passed := time.monotonic() - start) >= due:
                due = passed + max(0.5, seconds / SAMPLES)
                _look_at_all(rehearsal, watched, passed)
                on_sample(passed)

        rehearsal.run(on_turn, seconds)
    warm = max(WARM_UP_S, WARM_UP * seconds)
    trends = tuple(trend(name, one, warm, max_slope) for name, one in watched.items() if one.samples)
    return Soaked(load, minutes, max_slope, dict(watcher.counts), memory_bound(config).total / 1e6, trends)


def _look_at_all(rehearsal: Rehearsal, watched: dict[str, Watched], at: float) -> None:
    for child in rehearsal.supervisor.children:
        if child.process is not None and (sample := look(child.process.pid, at)) is not None:
            one = watched.setdefault(child.name, Watched())
            one.samples.append(sample)
            one.pids.add(child.process.pid)
