"""The record that people search: outcomes in SQLite, pictures of anomalies as files beside it.

    <path>/outcomes.sqlite                            one row per key; the first one stands
    <path>/crops/<camera>/<epoch>/<seq>-<name>.png    under a quota, the oldest dropped first

Every outcome is committed before it is acknowledged, with synchronous=NORMAL: a commit then costs 0.02 ms where FULL
costs 4 ms on an ordinary SSD, and a crash of this process loses nothing. A power failure may take the last second of
this copy (`poll` brings it to the disk once a second); the hub's journal is written with FULL and has every row.

Pictures are worth less than outcomes: on a full disk the oldest are dropped first, then no more are taken until there
is room again. An outcome that cannot be written raises, and the hub still owes it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from line_worker.errors import SinkError
from line_worker.sink import QuietSink
from line_worker.sink.crops import CropFolder
from line_worker.wire.messages import Crop, FrameKey, Outcome, Region, View

log = structlog.get_logger()

FILE = "outcomes.sqlite"
SCHEMA_VERSION = 3  # 2: p-values; 3: views
CHECKPOINT_S = 1.0
CROPS_AGAIN_S = 60.0  # how long to wait with pictures after the disk was full
LOOKED_AT = 20_000  # of SQLite's steps, a few milliseconds, between two looks whether a search has ended
FREED_AT_ONCE = 64_000_000  # bytes of pictures given up when the disk is full

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outcomes (
  line TEXT NOT NULL, camera TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, row INTEGER NOT NULL,
  verdict TEXT NOT NULL, reason INTEGER NOT NULL, score REAL, threshold REAL, regions TEXT NOT NULL,
  bundle TEXT NOT NULL, worker TEXT NOT NULL, attempt INTEGER NOT NULL, part_id TEXT NOT NULL,
  trigger INTEGER NOT NULL, latency_ms REAL NOT NULL, left_ms REAL NOT NULL, wall REAL NOT NULL,
  stages TEXT NOT NULL, p_value REAL, views TEXT,
  PRIMARY KEY (line, camera, epoch, seq)) WITHOUT ROWID;
"""
_INDICES = """
CREATE INDEX IF NOT EXISTS outcomes_wall ON outcomes (wall);
CREATE INDEX IF NOT EXISTS outcomes_part ON outcomes (part_id, wall);
"""  # what people search by; a store from before gets them at its next start
_KEY = ("line", "camera", "epoch", "seq")
_COLUMNS = (*_KEY, *(field.name for field in fields(Outcome) if field.name != "key"))
_INSERT = f"INSERT OR IGNORE INTO outcomes ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
_ADDED = {1: ("p_value REAL", "views TEXT"), 2: ("views TEXT",)}  # columns since that schema


class Store(QuietSink):
    """Keeps outcomes and pictures below the folder `path`; pictures take at most `quota_bytes`."""

    wants_crops = True

    def __init__(self, path: Path, quota_bytes: int) -> None:
        self.path = path
        self.crops = CropFolder(path / "crops", quota_bytes)
        self.duplicates = 0
        self.crops_refused = 0
        self._db: sqlite3.Connection | None = None
        self._dirty, self._now = False, 0.0
        self._checkpoint_at, self._crops_from = 0.0, 0.0
        self._crops_off = ""

    def open(self) -> None:
        """Open or create the folder and its database.

        Raises:
            SinkError: the folder or the database cannot be used.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._db = _open(self.path / FILE)
            self.crops.open()
        except (OSError, sqlite3.Error) as error:
            self.close()
            raise SinkError(
                f"{self.path}: the store cannot be opened ({error}); outcomes stay with the hub until it can; check "
                "the disk and the folder's permissions, or move the folder aside to start a new one"
            ) from error

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Commit `outcome`; a second one with its key changes nothing.

        Raises:
            SinkError: it cannot be written now. On a full disk, pictures have been given up first.
        """
        assert self._db is not None, "deliver before open"
        self._now = now
        try:
            self._insert(self._db, outcome)
        except sqlite3.Error as error:
            raise SinkError(
                f"{self.path / FILE}: the outcome of {outcome.key} cannot be written ({error}); the hub keeps it and "
                "sends it again; free space on this disk or correct the folder's permissions"
            ) from error
        return True

    def _insert(self, db: sqlite3.Connection, outcome: Outcome) -> None:
        try:
            count = db.execute(_INSERT, _to_row(outcome)).rowcount
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise
            self._give_up_crops("the disk is full")
            count = db.execute(_INSERT, _to_row(outcome)).rowcount
        self.duplicates += 1 - count
        self._dirty = True

    def crop(self, crop: Crop) -> None:
        """Keep a picture if there is room; one that cannot be kept is counted and never raises."""
        if self._crops_off:
            self.crops_refused += 1
            return
        try:
            self.crops.add(crop)
        except ValueError as error:
            self.crops_refused += 1
            log.warning("crop refused", key=str(crop.key), why=str(error))
        except OSError as error:
            self.crops_refused += 1
            self._give_up_crops(str(error))

    def _give_up_crops(self, why: str) -> None:
        freed = self.crops.drop_oldest(FREED_AT_ONCE)
        self._crops_off, self._crops_from = why, self._now + CROPS_AGAIN_S
        log.warning("pictures are no longer kept", why=why, freed_bytes=freed, again_in_s=CROPS_AGAIN_S)

    def poll(self, now: float) -> None:
        """Bring what was written to the disk once a second; take pictures again when the wait is over."""
        self._now = now
        if self._crops_off and now >= self._crops_from:
            self._crops_off = ""
        if self._dirty and self._db is not None and now >= self._checkpoint_at:
            self._checkpoint_at, self._dirty = now + CHECKPOINT_S, False
            with suppress(sqlite3.Error):  # a full disk or a damaged file is for `deliver` to report
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def reachable(self) -> tuple[bool, str]:
        """Outcomes can be written; the text says so when pictures cannot."""
        return True, f"no pictures are kept: {self._crops_off}" if self._crops_off else ""

    def close(self) -> None:
        """Close the database."""
        if self._db is not None:
            self._db.close()
            self._db = None


