"""One part as two bundles judged it, and how far apart they are. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from line_worker.verdicts import Reason, Verdict, verdict_of
from line_worker.wire.messages import FrameKey

# what a bundle says of an intact picture; every other reason is about time, the station or the way there
JUDGED = frozenset(
    {Reason.NONE, Reason.ANOMALY, Reason.SHAPE, Reason.NONFINITE}
    | {Reason.NO_OBJECT, Reason.POSE, Reason.EXPOSURE, Reason.FOCUS}
)


class Kind(StrEnum):
    """How two judgements stand to each other; UNDECIDED when either is NO_DECISION."""

    BOTH_PASS = "both_pass"
    BOTH_FAIL = "both_fail"
    ONLY_SHADOW_FAILS = "only_shadow_fails"
    ONLY_SHADOW_PASSES = "only_shadow_passes"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one bundle said of a part; fields as in `Result`."""

    reason: Reason
    score: float | None
    threshold: float | None
    p_value: float | None

    @property
    def verdict(self) -> Verdict:
        """PASS, FAIL or NO_DECISION."""
        return verdict_of(self.reason)

    @property
    def height(self) -> float | None:
        """The score as a multiple of its threshold, which two bundles have in common; None where there is none."""
        if self.score is None or not self.threshold or self.threshold < 0:
            return None
        return self.score / self.threshold


@dataclass(frozen=True, slots=True)
class Comparison:
    """One part: what the line's bundle decided and what the shadow's says.

    `row` is the journal's; `wall` Unix time; `picture` names the file that shows a disagreement, "" for none.
    """

    key: FrameKey
    row: int
    wall: float
    line: Judgement
    shadow: Judgement
    picture: str = ""

    @property
    def kind(self) -> Kind:
        """How the two stand to each other."""
        verdicts = self.line.verdict, self.shadow.verdict
        if Verdict.NO_DECISION in verdicts:
            return Kind.UNDECIDED
        if verdicts[0] == verdicts[1]:
            return Kind.BOTH_PASS if verdicts[0] == Verdict.PASS else Kind.BOTH_FAIL
        return Kind.ONLY_SHADOW_FAILS if verdicts[0] == Verdict.PASS else Kind.ONLY_SHADOW_PASSES

    @property
    def differs(self) -> bool:
        """Whether the part would get another verdict."""
        return self.line.verdict != self.shadow.verdict

    @property
    def apart(self) -> float:
        """How far apart the scores are, in multiples of their thresholds; 0 where one of them has no score."""
        line, shadow = self.line.height, self.shadow.height
        if line is None or shadow is None:
            return 0.0
        return abs(line - shadow)


def share(events: int, trials: int) -> tuple[float, float, float]:
    """Return `events` of `trials` as a share, and its 95 % interval (Wilson 1927)."""
    if not trials:
        return 0.0, 0.0, 1.0
    z2 = 1.96**2
    rate, room = events / trials, 1 + z2 / trials
    middle = (rate + z2 / (2 * trials)) / room
    half = math.sqrt(z2 * (rate * (1 - rate) / trials + z2 / (4 * trials**2))) / room
    low = 0.0 if not events else max(0.0, middle - half)
    return rate, low, 1.0 if events == trials else min(1.0, middle + half)
