"""The hub's journal: one immutable row per key, on disk before any sink sees the outcome.

SQLite in WAL mode with synchronous=FULL: a commit returns after fdatasync. Rows are inserted, never updated or
deleted (triggers say so). The table doubles as the outbox: a durable sink's cursor says up to which row it has
acknowledged, and everything above is still owed to it, across restarts. `totals` counts the rows by verdict, so that
counters survive a restart.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from line_worker.errors import JournalDamaged, JournalError
from line_worker.hub.checkpoint import Checkpointer, make_room
from line_worker.hub.part import Part
from line_worker.hub.rows import detail_of, name_of, opened_row, outcome_of
from line_worker.wire.messages import FrameKey, Outcome

SCHEMA_VERSION = 2  # 2: p-values
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
  latency_ms REAL NOT NULL, wall REAL NOT NULL, detail TEXT NOT NULL, p_value REAL,
  UNIQUE (line, camera, epoch, seq));
CREATE TABLE IF NOT EXISTS opened (
  line TEXT NOT NULL, camera TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  part_id TEXT NOT NULL, trigger INTEGER NOT NULL, PRIMARY KEY (line, camera, epoch, seq));
CREATE TABLE IF NOT EXISTS outbox (sink TEXT PRIMARY KEY, row INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS totals (line TEXT NOT NULL, verdict TEXT NOT NULL, n INTEGER NOT NULL,
  PRIMARY KEY (line, verdict));
CREATE TRIGGER IF NOT EXISTS outcomes_stay BEFORE UPDATE ON outcomes
  BEGIN SELECT RAISE(ABORT, 'an outcome never changes'); END;
CREATE TRIGGER IF NOT EXISTS outcomes_last BEFORE DELETE ON outcomes
  BEGIN SELECT RAISE(ABORT, 'an outcome is never deleted'); END;
"""
_MIGRATIONS = {  # from the schema of that number to today's, in one transaction; rows stay as they are
    "1": "ALTER TABLE outcomes ADD COLUMN p_value REAL; UPDATE meta SET value = '2' WHERE key = 'schema';",
}
READABLE = {*_MIGRATIONS, str(SCHEMA_VERSION)}  # all of them hold what an audit asks for
_COLUMNS = (
    "line, camera, epoch, seq, verdict, reason, score, threshold, bundle, worker, attempt, part_id, trigger, "
    "checksum, latency_ms, wall, detail, p_value"
)
_INSERT = f"INSERT INTO outcomes ({_COLUMNS}) VALUES ({', '.join('?' * 18)}) ON CONFLICT DO NOTHING"
_OF_EPOCH = "FROM outcomes WHERE line = ? AND camera = ? AND epoch = ?"
_ANNOUNCED = (
    "INSERT INTO epochs VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET announced = max(announced, excluded.announced)"
)
_COUNTED = "INSERT INTO totals VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"
_MOVED = "INSERT INTO outbox VALUES (?, ?) ON CONFLICT DO UPDATE SET row = excluded.row"
_OPENED = "INSERT OR IGNORE INTO opened VALUES (?, ?, ?, ?, ?, ?)"
_CLOSED = "DELETE FROM opened WHERE line = ? AND camera = ? AND epoch = ? AND seq = ?"
_NO_PICTURE = f"{0:016x}"  # the checksum in a header without pixels
PASSED_WITHIN = 20_000  # rows
BUSY_S = 0.1  # how long another process may hold the file before it counts as unwritable


@dataclass(frozen=True, slots=True)
class OpenEpoch:
    """An epoch as an earlier hub left it: `holes` were announced and have no row.

    `last` is its newest recorded picture: sequence number and checksum, (-1, 0) without one. `headers` has the id and
    the trigger of holes that are parts of several views.
    """

    camera: str
    epoch: int
    next_seq: int
    holes: list[int]
    last: tuple[int, int] = (-1, 0)
    headers: dict[int, tuple[str, int]] = field(default_factory=dict)


