"""The shadow's book: every comparison, and how many parts it has not seen, in one SQLite file.

A run is what can be counted in one piece: one start of the shadow, one hub, one pair of bundles. The hub numbers its
rows without gaps, so the first and last row of a run tell how many parts the line decided meanwhile, and the gap to
the next run how many while the shadow was away. Written once a second: what a kill takes is missing from the
comparisons, and counts as not seen. The newest `KEPT` comparisons stay, so that the file cannot fill the disk.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from line_worker.errors import SinkError
from line_worker.sink.shadow.comparison import Comparison, Judgement
from line_worker.verdicts import Reason
from line_worker.wire.messages import FrameKey

SCHEMA_VERSION = 1
KEPT = 200_000  # comparisons, some 50 MB

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
  run INTEGER PRIMARY KEY, bundle TEXT NOT NULL, shadow TEXT NOT NULL, began REAL NOT NULL,
  first_row INTEGER NOT NULL, last_row INTEGER NOT NULL, compared INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS skipped (
  run INTEGER NOT NULL, why TEXT NOT NULL, parts INTEGER NOT NULL, PRIMARY KEY (run, why)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS comparisons (
  number INTEGER PRIMARY KEY, run INTEGER NOT NULL, line TEXT NOT NULL, camera TEXT NOT NULL, epoch INTEGER NOT NULL,
  seq INTEGER NOT NULL, row INTEGER NOT NULL, wall REAL NOT NULL,
  reason INTEGER NOT NULL, score REAL, threshold REAL, p_value REAL,
  shadow_reason INTEGER NOT NULL, shadow_score REAL, shadow_threshold REAL, shadow_p_value REAL,
  picture TEXT NOT NULL);
"""
_RUN = "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?)"
_SKIPPED = "INSERT OR REPLACE INTO skipped VALUES (?, ?, ?)"
_COMPARISON = f"INSERT INTO comparisons VALUES (NULL{', ?' * 16})"
_PRUNE = "DELETE FROM comparisons WHERE number <= (SELECT max(number) FROM comparisons) - ?"
_READ = (
    "SELECT line, camera, epoch, seq, row, wall, reason, score, threshold, p_value, shadow_reason, shadow_score, "
    "shadow_threshold, shadow_p_value, picture FROM comparisons WHERE run IN (SELECT run FROM runs "
    "WHERE bundle = ? AND shadow = ?) ORDER BY number"
)


@dataclass(slots=True)
class Run:
    """See the module's text; `skipped`: why -> parts that were not compared. Rows are 0 until one was seen."""

    number: int
    bundle: str
    shadow: str
    began: float
    first_row: int = 0
    last_row: int = 0
    compared: int = 0
    skipped: Counter[str] = field(default_factory=Counter)

    def saw(self, row: int) -> None:
        """Count a decided part; one without a row (the journal failed) has no place in the count."""
        if row > 0:
            self.first_row = self.first_row or row
            self.last_row = max(self.last_row, row)

    @property
    def decided(self) -> int:
        """Parts that the line decided meanwhile."""
        return self.last_row - self.first_row + 1 if self.first_row else 0


