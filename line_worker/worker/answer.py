"""What a worker says of a frame: the result's fields, and how long each stage took."""

from __future__ import annotations

import math
import time
from typing import Any

from line_worker.verdicts import Reason
from line_worker.wire import messages as m
from line_worker.worker.model import Finding

MAX_REGIONS = 64


class StageClock:
    """Milliseconds by stage of one batch; called after every stage."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        """Close `stage`."""
        now = time.perf_counter()
        self.stages[stage] = self.stages.get(stage, 0.0) + (now - self._last) * 1000
        self._last = now


def result_of(
    lease: m.Lease,
    session: int,
    bundle: str,
    reason: Reason,
    finding: Finding | None = None,
    stages: dict[str, float] | None = None,
) -> m.Result:
    """Return the answer to `lease`; without a `finding` there is no more to say than the `reason`."""
    return m.Result(
        key=lease.frame.key,
        lease=lease.lease,
        session=session,
        bundle=bundle,
        checksum=lease.frame.checksum,
        reason=int(reason),
        score=_finite(finding.score) if finding else None,
        threshold=_finite(finding.threshold) if finding else None,
        regions=tuple(_region(box) for box in finding.boxes[:MAX_REGIONS]) if finding else (),
        stages=stages or {},
        p_value=_finite(finding.p_value) if finding else None,
    )


def _finite(value: float | None) -> float | None:
    """Return `value`, None for NaN and infinity: the hub takes a score without a number for NONFINITE."""
    return value if value is not None and math.isfinite(value) else None


def _region(box: Any) -> m.Region:
    values = box._asdict()
    return m.Region(**{**values, "zone": tuple(int(z) for z in values["zone"])})
