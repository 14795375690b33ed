"""What a drill has found, for people and for scripts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from line_worker.drill.books import Verdicts


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the drill has found; `verdicts.wrong` by invariant is empty when the promise held."""

    asked: dict[str, Any]
    seconds: float
    faults: dict[str, int]
    verdicts: Verdicts
    allowed_late_ms: float
    noise_ms: float
    memory_bytes: int
    memory_bound: int
    silences: int
    folder: str

    @property
    def held(self) -> bool:
        """Whether the promise held."""
        return not self.verdicts.wrong


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON-able fields."""
    fields = asdict(report)
    counters = {"decided": dict(report.verdicts.decided), "reasons": dict(report.verdicts.reasons)}
    fields["verdicts"] |= counters  # asdict counts a Counter's items
    if not math.isfinite(report.verdicts.worst_accepted_ms):
        fields["verdicts"]["worst_accepted_ms"] = None
    return {"held": report.held, **fields}


def render(report: Report) -> str:
    """Return the report for people."""
    v = report.verdicts
    faults = ", ".join(f"{n} {kind}" for kind, n in sorted(report.faults.items())) or "none"
    reasons = ", ".join(f"{n} {reason}" for reason, n in v.reasons.most_common() if n)
    lines = [
        f"faults injected: {sum(report.faults.values())} ({faults})",
        f"frames triggered: {v.frames}, decided: {dict(v.decided)}; never heard of: {v.never_heard_of}",
        f"  NO_DECISION: {reasons or 'none'}",
        f"PLC: {v.plc_received} results received, {v.plc_accepted} parts accepted",
        f"owed to the log when the line stopped: {v.owed}",
        f"undecided: {v.undecided}   double: {v.double}   PASS without a row: {v.passed_without_row}",
        f"worst lateness: a decision {v.worst_decision_ms:.1f} ms, a PASS at the PLC {v.worst_accepted_ms:.1f} ms",
        f"  allowed {report.allowed_late_ms:.1f} ms: a tick of 5 ms, and the longest wait for processor or disk",
        f"memory: {report.memory_bytes / 1e6:.0f} MB of {report.memory_bound / 1e6:.0f} MB",
        f"silences of the hub that no injected fault explains: {report.silences}",
    ]
    for invariant, texts in sorted(v.wrong.items()):
        lines.append(f"INVARIANT {invariant} BROKEN {len(texts)} time(s): " + "; ".join(texts[:5]))
    kept = f"THE PROMISE DID NOT HOLD; everything is kept in {report.folder}"
    lines.append("the promise held" if report.held else kept)
    return "\n".join(lines) + "\n"
