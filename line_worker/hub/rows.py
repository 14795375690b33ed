"""How an outcome becomes a row of the journal, and a row an outcome."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from line_worker.hub.part import Decision, Part
from line_worker.wire.messages import FrameKey, Outcome, Region, View


def name_of(key: FrameKey) -> tuple[str, str, int, int]:
    """Return the columns that name a row."""
    return key.line, key.camera, key.epoch, key.seq


def opened_row(part: Part) -> tuple[Any, ...]:
    """Return what is kept of a part of several views while it is open."""
    assert part.frame is not None
    return (*name_of(part.key), part.frame.part_id, part.frame.trigger)


def detail_of(decision: Decision) -> str:
    """Return the evidence that has no column of its own, as JSON."""
    detail = {"regions": [asdict(region) for region in decision.regions], "stages": decision.stages}
    return json.dumps(detail | ({"views": [asdict(view) for view in decision.views]} if decision.views else {}))


def outcome_of(found: tuple[Any, ...]) -> Outcome:
    """Return the outcome that a row with its number and all columns holds."""
    row, line, camera, epoch, seq, verdict, reason, score, threshold, *rest = found
    bundle, worker, attempt, part_id, trigger, _, latency_ms, wall, detail, p_value = rest
    extra = json.loads(detail)
    regions = tuple(Region(**{**region, "zone": tuple(region["zone"])}) for region in extra["regions"])
    return Outcome(
        row=row,
        key=FrameKey(line, camera, epoch, seq),
        verdict=verdict,
        reason=reason,
        score=score,
        threshold=threshold,
        regions=regions,
        bundle=bundle,
        worker=worker,
        attempt=attempt,
        part_id=part_id,
        trigger=trigger,
        latency_ms=latency_ms,
        left_ms=0.0,
        wall=wall,
        stages=extra["stages"],
        p_value=p_value,
        views=tuple(View(**{**view, "key": FrameKey(**view["key"])}) for view in extra.get("views", ())),
    )
