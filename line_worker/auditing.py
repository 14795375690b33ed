"""`line-worker audit`: do the books balance? Proves from the hub's journal that nothing was lost.

For every camera and epoch: announced = PASS + FAIL + NO_DECISION, every key once, every verdict beside a reason that
allows it, every PASS with a bundle and a score under its threshold, and where several cameras have looked at a part,
with the rows of the views that it names. The journal is opened read-only, also while the
hub runs: what is then announced and not yet decided gets a moment to be decided before it counts as missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from line_worker.errors import JournalError
from line_worker.hub.journal import READABLE, SCHEMA_VERSION
from line_worker.verdicts import Reason, Verdict, reason_of, verdict_of

SHOWN = 20  # ranges of keys that a report lists before it says "and more"
SETTLE_S, LOOK_S = 10.0, 0.5  # how long parts of a running line may take to be decided, and between two looks

Name = tuple[str, str, int]  # line, camera, epoch
Ranges = tuple[tuple[int, int], ...]  # first and last of consecutive sequence numbers


@dataclass(frozen=True, slots=True)
class Books:
    """One camera's epoch: what was announced and what became of it.

    `missing`: announced and without an outcome; `in_flight`: how many were so only for a moment, while the hub ran;
    `unannounced`: outcomes beyond what was announced; `double`: keys with more than one outcome; `wrong`: outcomes
    that contradict themselves, in words.
    """

    line: str
    camera: str
    epoch: int
    announced: int
    passed: int
    failed: int
    no_decision: dict[str, int]
    missing: Ranges
    unannounced: Ranges
    double: tuple[int, ...]
    wrong: tuple[str, ...]
    in_flight: int = 0

    @property
    def balanced(self) -> bool:
        """Whether every announced key has exactly one sound outcome."""
        return not (self.missing or self.unannounced or self.double or self.wrong)

    @property
    def undecided(self) -> int:
        """Outcomes that are NO_DECISION."""
        return sum(self.no_decision.values())


@dataclass(frozen=True, slots=True)
class Audit:
    """The result for one journal."""

    journal: Path
    epochs: tuple[Books, ...]

    @property
    def balanced(self) -> bool:
        """Whether all books balance."""
        return all(books.balanced for books in self.epochs)

    @property
    def announced(self) -> int:
        """Parts announced in all."""
        return sum(books.announced for books in self.epochs)


def audit(journal: Path, settle_s: float = SETTLE_S) -> Audit:
    """Return the audit of the journal; keys that are open get `settle_s` to be decided.

    Raises:
        JournalError: the file is not there, is no journal, or is of another version.
    """
    found = first = _read(journal)
    until = time.monotonic() + settle_s
    before = {(books.line, books.camera, books.epoch): books.missing for books in first}
    while any(books.missing for books in found) and time.monotonic() < until:
        time.sleep(min(LOOK_S, settle_s))
        later = _read(journal)
        found = tuple(_settled(books, before.get((books.line, books.camera, books.epoch), ())) for books in later)
    return Audit(journal, found)


def _settled(books: Books, before: Ranges) -> Books:
    """Count as missing only what was missing `before` too; the rest is in flight."""
    pairs = ((max(a[0], b[0]), min(a[1], b[1])) for a in books.missing for b in before)
    missing = tuple((first, last) for first, last in pairs if first <= last)
    return dataclasses.replace(books, missing=missing, in_flight=_size(books.missing) - _size(missing))


def _size(ranges: Ranges) -> int:
    return sum(last - first + 1 for first, last in ranges)


def render(found: Audit) -> str:
    """Return the audit as text for people."""
    lines = [f"{found.journal}: {len(found.epochs)} epoch(s)"]
    for books in found.epochs:
        lines += _render_books(books)
    lines.append("the books balance" if found.balanced else "THE BOOKS DO NOT BALANCE")
    return "\n".join(lines)


def to_json(found: Audit) -> dict[str, Any]:
    """Return the audit as JSON-able fields."""
    return {
        "journal": str(found.journal),
        "balanced": found.balanced,
        "announced": found.announced,
        "pass": sum(books.passed for books in found.epochs),
        "fail": sum(books.failed for books in found.epochs),
        "no_decision": dict(sum((Counter(books.no_decision) for books in found.epochs), Counter())),
        "epochs": [_books_to_json(books) for books in found.epochs],
    }


def run(journal: Path, *, as_json: bool = False, settle_s: float = SETTLE_S) -> int:
    """Print the audit; returns 0 when the books balance, 1 when they do not."""
    found = audit(journal, settle_s)
    sys.stdout.write((json.dumps(to_json(found)) if as_json else render(found)) + "\n")
    return 0 if found.balanced else 1


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read(journal: Path) -> tuple[Books, ...]:
    with reading(journal) as db:
        announced = {(line, camera, epoch): n for line, camera, epoch, n in db.execute(_ANNOUNCED)}
        counts: dict[Name, Counter[tuple[str, int]]] = {}
        for line, camera, epoch, verdict, reason, n in db.execute(_COUNTS):
            counts.setdefault((line, camera, epoch), Counter())[verdict, reason] = n
        names = sorted({*announced, *counts})
        return tuple(_books(db, name, announced.get(name, 0), counts.get(name, Counter())) for name in names)


_ANNOUNCED = "SELECT line, camera, epoch, announced FROM epochs"
_COUNTS = "SELECT line, camera, epoch, verdict, reason, count(*) FROM outcomes GROUP BY 1, 2, 3, 4, 5"
_OF_EPOCH = "FROM outcomes WHERE line = ? AND camera = ? AND epoch = ?"
_EXTENT = f"SELECT count(*), count(DISTINCT seq), max(seq) {_OF_EPOCH}"  # one look tells whether all is well
_SEQS = f"SELECT DISTINCT seq {_OF_EPOCH} ORDER BY seq"
_DOUBLE = f"SELECT seq {_OF_EPOCH} GROUP BY seq HAVING count(*) > 1 ORDER BY seq"
_UNSOUND = (
    f"SELECT seq {_OF_EPOCH} AND verdict = 'PASS' "
    "AND (score IS NULL OR threshold IS NULL OR score > threshold OR bundle = '')"
)
_UNSEEN = (  # a view that passed by what the part says, and not by its own row
    f"SELECT DISTINCT part.seq {_OF_EPOCH.replace('outcomes', 'outcomes AS part, json_each(part.detail, ?) AS view')} "
    "AND part.verdict = 'PASS' AND part.detail LIKE '%\"views\"%' AND view.value ->> '$.verdict' = 'PASS' "
    "AND NOT EXISTS (SELECT 1 FROM outcomes AS own WHERE own.line = part.line AND own.verdict = 'PASS' "
    "AND own.camera = view.value ->> '$.key.camera' AND own.epoch = view.value ->> '$.key.epoch' "
    "AND own.seq = view.value ->> '$.key.seq')"
)


def _books(db: sqlite3.Connection, name: Name, announced: int, counts: Counter[tuple[str, int]]) -> Books:
    by_verdict: Counter[str] = Counter()
    for (verdict, _), n in counts.items():
        by_verdict[verdict] += n
    double: tuple[int, ...] = ()
    missing: Ranges = ()
    unannounced: Ranges = ()
    if db.execute(_EXTENT, name).fetchone() != (announced, announced, announced - 1 if announced else None):
        double = tuple(seq for (seq,) in db.execute(_DOUBLE, name))
        missing, unannounced = _differences((seq for (seq,) in db.execute(_SEQS, name)), announced)
    undecided = {_name(reason): n for (verdict, reason), n in sorted(counts.items()) if verdict == Verdict.NO_DECISION}
    return Books(
        *name,
        announced=announced,
        passed=by_verdict[Verdict.PASS],
        failed=by_verdict[Verdict.FAIL],
        no_decision=undecided,
        missing=missing,
        unannounced=unannounced,
        double=double,
        wrong=(
            *_contradictions(counts),
            *(f"PASS of {seq} without proof" for (seq,) in db.execute(_UNSOUND, name)),
            *(f"PASS of {seq} by a view that did not" for (seq,) in db.execute(_UNSEEN, ("$.views", *name))),
        ),
    )


def _contradictions(counts: Counter[tuple[str, int]]) -> Iterator[str]:
    """Yield what no outcome may say: a verdict beside a reason that belongs to another one."""
    known = {int(reason): verdict_of(reason) for reason in Reason}
    for (verdict, reason), n in counts.items():
        if known.get(reason) != verdict:
            yield f"{n} outcome(s) {verdict} with reason {_name(reason)}"


def _differences(seqs: Iterable[int], announced: int) -> tuple[Ranges, Ranges]:
    """Return (missing, unannounced) ranges, given the rising sequence numbers that have an outcome."""
    missing: list[tuple[int, int]] = []
    unannounced: list[tuple[int, int]] = []
    expected = 0
    for seq in seqs:
        if seq >= announced:
            unannounced.append((seq, seq))
            continue
        if seq > expected:
            missing.append((expected, seq - 1))
        expected = seq + 1
    if expected < announced:
        missing.append((expected, announced - 1))
    return tuple(missing), _joined(unannounced)


def _joined(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Join neighbouring ranges."""
    joined: list[tuple[int, int]] = []
    for first, last in ranges:
        if joined and joined[-1][1] + 1 == first:
            joined[-1] = joined[-1][0], last
        else:
            joined.append((first, last))
    return tuple(joined)


