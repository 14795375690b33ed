"""Moves the journal's log into its file, in a thread of its own: a checkpoint's fsync must not hold a decision.

SQLite would do it inside the commit that makes the log 1,000 pages long; on a busy disk that commit takes a hundred
milliseconds, and every part behind it waits.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import structlog

log = structlog.get_logger()

EVERY_S = 5.0


class Checkpointer:
    """Runs from its making until `close`."""

    def __init__(self, path: Path, every_s: float = EVERY_S) -> None:
        self._path, self._every_s = path, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="checkpoint", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; a checkpoint under way is finished first."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        with closing(sqlite3.connect(self._path, isolation_level=None)) as db:
            while not self._stop.wait(self._every_s):
                try:
                    checkpoint(db)
                except sqlite3.Error as error:  # the log only grows; a disk that is full is the writer's to report
                    log.warning("checkpoint failed", error=str(error))


def checkpoint(db: sqlite3.Connection) -> None:
    """Move the log into the file and let it begin anew.

    The passive round moves nearly everything beside the writer; only the rest, what was committed meanwhile, is moved
    with the writer waiting.
    """
    _, pages, moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages != moved:
        db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