class Book:
    """The writing end.

    Raises:
        SinkError: the file cannot be opened or written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[tuple[Any, ...]] = []
        with self._said("opened"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = _open(path)
            self._last = int(self._db.execute("SELECT coalesce(max(run), 0) FROM runs").fetchone()[0])

    def begin(self, bundle: str, shadow: str, wall: float) -> Run:
        """Return a new run."""
        self._last += 1
        return Run(self._last, bundle, shadow, wall)

    def add(self, run: Run, found: Comparison) -> None:
        """Keep a comparison; it is written with the next `commit`."""
        key, line, shadow = found.key, found.line, found.shadow
        run.compared += 1
        self._waiting.append(
            (
                *(run.number, key.line, key.camera, key.epoch, key.seq, found.row, found.wall),
                *(int(line.reason), line.score, line.threshold, line.p_value),
                *(int(shadow.reason), shadow.score, shadow.threshold, shadow.p_value, found.picture),
            )
        )

    def commit(self, run: Run) -> None:
        """Write what was added, and how `run` stands, in one transaction."""
        fields = (run.number, run.bundle, run.shadow, run.began, run.first_row, run.last_row, run.compared)
        waiting, self._waiting = self._waiting, []  # what cannot be written is not kept for ever
        with self._said("written"), self._db:
            self._db.execute(_RUN, fields)
            self._db.executemany(_SKIPPED, [(run.number, why, parts) for why, parts in run.skipped.items()])
            self._db.executemany(_COMPARISON, waiting)
            self._db.execute(_PRUNE, (KEPT,))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _said(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise SinkError(
                f"{self._path}: the shadow's book cannot be {what} ({error}); its comparisons are lost, the line goes "
                "on; check the disk and the folder's permissions, or move the file aside"
            ) from error


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=1.0)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"written by another version: schema {version}, this one is {SCHEMA_VERSION}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")  # few syncs: the journal may lie on the same disk
        db.executescript(f"{_SCHEMA}PRAGMA user_version={SCHEMA_VERSION};")
    except sqlite3.Error:
        db.close()
        raise
    return db


@dataclass(frozen=True, slots=True)
class Pages:
    """What a book holds of the pair of bundles that was compared last, oldest first; `pairs` counts all of them."""

    runs: Sequence[Run]
    comparisons: Sequence[Comparison]
    away: int
    pairs: int


def read_book(path: Path) -> Pages:
    """Return what the book at `path` says of its newest pair of bundles; it may be in use.

    Raises:
        SinkError: it is not there, or cannot be read.
    """
    if not path.is_file():
        raise SinkError(
            f'{path}: there is no book, so no shadow has run here; add [[sinks]] with kind = "shadow" and a bundle to '
            "the line's configuration, and let it run"
        )
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as db:
            db.execute("BEGIN")  # one view of all tables
            return _pages(db)
    except (sqlite3.Error, ValueError) as error:
        raise SinkError(f"{path}: cannot be read as a shadow's book ({error}); move it aside") from error


def _pages(db: sqlite3.Connection) -> Pages:
    skipped: dict[int, Counter[str]] = {}
    for number, why, parts in db.execute("SELECT run, why, parts FROM skipped"):
        skipped.setdefault(number, Counter())[why] = parts
    runs = [Run(*row) for row in db.execute("SELECT * FROM runs ORDER BY run")]
    for run in runs:
        run.skipped.update(skipped.get(run.number, {}))
    if not runs:
        return Pages((), (), 0, 0)
    pair = runs[-1].bundle, runs[-1].shadow
    ours = [run for run in runs if (run.bundle, run.shadow) == pair]
    return Pages(ours, [_comparison(row) for row in db.execute(_READ, pair)], away(runs, pair), len(_pairs(runs)))


def _pairs(runs: Sequence[Run]) -> set[tuple[str, str]]:
    return {(run.bundle, run.shadow) for run in runs}


def away(runs: Sequence[Run], pair: tuple[str, str]) -> int:
    """Return how many parts were decided between runs of `pair` that follow each other.

    Rows that begin anew (a new journal) tell nothing.
    """
    seen = [run for run in runs if run.first_row]
    return sum(
        max(0, after.first_row - before.last_row - 1)
        for before, after in pairwise(seen)
        if (before.bundle, before.shadow) == pair == (after.bundle, after.shadow)
    )


def _comparison(row: tuple[Any, ...]) -> Comparison:
    line, shadow = Judgement(Reason(row[6]), *row[7:10]), Judgement(Reason(row[10]), *row[11:14])
    return Comparison(FrameKey(*row[:4]), row[4], row[5], line, shadow, row[14])