@contextlib.contextmanager
def reading(journal: Path) -> Iterator[sqlite3.Connection]:
    """Open a journal read-only, one view of everything; raises JournalError when it cannot be read."""
    if not journal.is_file():
        raise JournalError(f"{journal}: there is no journal; nothing was audited; it is journal.sqlite in line.data")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(journal))}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")  # one view of everything, while the hub goes on writing
            (version,) = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() or ("?",)
            if version not in READABLE:
                raise JournalError(
                    f"{journal}: schema {version}, this version audits {SCHEMA_VERSION}; nothing was audited; "
                    "use the line-worker that wrote it"
                )
            yield db
    except sqlite3.Error as error:
        raise JournalError(
            f"{journal}: cannot be read as a journal ({error}); nothing was audited; check the path, or use a copy"
        ) from error


# ---- showing ---------------------------------------------------------------------------------------------------------


def _render_books(books: Books) -> Iterator[str]:
    yield f"  {books.line}/{books.camera}/{books.epoch}"
    yield (
        f"    announced {books.announced} = {books.passed} PASS + {books.failed} FAIL + {books.undecided} NO_DECISION"
        + (f" + {books.in_flight} in flight" if books.in_flight else "")
    )
    for reason, n in books.no_decision.items():
        yield f"      NO_DECISION({reason}): {n}"
    for what, ranges in (("without an outcome", books.missing), ("never announced", books.unannounced)):
        if ranges:
            yield f"    {what}: {_size(ranges)}: {_shown(ranges)}"
    if books.double:
        yield f"    decided more than once: {len(books.double)}: {_shown(_joined((seq, seq) for seq in books.double))}"
    yield from (f"    contradiction: {text}" for text in books.wrong[:SHOWN])


def _shown(ranges: Ranges) -> str:
    texts = [str(first) if first == last else f"{first}-{last}" for first, last in ranges[:SHOWN]]
    return ", ".join(texts) + (" and more" if len(ranges) > SHOWN else "")


def _books_to_json(books: Books) -> dict[str, Any]:
    fields = dataclasses.asdict(books)
    return {"pass": fields.pop("passed"), "fail": fields.pop("failed"), "balanced": books.balanced, **fields}


def _name(reason: int) -> str:
    known = reason_of(reason)
    return str(reason) if known is None else known.name
