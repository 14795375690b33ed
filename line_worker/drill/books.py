"""Three books of one line, kept by three processes that do not trust each other, and where they contradict.

    source    what was triggered, written down before it was announced: epoch, seq, when, and when it was announced
    journal   what was decided: one row per key
    PLC       what the simulated PLC was given and what it let pass, by its own program and its own clock

All times are this host's monotonic seconds. `examine` is pure; `read` does the reading.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from line_worker.verdicts import Reason, Verdict

Key = tuple[int, int]  # epoch, seq
TICK_S = 0.005
SETTLE_S = 0.5  # after an outage of the hub, until its answers count as undisturbed


class Row(NamedTuple):
    """One row of the journal."""

    verdict: str
    reason: int
    latency_s: float
    bundle: str
    score: float | None
    threshold: float | None


@dataclass(frozen=True, slots=True)
class Books:
    """The three books, and what the log sink has."""

    deadline_s: float
    triggered: dict[Key, float]
    announced: dict[int, int]
    rows: list[tuple[Key, Row]]
    totals: dict[str, int]
    plc: list[dict[str, Any]]
    logged: set[Key]
    acknowledged: int  # rows that the log has acknowledged; the journal owes it the others
    waits: list[tuple[float, float]] = field(default_factory=list)  # of the hub's loop: when, and seconds
    told: dict[Key, float] = field(default_factory=dict)  # when it was announced, for those of which that is known

    def longest_wait(self, outages: list[tuple[float, float]]) -> float:
        """Return the longest time that the hub has waited for the processor or the disk, outside of outages."""
        undisturbed = (
            waited
            for at, waited in self.waits
            if not any(at <= end + SETTLE_S and begin <= at + waited for begin, end in outages)
        )
        return max(undisturbed, default=0.0)


@dataclass(slots=True)
class Verdicts:
    """What the books say. `wrong` holds contradictions by the number of the invariant; empty when all is well."""

    frames: int = 0
    decided: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    undecided: int = 0
    double: int = 0
    never_heard_of: int = 0
    owed: int = 0
    passed_without_row: int = 0
    plc_received: int = 0
    plc_accepted: int = 0
    worst_decision_ms: float = 0.0
    worst_accepted_ms: float = float("-inf")
    wrong: dict[int, list[str]] = field(default_factory=dict)

    def blame(self, invariant: int, texts: Iterable[str]) -> None:
        """Note contradictions of `invariant`."""
        for text in texts:
            self.wrong.setdefault(invariant, []).append(text)


class Paths(NamedTuple):
    """Where the books lie: a SQLite file, then files of JSON lines."""

    journal: Path
    source: Path
    plc: Path
    log: Path
    waits: Path


def read(paths: Paths, camera: str, deadline_s: float) -> Books:
    """Read the books of one camera."""
    journal, source, plc, log, waits = paths
    triggers = {(t["epoch"], t["seq"]): t for t in _lines(source)}
    triggered, told = ({key: t[what] for key, t in triggers.items()} for what in ("at", "told"))
    columns = "epoch, seq, verdict, reason, latency_ms, bundle, score, threshold"
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        found = db.execute(f"SELECT {columns} FROM outcomes WHERE camera = ? ORDER BY row", (camera,)).fetchall()
        announced = dict(db.execute("SELECT epoch, announced FROM epochs WHERE camera = ?", (camera,)))
        acknowledged = "SELECT count(*) FROM outcomes WHERE row <= (SELECT row FROM outbox WHERE sink = 'log')"
        [(has_log,)] = db.execute(acknowledged)
        totals = dict(db.execute("SELECT verdict, n FROM totals"))
    rows = [((e, s), Row(v, r, ms / 1000, b, score, limit)) for e, s, v, r, ms, b, score, limit in found]
    logged = {(o["epoch"], o["seq"]) for o in _lines(log)}
    waited = [(wait["begin"], wait["waited"]) for wait in _lines(waits)]
    return Books(deadline_s, triggered, announced, rows, totals, list(_lines(plc)), logged, has_log, waited, told)


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    """Yield the objects of a file of JSON lines; a line that was torn by a kill is none."""
    for line in path.read_text("utf-8").splitlines() if path.exists() else ():
        try:
            found = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield found


def examine(books: Books, outages: list[tuple[float, float]], allowed_s: float) -> Verdicts:
    """Hold the books against each other.

    `outages` are spans in which no hub was deciding; `allowed_s` is how late an answer may be outside of them.
    """
    found = Verdicts(frames=len(books.triggered))
    _accounted(books, found)
    _sound(books, found)
    _in_time(books, outages, allowed_s, found)
    _at_the_plc(books, allowed_s, found)
    return found


def _accounted(books: Books, found: Verdicts) -> None:
    """Invariants 1 and 4: one row a key, and every trigger has one.

    Left out is the end of an epoch that no hub has heard of: its source was killed, or was asked for a new epoch.
    """
    keys = Counter(key for key, _ in books.rows)
    twice = [key for key, n in keys.items() if n > 1]
    found.double += len(twice)
    found.blame(1, (f"{key} has {keys[key]} rows" for key in twice))
    last = {epoch: at for (epoch, _), at in books.triggered.items()}
    newest = max(last, key=last.__getitem__, default=0)
    for key in sorted(books.triggered.keys() - keys.keys()):
        if key[0] != newest and key[1] >= books.announced.get(key[0], 0):
            found.never_heard_of += 1
        else:
            found.undecided += 1
            found.blame(4, [f"{key} was triggered and has no outcome"])
    found.blame(4, (f"{key} has an outcome and was never triggered" for key in keys.keys() - books.triggered.keys()))
    decided = Counter(epoch for epoch, _ in keys)
    for epoch, announced in books.announced.items():
        if decided[epoch] != announced:
            found.blame(4, [f"epoch {epoch}: {announced} announced, {decided[epoch]} decided"])
    found.blame(1, (f"{key} was logged and has no row" for key in books.logged - keys.keys()))
    missed = [key for key, _ in books.rows[: books.acknowledged] if key not in books.logged]
    found.blame(1, (f"{key} was acknowledged by the log and is not in it" for key in missed))
    found.owed = len(books.rows) - books.acknowledged


def _sound(books: Books, found: Verdicts) -> None:
    """Invariants 3 and 9: no PASS without its evidence, and counters that reconcile."""
    for key, row in books.rows:
        found.decided[row.verdict] += 1
        found.reasons[Reason(row.reason).name] += row.verdict == Verdict.NO_DECISION
        proven = row.bundle and row.score is not None and row.threshold is not None and row.score <= row.threshold
        if row.verdict == Verdict.PASS and not (proven and row.reason == Reason.NONE):
            found.blame(3, [f"{key} passed without proof"])
    if {verdict: n for verdict, n in books.totals.items() if n} != dict(found.decided):
        found.blame(9, [f"counters say {books.totals}, rows {dict(found.decided)}"])


def _in_time(books: Books, outages: list[tuple[float, float]], allowed_s: float, found: Verdicts) -> None:
    """Invariant 2: decided by the deadline, or at it, or at once where the hub heard of a part only after that.

    What fell due while no hub was there is left out. One that was stopped dates what it finds back to the stop, the
    earliest moment at which it can have come: so much sooner it answers, and so much of the latency nobody has waited.
    """
    for key, row in books.rows:
        at = books.triggered.get(key, 0.0)
        after_s = max(books.deadline_s, books.told.get(key, at) - at)
        due = at + after_s
        if row.reason == Reason.RESTART or _disturbed(due, outages):
            continue
        dated_back_s = max((at - begin for begin, end in outages if begin <= at <= end), default=0.0)
        late_s = row.latency_s - dated_back_s - after_s
        found.worst_decision_ms = max(found.worst_decision_ms, late_s * 1000)
        if late_s > allowed_s:
            found.blame(2, [f"{key} was decided {late_s * 1000:.0f} ms late"])


def _disturbed(at: float, outages: list[tuple[float, float]]) -> bool:
    return any(begin <= at <= end + SETTLE_S for begin, end in outages)


def _at_the_plc(books: Books, allowed_s: float, found: Verdicts) -> None:
    """Invariants 3, 5 and 6: what the PLC let pass has a PASS on disk, in time and in order, once."""
    epochs = {epoch & 0xFFFF: epoch for epoch in books.announced}
    rows = dict(books.rows)
    last: dict[int, int] = {}
    for booking in (booking for booking in books.plc if booking["received"]):
        key = (epochs.get(booking["epoch16"], -1), booking["seq"])
        found.plc_received += 1
        if booking["seq"] <= last.get(booking["epoch16"], -1):
            found.double += 1
            found.blame(5, [f"{key} was shown to the PLC after {last[booking['epoch16']]}"])
        last[booking["epoch16"]] = booking["seq"]
        if not booking["accepted"]:
            continue
        found.plc_accepted += 1
        row = rows.get(key)
        if row is None or row.verdict != Verdict.PASS:
            found.passed_without_row += 1
            found.blame(6, [f"{key} passed at the PLC; its row says {row.verdict if row else 'nothing'}"])
        late_s = booking["at"] - books.triggered.get(key, float("-inf")) - books.deadline_s
        found.worst_accepted_ms = max(found.worst_accepted_ms, late_s * 1000)
        if late_s > allowed_s:
            found.blame(2, [f"{key} passed at the PLC {late_s * 1000:.0f} ms after its deadline"])
