"""The hub's journal: one immutable row per key, on disk before any sink sees the outcome.

SQLite in WAL mode with synchronous=FULL: a commit returns after fdatasync. Rows are inserted, never updated or
deleted (triggers say so). The table doubles as the outbox: a durable sink's cursor says up to which row it has
acknowledged, and everything above is still owed to it, across restarts.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from line_worker.errors import JournalError
from line_worker.hub.ledger import Part
from line_worker.wire.messages import FrameKey, Outcome, Region

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS epochs (
  line TEXT NOT NULL, camera TEXT NOT NULL, epoch INTEGER NOT NULL,
  announced INTEGER NOT NULL, started REAL NOT NULL, PRIMARY KEY (line, camera, epoch));
CREATE TABLE IF NOT EXISTS outcomes (
  row INTEGER PRIMARY KEY AUTOINCREMENT,
  line TEXT NOT NULL, camera TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  verdict TEXT NOT NULL, reason INTEGER NOT NULL, score REAL, threshold REAL,
  bundle TEXT NOT NULL, worker TEXT NOT NULL, attempt INTEGER NOT NULL,
  part_id TEXT NOT NULL, trigger INTEGER NOT NULL, checksum TEXT NOT NULL,
  latency_ms REAL NOT NULL, wall REAL NOT NULL, detail TEXT NOT NULL,
  UNIQUE (line, camera, epoch, seq));
CREATE TABLE IF NOT EXISTS outbox (sink TEXT PRIMARY KEY, row INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS events (id INTEGER PRIMARY KEY, wall REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL);
CREATE TRIGGER IF NOT EXISTS outcomes_stay BEFORE UPDATE ON outcomes
  BEGIN SELECT RAISE(ABORT, 'an outcome never changes'); END;
CREATE TRIGGER IF NOT EXISTS outcomes_last BEFORE DELETE ON outcomes
  BEGIN SELECT RAISE(ABORT, 'an outcome is never deleted'); END;
"""
_COLUMNS = (
    "line, camera, epoch, seq, verdict, reason, score, threshold, bundle, worker, attempt, part_id, trigger, "
    "checksum, latency_ms, wall, detail"
)
_INSERT = f"INSERT INTO outcomes ({_COLUMNS}) VALUES ({', '.join('?' * 17)}) ON CONFLICT DO NOTHING"


@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """An epoch as an earlier hub left it: `holes` were announced and have no row."""

    camera: str
    epoch: int
    next_seq: int
    holes: list[int]