class Wanted(NamedTuple):
    """Which outcomes to find; what is left out does not matter. `since` and `before` are Unix times.

    Of those at exactly `before`, as many of one turn may be, the ones that `find_outcomes` shows after `behind`.
    """

    since: float = float("-inf")
    before: float = float("inf")
    part_id: str = ""
    camera: str = ""
    verdict: str = ""
    reason: int | None = None
    key: FrameKey | None = None
    behind: FrameKey | None = None


def read_outcomes(path: Path) -> Iterator[Outcome]:
    """Yield the outcomes of the store in the folder `path`, in the order of their time; it may be in use.

    Raises:
        SinkError: there is no store, or it cannot be read.
    """
    return _select(path, "ORDER BY wall, camera, epoch, seq", ())


class Found(NamedTuple):
    """Outcomes, the newest first; not all of them when the search was ended before it was `whole`."""

    outcomes: list[Outcome]
    whole: bool


class _Ended(Exception):
    """A search was ended."""


def find_outcomes(path: Path, wanted: Wanted, limit: int, ended: Callable[[], bool] = lambda: False) -> Found:
    """Return the newest `limit` outcomes that are `wanted`, as many as are found until `ended`; see `read_outcomes`.

    What is rare is looked for through every row: of some million that takes seconds.
    """
    where, values = _where(wanted)
    order = "ORDER BY wall DESC, camera DESC, epoch DESC, seq DESC"
    found: list[Outcome] = []
    try:
        found.extend(_select(path, f"{where} {order} LIMIT ?", (*values, limit), ended))
    except _Ended:
        return Found(found, whole=False)
    return Found(found, whole=True)


def _where(wanted: Wanted) -> tuple[str, tuple[Any, ...]]:
    """Return the clause that selects what is `wanted`, and its values."""
    terms: dict[str, tuple[Any, ...]] = {}
    if wanted.since > float("-inf"):
        terms["wall >= ?"] = (wanted.since,)
    if wanted.behind is not None:
        last = wanted.behind
        terms["(wall, camera, epoch, seq) < (?, ?, ?, ?)"] = (wanted.before, last.camera, last.epoch, last.seq)
    elif wanted.before < float("inf"):
        terms["wall < ?"] = (wanted.before,)
    if wanted.reason is not None:
        terms["reason = ?"] = (int(wanted.reason),)
    for name in ("part_id", "camera", "verdict"):
        if getattr(wanted, name):
            terms[f"{name} = ?"] = (str(getattr(wanted, name)),)
    if wanted.key is not None:
        terms.update({f"{name} = ?": (getattr(wanted.key, name),) for name in _KEY})
    return f"WHERE {' AND '.join(terms)}" if terms else "", tuple(chain.from_iterable(terms.values()))


def _select(
    path: Path, tail: str, values: tuple[Any, ...], ended: Callable[[], bool] = lambda: False
) -> Iterator[Outcome]:
    try:
        with closing(sqlite3.connect(f"{(path / FILE).absolute().as_uri()}?mode=ro", uri=True)) as db:
            db.set_progress_handler(ended, LOOKED_AT)
            known = {name for _, name, *_ in db.execute("PRAGMA table_info(outcomes)")}
            columns = ", ".join(name if name in known else "NULL" for name in _COLUMNS)  # an older store lacks some
            for row in db.execute(f"SELECT {columns} FROM outcomes {tail}", values):
                yield _from_row(row)
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            raise _Ended from error
        raise SinkError(f"{path / FILE}: cannot be read ({error}); give the folder of a store") from error


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, timeout=1.0)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, *_ADDED, SCHEMA_VERSION):
            raise sqlite3.DatabaseError(f"written by another version: schema {version}, this one is {SCHEMA_VERSION}")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        added = "".join(f"ALTER TABLE outcomes ADD COLUMN {column};" for column in _ADDED.get(version, ()))
        db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {added} {_INDICES} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
    except sqlite3.Error:
        db.close()
        raise
    return db


def _to_row(outcome: Outcome) -> tuple[Any, ...]:
    found = {name: getattr(outcome, name) for name in _COLUMNS[len(_KEY) :]}
    found["regions"] = json.dumps([asdict(region) for region in outcome.regions])
    found["stages"] = json.dumps(outcome.stages)
    found["views"] = json.dumps([asdict(view) for view in outcome.views]) if outcome.views else None
    return (*(getattr(outcome.key, name) for name in _KEY), *found.values())


def _from_row(row: tuple[Any, ...]) -> Outcome:
    found = dict(zip(_COLUMNS[len(_KEY) :], row[len(_KEY) :], strict=True))
    regions = json.loads(found.pop("regions"))
    found["regions"] = tuple(Region(**(region | {"zone": tuple(region["zone"])})) for region in regions)
    found["stages"] = json.loads(found["stages"])
    views = json.loads(found["views"] or "[]")
    found["views"] = tuple(View(**(view | {"key": FrameKey(**view["key"])})) for view in views)
    return Outcome(key=FrameKey(*row[: len(_KEY)]), **found)