class Journal:
    """Open journal; every method that writes commits before it returns.

    views: cameras whose pictures count only together with others': `totals` leaves them out.

    Raises:
        JournalError: the file cannot be opened, read or written.
    """

    def __init__(self, path: Path, line: str, views: Collection[str] = ()) -> None:
        self.path, self._line, self._views = path, line, frozenset(views)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._check_version()
            self._db.executescript(_SCHEMA)
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION),))
            self._db.execute("PRAGMA wal_autocheckpoint=0")
            make_room(path)
            self._checkpointer = Checkpointer(path)
        except (OSError, sqlite3.Error) as error:
            if hasattr(self, "_db"):
                self._db.close()
            raise _kind_of(error)(
                f"{path}: the journal cannot be opened ({error}); without it no part may pass; "
                "check the disk and the folder's permissions, or move the file aside to start a new one"
            ) from error

    def _check_version(self) -> None:
        if not self._db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            return
        (found,) = self._db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() or (SCHEMA_VERSION,)
        if str(found) in _MIGRATIONS:
            self._db.executescript(f"BEGIN IMMEDIATE; {_MIGRATIONS[str(found)]} COMMIT;")
        elif str(found) != str(SCHEMA_VERSION):
            self._db.close()
            raise JournalError(
                f"{self.path}: written by another version (schema {found}, this one is {SCHEMA_VERSION}); "
                "nothing was changed; start with a new data folder or the matching version"
            )

    def check(self, seconds: float) -> None:
        """Read what a hub needs at its start, and as much of the rest as can be checked in `seconds`.

        Raises:
            JournalDamaged: the file holds what SQLite has not written.
        """
        until = time.monotonic() + seconds
        self._db.set_progress_handler(lambda: time.monotonic() > until, 1000)
        try:
            found = self._db.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                raise _kind_of(error)(f"{self.path}: cannot be read ({error})") from error
            found = "ok"  # as far as it was looked at
        finally:
            self._db.set_progress_handler(None, 0)
        if found != "ok":
            raise JournalDamaged(f"{self.path}: is damaged ({found})")
        self.open_epochs(), self.totals(), self.last_row()

    def close(self) -> None:
        """Close the file."""
        self._checkpointer.close()
        self._db.close()

    # ---- epochs -------------------------------------------------------------------------------------------------

    def open_epochs(self, per_camera: int = 8) -> list[OpenEpoch]:
        """Return the newest epochs of every camera with the sequence numbers that still have no row."""
        newest = (
            "SELECT camera, epoch, announced FROM (SELECT *, rowid AS begun, row_number() OVER (PARTITION BY camera "
            "ORDER BY rowid DESC) AS n FROM epochs WHERE line = ?) WHERE n <= ? ORDER BY begun"
        )
        return [self._open_epoch(*found) for found in self._read(newest, (self._line, per_camera))]

    def _open_epoch(self, camera: str, epoch: int, announced: int) -> OpenEpoch:
        name = (self._line, camera, epoch)
        [(last,)] = self._read(f"SELECT max(seq) {_OF_EPOCH}", name)
        next_seq = max(announced, -1 if last is None else last + 1)
        first = self._first_hole(name, next_seq)
        known = {seq for (seq,) in self._read(f"SELECT seq {_OF_EPOCH} AND seq >= ?", (*name, first))}
        holes = [seq for seq in range(first, next_seq) if seq not in known]
        opened = "SELECT seq, part_id, trigger FROM opened WHERE line = ? AND camera = ? AND epoch = ?"
        headers = {seq: (part_id, trigger) for seq, part_id, trigger in self._read(opened, name)}
        return OpenEpoch(camera, epoch, next_seq, holes, self._last_picture(name), headers)

    def _last_picture(self, name: tuple[str, str, int]) -> tuple[int, int]:
        newest = f"SELECT seq, checksum {_OF_EPOCH} AND checksum NOT IN (?, ?) ORDER BY seq DESC LIMIT 1"
        found = self._read(newest, (*name, "", _NO_PICTURE))
        return (found[0][0], int(found[0][1], 16)) if found else (-1, 0)

    def _first_hole(self, name: tuple[str, str, int], next_seq: int) -> int:
        """Return the first sequence number without a row, by bisection: an epoch may have millions of rows."""
        low, high = 0, next_seq
        while low < high:
            middle = (low + high + 1) // 2
            query = f"SELECT count(*) {_OF_EPOCH} AND seq >= ? AND seq < ?"
            [(rows,)] = self._read(query, (*name, low, middle))
            low, high = (middle, high) if rows == middle - low else (low, middle - 1)
        return low

    # ---- rows ---------------------------------------------------------------------------------------------------

    def write(
        self,
        parts: Sequence[Part],
        announced: dict[tuple[str, int], int],
        cursors: dict[str, int],
        opened: Iterable[Part] = (),
    ) -> list[int]:
        """Commit the parts' outcomes, the epochs' announced counts and the sinks' cursors in one transaction.

        Parts of several views that have been `opened` are kept with their ids until their outcome is there.

        Returns each part's row number; 0 where another outcome of the same key stands already (the first one stays).
        """
        wall = time.time()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            rows = [self._insert(part, wall) for part in parts]
            new = (part for part, row in zip(parts, rows, strict=True) if row and part.key.camera not in self._views)
            written = Counter(str(part.decision.verdict) for part in new if part.decision)
            self._db.executemany(_COUNTED, [(self._line, verdict, n) for verdict, n in written.items()])
            self._db.executemany(_ANNOUNCED, [(self._line, *epoch, count, wall) for epoch, count in announced.items()])
            self._db.executemany(_MOVED, list(cursors.items()))
            self._db.executemany(_OPENED, [opened_row(part) for part in opened if part.open])
            self._db.executemany(_CLOSED, [name_of(part.key) for part in parts if part.gathered])
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise _not_written(self.path, error) from error
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
                detail_of(decision),
                decision.p_value,
            ),
        )
        return cursor.lastrowid or 0 if cursor.rowcount == 1 else 0

    def totals(self) -> dict[str, int]:
        """Return how many parts of this line have which verdict."""
        return dict(self._read("SELECT verdict, n FROM totals WHERE line = ?", (self._line,)))

    def keep(self, name: str, text: str) -> None:
        """Keep `text` under `name` for this line, in place of what stood there.

        Raises:
            JournalError: it cannot be written.
        """
        try:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (f"{self._line}:{name}", text))
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be written ({error}); {name} are not kept") from error

    def kept(self, name: str) -> str:
        """Return what this line has kept under `name`, "" when that is nothing."""
        found = self._read("SELECT value FROM meta WHERE key = ?", (f"{self._line}:{name}",))
        return str(found[0][0]) if found else ""

    # ---- outbox -------------------------------------------------------------------------------------------------

    def cursor(self, sink: str) -> int:
        """Return the last row that `sink` has acknowledged, 0 for a sink that never was here."""
        found = self._read("SELECT row FROM outbox WHERE sink = ?", (sink,))
        return int(found[0][0]) if found else 0

    def last_row(self) -> int:
        """Return the newest row's number."""
        return int(self._read("SELECT coalesce(max(row), 0) FROM outcomes", ())[0][0])

    def after(self, row: int, limit: int) -> list[Outcome]:
        """Return up to `limit` outcomes with larger row numbers, oldest first."""
        query = f"SELECT row, {_COLUMNS} FROM outcomes WHERE row > ? ORDER BY row LIMIT ?"
        return [outcome_of(found) for found in self._read(query, (row, limit))]

    def passed(self, camera: str, bundle: str, limit: int) -> list[float]:
        """Return the p-values of the camera's last `limit` parts that `bundle` has passed, oldest first.

        Rows older than `PASSED_WITHIN` are not looked at: a start must not read a journal of millions.
        """
        query = (
            "SELECT p_value FROM outcomes WHERE row > ? AND line = ? AND camera = ? AND bundle = ? "
            "AND verdict = 'PASS' AND p_value IS NOT NULL ORDER BY row DESC LIMIT ?"
        )
        found = self._read(query, (self.last_row() - PASSED_WITHIN, self._line, camera, bundle, limit))
        return [p_value for (p_value,) in reversed(found)]

    def newest(self, camera: str, limit: int) -> list[Outcome]:
        """Return the last outcomes under this name, oldest first; rows older than `PASSED_WITHIN` are not looked at."""
        query = (
            f"SELECT row, {_COLUMNS} FROM outcomes WHERE row > ? AND line = ? AND camera = ? ORDER BY row DESC LIMIT ?"
        )
        found = self._read(query, (self.last_row() - PASSED_WITHIN, self._line, camera, limit))
        return [outcome_of(one) for one in reversed(found)]

    def find(self, key: FrameKey) -> Outcome | None:
        """Return the outcome of `key`."""
        query = f"SELECT row, {_COLUMNS} {_OF_EPOCH} AND seq = ?"
        found = self._read(query, (key.line, key.camera, key.epoch, key.seq))
        return outcome_of(found[0]) if found else None

    def _read(self, query: str, values: tuple[Any, ...]) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise _kind_of(error)(f"{self.path}: cannot be read ({error})") from error


def _kind_of(error: Exception) -> type[JournalError]:
    """Return the error to raise for one of SQLite's or the system's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without the detail in its higher bits
    return JournalDamaged if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) else JournalError


def _not_written(path: Path, error: sqlite3.Error) -> JournalError:
    failure = JournalError(f"{path}: cannot be written ({error}); no part may pass until it can")
    failure.disk_full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
    return failure
