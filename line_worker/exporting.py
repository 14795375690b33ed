"""`line-worker export`: the journal's outcomes as Parquet files, one for each day, for the plant's evaluations.

The journal is opened read-only, also while the hub runs. A day that is over is written once; one that goes on is
written anew each time. Days are those of UTC, or of a time zone that is named.
"""

from __future__ import annotations

import math
import sqlite3
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, NamedTuple

from line_worker.auditing import reading
from line_worker.errors import ConfigError
from line_worker.verdicts import reason_of

ROWS = 50_000  # held in memory at a time
COLUMNS = {
    "line": "string",
    "camera": "string",
    "epoch": "int64",
    "seq": "int64",
    "verdict": "string",
    "reason": "string",
    "score": "float64",
    "threshold": "float64",
    "p_value": "float64",
    "bundle": "string",
    "worker": "string",
    "attempt": "int32",
    "part_id": "string",
    "trigger": "int64",
    "latency_ms": "float64",
    "at": "timestamp",
}


def export(journal: Path, folder: Path, zone: tzinfo = UTC) -> Iterator[tuple[Path, int]]:
    """Write outcomes-DAY.parquet into `folder` for every day that has any; yields each file with its rows.

    A file of a day that was over when it was written is left as it is. Raises JournalError for a journal that cannot be
    read, ConfigError without pyarrow.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("export", ["Parquet needs pyarrow: pip install line-worker[parquet]"]) from None
    kinds = {"string": pa.string(), "int32": pa.int32(), "int64": pa.int64(), "float64": pa.float64()}
    kinds["timestamp"] = pa.timestamp("us", "UTC")
    schema = pa.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    folder.mkdir(parents=True, exist_ok=True)
    with reading(journal) as db:
        for day in _days(db, zone):
            path = folder / f"outcomes-{day.start:%Y-%m-%d}.parquet"
            if path.exists() and path.stat().st_mtime > day.end.timestamp():
                continue
            half, count = path.with_suffix(".half"), 0
            with pq.ParquetWriter(half, schema) as writer:
                for rows in _rows(db, day):
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    count += len(rows)
            half.rename(path)
            yield path, count


class Day(NamedTuple):
    """A day in which something was decided: from `start` to before `end`; its rows lie among `first` to `last`."""

    start: datetime
    end: datetime
    first: int
    last: int


def _days(db: sqlite3.Connection, zone: tzinfo) -> list[Day]:
    """Return the days that have rows, in order, from one pass over the journal.

    Rows come in the order of time, but for a clock that was set: the pass stops only where another day begins.
    """
    days: dict[datetime, Day] = {}
    for wall, first, last in _runs(db, zone):
        start, end = _day(wall, zone)
        before = days.get(start)
        days[start] = Day(start, end, before.first if before else first, last)
    return [days[start] for start in sorted(days)]


def _runs(db: sqlite3.Connection, zone: tzinfo) -> Iterator[tuple[float, int, int]]:
    """Yield a moment, the first and the last row of each run of rows that are all of one day."""
    found = db.execute("SELECT row, wall FROM outcomes ORDER BY row LIMIT 1").fetchone()
    while found is not None:
        first, wall = found
        start, end = (moment.timestamp() for moment in _day(wall, zone))
        query = "SELECT row, wall FROM outcomes WHERE row > ? AND NOT (wall >= ? AND wall < ?) ORDER BY row LIMIT 1"
        found = db.execute(query, (first, start, end)).fetchone()
        yield wall, first, found[0] - 1 if found else sys.maxsize


def _day(wall: float, zone: tzinfo) -> tuple[datetime, datetime]:
    """Return the beginning of the day of a moment, and that of the next."""
    day = datetime.fromtimestamp(math.floor(wall), zone).date()  # which would round up to midnight
    start, end = (datetime(on.year, on.month, on.day, tzinfo=zone) for on in (day, day + timedelta(days=1)))
    return start, end


def _rows(db: sqlite3.Connection, day: Day) -> Iterator[list[dict[str, Any]]]:
    there = {name for _, name, *_ in db.execute("PRAGMA table_info(outcomes)")}  # an older journal has no p-values
    columns = {name: "wall" if name == "at" else name for name in COLUMNS}
    names = ", ".join(column if column in there else "NULL" for column in columns.values())
    span = (day.first, day.last, day.start.timestamp(), day.end.timestamp())
    query = f"SELECT {names} FROM outcomes WHERE row BETWEEN ? AND ? AND wall >= ? AND wall < ? ORDER BY row"
    found = db.execute(query, span)
    while rows := found.fetchmany(ROWS):
        yield [_row(dict(zip(COLUMNS, row, strict=True))) for row in rows]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    reason = reason_of(row["reason"])
    return {
        **row,
        "reason": str(row["reason"]) if reason is None else reason.name,
        "at": datetime.fromtimestamp(row["at"], UTC),
    }
