"""What the page says beside the picture, as plain data: station, counts, rates, latency. Pure; time is an argument."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from line_worker.live.words import REASONS, STATES, STOPS
from line_worker.verdicts import StationState, StopCause, reason_of
from line_worker.wire.messages import HubState, Outcome

WINDOW = 1000  # parts that rates and percentiles are made of
SILENT_S = 1.0  # without the hub's beat, and nothing on the page is true any more

_REASONS = {reason.name: words for reason, words in REASONS.items() if words}


class Board:
    """Hears what the hub says; `view` is what there is to show.

    deadlines: milliseconds by camera, and by the name of parts that several cameras look at. own: the page's own name
    among the sinks. views: cameras whose pictures count only together with others': they are no parts.
    """

    def __init__(self, line: str, deadlines: Mapping[str, float], own: str = "", views: Collection[str] = ()) -> None:
        self._line, self._deadlines, self._own = line, dict(deadlines), own
        self._views = frozenset(views)
        self._passed: dict[str, deque[bool]] = {name: deque(maxlen=WINDOW) for name in deadlines}
        self._latencies: dict[str, deque[float]] = {name: deque(maxlen=WINDOW) for name in deadlines}
        self._times: deque[float] = deque(maxlen=WINDOW)
        self._state: HubState | None = None
        self._beat_at = float("-inf")
        self._told: Mapping[str, Any] = {}

    def take(self, outcome: Outcome, now: float) -> None:
        """Count one outcome."""
        camera = outcome.key.camera
        if camera in self._deadlines:
            self._passed[camera].append(outcome.passed)
            self._latencies[camera].append(outcome.latency_ms)
            if camera not in self._views:
                self._times.append(now)

    def beat(self, state: HubState, now: float) -> None:
        """Take the hub's state."""
        self._state, self._beat_at = state, now

    def told(self, status: Mapping[str, Any]) -> None:
        """Take what the hub's control socket says of sinks, cameras and alarms; empty when it says nothing."""
        self._told = status

    def view(self, now: float) -> dict[str, Any]:
        """Return everything, as JSON has it."""
        return {
            "line": self._line,
            "reasons": _REASONS,
            **self._station(now),
            "sinks": {name: well for name, well in self._told.get("sinks", {}).items() if name != self._own},
            "cameras": {name: self._camera(name) for name in self._deadlines},
            "choices": [name for name in self._deadlines if name not in self._views],
            "sources": self._told.get("cameras", {}),
            "thresholds": self._told.get("thresholds", {}),
            "threshold_changes": self._told.get("threshold_changes", []),
            "alarms": [alarm["text"] for alarm in self._told.get("alarms", ())],
            "parts_a_second": self._pace(now),
            "recent": self._rejects(passed for name, passed in self._passed.items() if name not in self._views),
        }

    def _station(self, now: float) -> dict[str, Any]:
        state, silent_s = self._state, now - self._beat_at
        if state is None or silent_s > SILENT_S:
            since = f" for {silent_s:.0f} s" if state else " yet"
            return {
                "state": "SILENT",
                "state_words": "No signal",
                "cause": f"The line has not been heard{since}. What is shown is old.",
                "stop": "",
                "counts": dict(state.counts) if state else {},
                "warnings": [],
                "open_parts": None,
                "workers": None,
                "bundle": "",
            }
        name = StationState(state.state)
        return {
            "state": name.name,
            "state_words": STATES[name],
            "cause": state.cause,
            "stop": STOPS[StopCause(state.stop_line)],
            "counts": dict(state.counts),
            "warnings": list(state.warnings),
            "open_parts": state.open_parts,
            "workers": state.workers,
            "bundle": state.bundle,
        }

    def _camera(self, name: str) -> dict[str, Any]:
        latencies = sorted(self._latencies[name])
        return {
            "deadline_ms": self._deadlines[name],
            "p50_ms": percentile(latencies, 0.5),
            "p99_ms": percentile(latencies, 0.99),
            **self._rejects([self._passed[name]]),
        }

    @staticmethod
    def _rejects(passed: Iterable[deque[bool]]) -> dict[str, Any]:
        parts = rejects = 0
        for one in passed:
            parts, rejects = parts + len(one), rejects + len(one) - sum(one)
        return {"parts": parts, "rejects": rejects, "rate": rejects / parts if parts else None}

    def _pace(self, now: float) -> float:
        """Return parts a second over the last ten seconds."""
        recent = [at for at in self._times if now - at <= 10]
        return len(recent) / max(now - recent[0], 1.0) if recent else 0.0


def percentile(ordered: list[float], share: float) -> float | None:
    """Return the smallest value that at least `share` of `ordered` do not exceed (nearest rank); None of nothing."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def part_of(outcome: Outcome, deadline_ms: float | None) -> dict[str, Any]:
    """Return one part as the page shows it; numbers of 64 bits are text, which JavaScript cannot round."""
    reason = reason_of(outcome.reason)
    return {
        "camera": outcome.key.camera,
        "epoch": str(outcome.key.epoch),
        "seq": outcome.key.seq,
        "part_id": outcome.part_id,
        "verdict": outcome.verdict,
        "reason": reason.name if reason is not None else str(outcome.reason),
        "words": REASONS.get(reason, "") if reason is not None else "",
        "score": outcome.score,
        "threshold": outcome.threshold,
        "p_value": outcome.p_value,
        "regions": [[region.x, region.y, region.w, region.h] for region in outcome.regions],
        "latency_ms": outcome.latency_ms,
        "deadline_ms": deadline_ms,
        "wall": outcome.wall,
        "worker": outcome.worker,
        "bundle": outcome.bundle,
    }
