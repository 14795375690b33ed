"""One moment of the hub, immutable: the hub's loop takes it, the thread that serves metrics and `/health` reads it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from line_worker.hub.alarms import Alarm
from line_worker.hub.canary import Aviary
from line_worker.hub.challenge import Challenge
from line_worker.hub.drift import Drift
from line_worker.hub.observed import Histogram, Observed
from line_worker.hub.outbox import SinkView
from line_worker.verdicts import StationState, StopCause, Verdict

if TYPE_CHECKING:
    from line_worker.hub.run import Hub

STALLED_S = 1.0  # a loop that has taken no snapshot for this long stands still; it takes four a second
OVERDUE_S = 0.25  # how long after its deadline a part may be open, on a machine that has other work
EXPIRED_PARTS, EXPIRED_S = 5, 10.0  # so many parts in a row that only time decided, the last one so recently


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What there was at the monotonic time `at`. Whatever could change is a copy: nobody changes it."""

    at: float
    line: str
    bundle: str
    state: StationState
    cause: str
    workers: int
    recycled: int
    leases: int
    waiting: int
    open_parts: int
    next_due: float | None
    newest_row: int
    owed_rows: int
    journal_error: str
    sources: dict[str, bool]  # camera -> whether it gives frames
    sinks: tuple[SinkView, ...]
    refused: dict[str, int]
    drift: tuple[Drift, ...]
    stop_line: StopCause
    alarms: tuple[Alarm, ...]
    canaries: dict[str, Aviary]
    challenges: dict[str, Challenge]
    outcomes: dict[tuple[str, str, str], int]
    stages: dict[tuple[str, str], Histogram]
    decision: dict[str, Histogram]
    slack: dict[str, Histogram]
    decided_at: dict[str, float]
    expired_in_a_row: int
    expired_at: float


def take(hub: Hub, observed: Observed, now: float) -> Snapshot:
    """Return the hub's state at `now`."""
    ledger, station = hub.ledger, hub.station
    return Snapshot(
        at=now,
        line=ledger.line,
        bundle=hub.workers.bundle,
        state=station.state,
        cause=station.cause,
        workers=len(hub.workers),
        recycled=hub.workers.recycled,
        leases=hub.workers.leases,
        waiting=ledger.waiting_parts,
        open_parts=ledger.open_parts,
        next_due=ledger.next_due(),
        newest_row=hub.books.newest_row,
        owed_rows=hub.books.owed,
        journal_error=hub.books.error,
        sources=hub.sources.well,
        sinks=hub.outbox.views(),
        refused={what: n for what, n in ledger.counts.items() if what not in set(Verdict)} | hub.turned_away(),
        drift=hub.drift.seen(),
        stop_line=hub.guard.alarms.stop_line,
        alarms=tuple(hub.guard.alarms),
        canaries={name: replace(one, bait=None) for name, one in hub.guard.canaries.cameras.items()},
        challenges={name: replace(one) for name, one in hub.guard.challenges.cameras.items()},
        outcomes=dict(observed.outcomes),
        stages={name: tally.frozen for name, tally in observed.stages.items()},
        decision={name: tally.frozen for name, tally in observed.decision.items()},
        slack={name: tally.frozen for name, tally in observed.slack.items()},
        decided_at=dict(observed.decided_at),
        expired_in_a_row=observed.expired_in_a_row,
        expired_at=observed.expired_at,
    )


def troubles(seen: Snapshot | None, now: float) -> list[str]:
    """Return why decisions have stopped or may not be trusted, in words; nothing while all is well."""
    if seen is None:
        return ["the hub's loop has not turned yet"]
    found = []
    if now - seen.at > STALLED_S:
        found.append(f"the hub's loop has stood still for {now - seen.at:.1f} s")
    if seen.next_due is not None and now - seen.next_due > OVERDUE_S:
        found.append(f"a part has been open for {now - seen.next_due:.1f} s beyond its deadline")
    if seen.expired_in_a_row >= EXPIRED_PARTS and now - seen.expired_at < EXPIRED_S:
        found.append(f"the last {seen.expired_in_a_row} parts met their deadline undecided")
    if seen.state is StationState.FAULT:
        found.append(f"the station is in FAULT: {seen.cause}")
    return found


def health(seen: Snapshot | None, now: float) -> dict[str, object]:
    """Return what `/health` says; `status` is red when there are troubles."""
    why = troubles(seen, now)
    told: dict[str, object] = {"status": "red" if why else "ok", "why": why}
    if seen is not None:
        decided = max(seen.decided_at.values(), default=None)
        told |= {
            "line": seen.line,
            "state": seen.state.name,
            "cause": seen.cause,
            "workers": seen.workers,
            "open_parts": seen.open_parts,
            "last_decision_age_s": None if decided is None else round(now - decided, 3),
            "alarms": [str(alarm) for alarm in seen.alarms],
            "warnings": [str(drift) for drift in seen.drift if drift.alarm],
        }
    return told
