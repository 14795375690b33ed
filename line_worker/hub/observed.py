"""What the hub's outcomes add up to since its start: counts and histograms for its metrics. Pure."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from line_worker.verdicts import Reason
from line_worker.wire.messages import Outcome

BOUNDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds, upper ends of the buckets
STAGES = 24  # names of stages that are told apart; a worker that invents more has them counted as one
OTHER = "other"
EXPIRED = frozenset({Reason.DEADLINE, Reason.NO_WORKER})  # nobody has decided: time has


@dataclass(frozen=True, slots=True)
class Histogram:
    """Observations by bucket: `counts` has one more than `BOUNDS`, for what is larger; `total` is their sum."""

    counts: tuple[int, ...]
    total: float


@dataclass(slots=True)
class Tally:
    """A histogram that grows."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    @property
    def frozen(self) -> Histogram:
        """What it holds now."""
        return Histogram(tuple(self.counts), self.total)


class Observed:
    """Takes every released outcome; what it holds is read by `snapshot`."""

    def __init__(self) -> None:
        self.outcomes: Counter[tuple[str, str, str]] = Counter()  # camera, verdict, reason
        self.stages: defaultdict[tuple[str, str], Tally] = defaultdict(Tally)  # camera, stage
        self.decision: defaultdict[str, Tally] = defaultdict(Tally)
        self.slack: defaultdict[str, Tally] = defaultdict(Tally)
        self.decided_at: dict[str, float] = {}
        self.expired_in_a_row, self.expired_at = 0, 0.0
        self._names: set[str] = set()

    def take(self, outcome: Outcome, now: float) -> None:
        """Count `outcome`, released at `now`."""
        camera, reason = outcome.key.camera, Reason(outcome.reason)
        self.outcomes[camera, outcome.verdict, reason.name] += 1
        self.decision[camera].add(outcome.latency_ms / 1000)
        self.slack[camera].add(outcome.left_ms / 1000)
        for stage, ms in outcome.stages.items():
            self.stages[camera, self._known(stage)].add(ms / 1000)
        if reason in EXPIRED:
            self.expired_in_a_row, self.expired_at = self.expired_in_a_row + 1, now
        else:
            self.expired_in_a_row = 0
            self.decided_at[camera] = now

    def _known(self, stage: str) -> str:
        if len(self._names) < STAGES:
            self._names.add(stage)
        return stage if stage in self._names else OTHER