class Journal:
    """Open journal; every method that writes commits before it returns.

    Raises:
        JournalError: the file cannot be opened, read or written.
    """

    def __init__(self, path: Path, line: str) -> None:
        self.path, self._line = path, line
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(_SCHEMA)
            self._check_version()
        except (OSError, sqlite3.Error) as error:
            raise JournalError(
                f"{path}: the journal cannot be opened ({error}); without it no part may pass; "
                "check the disk and the folder's permissions, or move the file aside to start a new one"
            ) from error

    def _check_version(self) -> None:
        self._db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
        (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
        if int(found) != SCHEMA_VERSION:
            raise JournalError(
                f"{self.path}: written by another version (schema {found}, this one is {SCHEMA_VERSION}); "
                "nothing was changed; start with a new data folder or the matching version"
            )

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    # ---- epochs -------------------------------------------------------------------------------------------------

    def open_epochs(self, per_camera: int = 4) -> list[OpenEpoch]:
        """Return the newest epochs of every camera with the sequence numbers that still have no row."""
        newest = (
            "SELECT camera, epoch, announced FROM (SELECT *, row_number() OVER (PARTITION BY camera "
            "ORDER BY started DESC) AS n FROM epochs WHERE line = ?) WHERE n <= ? ORDER BY started"
        )
        return [self._open_epoch(*found) for found in self._read(newest, (self._line, per_camera))]

    def _open_epoch(self, camera: str, epoch: int, announced: int) -> OpenEpoch:
        rows, last = self._read(
            "SELECT count(*), max(seq) FROM outcomes WHERE line = ? AND camera = ? AND epoch = ?",
            (self._line, camera, epoch),
        )[0]
        next_seq = max(announced, -1 if last is None else last + 1)
        if rows == next_seq:
            return OpenEpoch(camera, epoch, next_seq, [])
        known = {seq for (seq,) in self._seqs(camera, epoch)}
        return OpenEpoch(camera, epoch, next_seq, [seq for seq in range(next_seq) if seq not in known])

    def _seqs(self, camera: str, epoch: int) -> list[Any]:
        query = "SELECT seq FROM outcomes WHERE line = ? AND camera = ? AND epoch = ?"
        return self._read(query, (self._line, camera, epoch))

    # ---- rows ---------------------------------------------------------------------------------------------------

    def write(self, parts: Iterable[Part], announced: dict[tuple[str, int], int], cursors: dict[str, int]) -> list[int]:
        """Commit the parts' outcomes, the epochs' announced counts and the sinks' cursors in one transaction.

        Returns each part's row number; 0 where another outcome of the same key stands already (the first one stays).
        """
        wall = time.time()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            rows = [self._insert(part, wall) for part in parts]
            self._db.executemany(
                "INSERT INTO epochs VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET announced = excluded.announced",
                [(self._line, camera, epoch, count, wall) for (camera, epoch), count in announced.items()],
            )
            self._db.executemany(
                "INSERT INTO outbox VALUES (?, ?) ON CONFLICT DO UPDATE SET row = excluded.row", list(cursors.items())
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise JournalError(f"{self.path}: cannot be written ({error}); no part may pass until it can") from error
        return rows

    def _insert(self, part: Part, wall: float) -> int:
        key, decision, frame = part.key, part.decision, part.frame
        assert decision is not None
        latency_ms = (decision.at - part.t0) * 1000
        cursor = self._db.execute(
            _INSERT,
            (
                *(key.line, key.camera, key.epoch, key.seq, str(decision.verdict), int(decision.reason)),
                *(decision.score, decision.threshold, decision.bundle, decision.worker, part.attempt),
                *((frame.part_id, frame.trigger, f"{frame.checksum:016x}") if frame else ("", 0, "")),
                *(latency_ms, wall - max(0.0, latency_ms) / 1000),
                json.dumps({"regions": [asdict(r) for r in decision.regions], "stages": decision.stages}),
            ),
        )
        return cursor.lastrowid or 0 if cursor.rowcount == 1 else 0

    def note(self, kind: str, text: str) -> None:
        """Write an event (late result, conflict, state change) beside the outcomes; losing one is no error."""
        try:
            self._db.execute("INSERT INTO events (wall, kind, text) VALUES (?, ?, ?)", (time.time(), kind, text))
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be written ({error})") from error

    # ---- outbox -------------------------------------------------------------------------------------------------

    def cursor(self, sink: str) -> int | None:
        """Return the last row that `sink` has acknowledged, None for a sink that never was here."""
        found = self._read("SELECT row FROM outbox WHERE sink = ?", (sink,))
        return int(found[0][0]) if found else None

    def last_row(self) -> int:
        """Return the newest row's number."""
        return int(self._read("SELECT coalesce(max(row), 0) FROM outcomes", ())[0][0])

    def after(self, row: int, limit: int) -> list[Outcome]:
        """Return up to `limit` outcomes with larger row numbers, oldest first."""
        query = f"SELECT row, {_COLUMNS} FROM outcomes WHERE row > ? ORDER BY row LIMIT ?"
        return [_outcome(found) for found in self._read(query, (row, limit))]

    def find(self, key: FrameKey) -> Outcome | None:
        """Return the outcome of `key`."""
        query = f"SELECT row, {_COLUMNS} FROM outcomes WHERE line = ? AND camera = ? AND epoch = ? AND seq = ?"
        found = self._read(query, (key.line, key.camera, key.epoch, key.seq))
        return _outcome(found[0]) if found else None

    def _read(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be read ({error})") from error


def _outcome(found: tuple[Any, ...]) -> Outcome:
    row, line, camera, epoch, seq, verdict, reason, score, threshold, *rest = found
    bundle, worker, attempt, part_id, trigger, _, latency_ms, wall, detail = rest
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
    )
