"""Parts that clients have announced, and what there is to answer. Pure: time is an argument (seconds).

A part that has been announced once is not announced again by a client that repeats its request: the key that it gives
tells. What is answered only ever gets worse: a PASS counts until the part's deadline and while the hub is heard.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from line_worker.sink import PartHere
from line_worker.verdicts import Reason, StationState, Verdict
from line_worker.wire.messages import HubState, Outcome

KEPT = 1000
HUB_SILENT_S = 1.0
GRACE_S = 0.5  # after the deadline: NO_DECISION(DEADLINE) is on its way


@dataclass(slots=True)
class Visit:
    """One part: when it was announced, and the outcomes so far, each with the moment until which a PASS counts."""

    number: int
    part_id: str
    at: float
    outcomes: dict[str, tuple[Outcome, float]] = field(default_factory=dict)


class Visits:
    """See the module's text. `names`: the cameras, or parts of several, whose outcomes make the answer.

    first: number of the first part, larger than any that was used before. deadline_s: the longest of them.
    """

    def __init__(self, names: Iterable[str], deadline_s: float, first: int) -> None:
        self._names, self._deadline_s, self._number = tuple(names), deadline_s, first - 1
        self._visits: dict[int, Visit] = {}
        self._keys: dict[str, int] = {}
        self._asks: list[PartHere] = []
        self._state: HubState | None = None
        self._hub_at = float("-inf")

    def announce(self, part_id: str, key: str, now: float) -> Visit | None:
        """A part has come; `key` is the client's own name for this request, or nothing. None: it is another part's."""
        known = self._visits.get(self._keys.get(key, -1)) if key else None
        if known is not None:
            return known if known.part_id == part_id else None
        self._number += 1
        visit = self._visits[self._number] = Visit(self._number, part_id, now)
        self._asks.append(PartHere(self._number, part_id, now))
        if key:
            self._keys[key] = self._number
        for kept in (self._visits, self._keys):
            if len(kept) > KEPT:
                del kept[next(iter(kept))]  # type: ignore[arg-type]
        return visit

    def take_asks(self) -> list[PartHere]:
        """Return the parts announced since the last call."""
        asks, self._asks = self._asks, []
        return asks

    def take(self, outcome: Outcome, now: float) -> None:
        """Note what became of a part; the first outcome stands."""
        visit = self._visits.get(outcome.trigger)
        if visit is not None and outcome.key.camera in self._names:
            visit.outcomes.setdefault(outcome.key.camera, (outcome, now + outcome.left_ms / 1000))

    def beat(self, state: HubState, now: float) -> None:
        """Take the hub's state."""
        self._state, self._hub_at = state, now

    def find(self, number: int) -> Visit | None:
        """Return the part of this number, while it is remembered."""
        return self._visits.get(number)

    def is_over(self, visit: Visit, now: float) -> bool:
        """Whether there is an answer: every outcome has come, or none comes any more."""
        return len(visit.outcomes) == len(self._names) or now > visit.at + self._deadline_s + GRACE_S

    def answer(self, visit: Visit, now: float) -> dict[str, Any]:
        """Return what the client is told."""
        reason = self._reason(visit, now)
        passed, failed = reason is Reason.NONE, reason is Reason.ANOMALY
        verdict = Verdict.PASS if passed else Verdict.FAIL if failed else Verdict.NO_DECISION
        return {
            "trigger": visit.number,
            "part_id": visit.part_id,
            "decided": self.is_over(visit, now),
            "verdict": str(verdict),
            "reason": reason.name,
            "results": [_told(outcome) for outcome, _ in visit.outcomes.values()],
        }

    def _reason(self, visit: Visit, now: float) -> Reason:
        """Return the first reason against the part, NONE when all of it has passed in time."""
        reasons = [Reason(outcome.reason) for outcome, _ in visit.outcomes.values()]
        if Reason.ANOMALY in reasons:
            return Reason.ANOMALY
        bad = next((reason for reason in reasons if reason is not Reason.NONE), None)
        if bad is not None:
            return bad
        if not self._names:
            return Reason.NOT_RUNNING  # no camera looks at anything
        in_time = all(now <= until for _, until in visit.outcomes.values())
        if len(reasons) < len(self._names) or not in_time:
            return Reason.DEADLINE if self.is_over(visit, now) else Reason.NOT_RUNNING
        return Reason.NONE if now - self._hub_at <= HUB_SILENT_S else Reason.NOT_RUNNING

    def station(self, now: float) -> dict[str, Any]:
        """Return how the station is."""
        if self._state is None or now - self._hub_at > HUB_SILENT_S:
            return {"state": StationState.FAULT.name, "cause": "the hub is silent", "stop_line": 0}
        state = self._state
        return {"state": StationState(state.state).name, "cause": state.cause, "stop_line": state.stop_line}


def _told(outcome: Outcome) -> dict[str, Any]:
    return {
        "camera": outcome.key.camera,
        "key": str(outcome.key),
        "verdict": outcome.verdict,
        "reason": Reason(outcome.reason).name,
        "score": outcome.score,
        "threshold": outcome.threshold,
        "latency_ms": round(outcome.latency_ms, 3),
    }
