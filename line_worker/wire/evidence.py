"""What was found in a picture, and what became of the part: the worker's result and the one outcome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from line_worker.verdicts import Reason, Verdict, verdict_of
from line_worker.wire.header import FrameKey


@dataclass(frozen=True, slots=True)
class Region:
    """An anomalous region: box in pixels of the original image and the evidence of its worst patch."""

    x: int
    y: int
    w: int
    h: int
    zone: tuple[int, ...]
    error: float
    neighbours: float
    limit: float
    sigma: float


def _chance(p_value: float | None, score: float | None) -> None:
    """Check a p-value: a chance, and only beside the score that it is about.

    Raises:
        ValueError: it is something else.
    """
    if p_value is not None and (score is None or not 0 <= p_value <= 1):
        raise ValueError(f"a p-value of {p_value} beside a score of {score}")


@dataclass(frozen=True, slots=True)
class Result:
    """What a worker found; `checksum` proves which pixels it saw, `stages` holds milliseconds by stage.

    `p_value`: the chance that a good part scores this much or more; None without a score or a calibration.
    """

    KIND: ClassVar[int] = 18
    MAX_BODY: ClassVar[int] = 32 * 1024  # its evidence travels on inside an Outcome
    key: FrameKey
    lease: int
    session: int
    bundle: str
    checksum: int
    reason: int
    score: float | None
    threshold: float | None
    regions: tuple[Region, ...]
    stages: dict[str, float]
    p_value: float | None = None

    def __post_init__(self) -> None:
        _chance(self.p_value, self.score)


@dataclass(frozen=True, slots=True)
class View:
    """What became of one camera's picture of a part that several cameras look at."""

    key: FrameKey
    verdict: str
    reason: int
    score: float | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """The one immutable outcome of a key, with its evidence.

    `row` numbers the journal's rows; `left_ms` is what remains of the part's deadline when the hub sends it;
    `latency_ms` counts from t0 to the decision; `wall` is Unix time, for people; `p_value` as in `Result`. What was
    recorded before protocol version 2 has none. `views` are there where several cameras have looked at the part.
    """

    KIND: ClassVar[int] = 33
    row: int
    key: FrameKey
    verdict: str
    reason: int
    score: float | None
    threshold: float | None
    regions: tuple[Region, ...]
    bundle: str
    worker: str
    attempt: int
    part_id: str
    trigger: int
    latency_ms: float
    left_ms: float
    wall: float
    stages: dict[str, float]
    p_value: float | None = None
    views: tuple[View, ...] = ()

    def __post_init__(self) -> None:
        _chance(self.p_value, self.score)
        if self.verdict != verdict_of(Reason(self.reason)):
            raise ValueError(f"{self.verdict} cannot stand beside reason {self.reason}")

    @property
    def passed(self) -> bool:
        """Whether the part may go on."""
        return self.verdict == Verdict.PASS
