"""`line-worker export`: the journal's outcomes as Parquet files, one for each day, for the plant's evaluations.

The journal is opened read-only, also while the hub runs. A day that is over is written once; one that goes on is
written anew each time. Days are those of UTC, or of a time zone that is named.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

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
    """Write outcomes-DAY.parquet into `folder` for every day of the journal; yields each file with its rows.

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
        for start, end in _days(db, zone):
            path = folder / f"outcomes-{start:%Y-%m-%d}.parquet"
            if path.exists() and path.stat().st_mtime > end.timestamp():
                continue
            half, count = path.with_suffix(".half"), 0
            with pq.ParquetWriter(half, schema) as writer:
                for rows in _rows(db, start.timestamp(), end.timestamp()):
                    writer.write_table(pa.Table.from_pylist(rows, schema))
                    count += len(rows)
            half.rename(path)
            yield path, count


def _days(db: sqlite3.Connection, zone: tzinfo) -> Iterator[tuple[datetime, datetime]]:
    """Yield the beginning and the end of each day in which something was decided."""
    first, last = db.execute("SELECT min(wall), max(wall) FROM outcomes").fetchone()
    if first is None:
        return
    day = datetime.fromtimestamp(first, zone).date()
    while day <= datetime.fromtimestamp(last, zone).date():
        start = datetime(day.year, day.month, day.day, tzinfo=zone)
        day += timedelta(days=1)
        yield start, datetime(day.year, day.month, day.day, tzinfo=zone)


def _rows(db: sqlite3.Connection, start: float, end: float) -> Iterator[list[dict[str, Any]]]:
    there = {name for _, name, *_ in db.execute("PRAGMA table_info(outcomes)")}  # an older journal has no p-values
    columns = {name: "wall" if name == "at" else name for name in COLUMNS}
    names = ", ".join(column if column in there else "NULL" for column in columns.values())
    found = db.execute(f"SELECT {names} FROM outcomes WHERE wall >= ? AND wall < ? ORDER BY row", (start, end))
    while rows := found.fetchmany(ROWS):
        yield [_row(dict(zip(COLUMNS, row, strict=True))) for row in rows]


def _row(row: dict[str, Any]) -> dict[str, Any]:
    reason = reason_of(row["reason"])
    return {
        **row,
        "reason": str(row["reason"]) if reason is None else reason.name,
        "at": datetime.fromtimestamp(row["at"], UTC),
    }
