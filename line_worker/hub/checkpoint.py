"""Keeps the journal's log from holding a decision: room ahead of the first commits, and checkpoints in a thread.

A commit that makes the log's file longer waits for the file system's own journal, too, and on a busy machine for the
kernel thread that writes it. SQLite would checkpoint inside the commit that makes the log 1,000 pages long; on a busy
disk that commit takes a hundred milliseconds, and every part behind it waits.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import closing, suppress
from pathlib import Path

import structlog

log = structlog.get_logger()

EVERY_S = 5.0
ROOM = 8 << 20  # bytes: what some 50 parts a second write between two checkpoints


def make_room(path: Path) -> None:
    """Write zeros behind the end of the log of the journal at `path`: commits then overwrite what is on disk already.

    SQLite reads its log up to the first frame that is not its own (https://www.sqlite.org/fileformat2.html#walformat),
    and begins it anew in the same file after a checkpoint. A disk without that room is no error: commits are slower.
    """
    with suppress(OSError), open(f"{path}-wal", "r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        missing = max(0, ROOM - end)
        if file.write(bytes(missing)) < missing:
            file.truncate(end)  # the disk's last bytes are the rows'
        os.fsync(file.fileno())


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
        # it never waits: one that waited for a long reader, such as an audit, would keep the writer out meanwhile
        with closing(sqlite3.connect(self._path, timeout=0, isolation_level=None)) as db:
            while not self._stop.wait(self._every_s):
                try:
                    checkpoint(db)
                except sqlite3.Error as error:  # the log only grows; a disk that is full is the writer's to report
                    log.warning("checkpoint failed", error=str(error))


def checkpoint(db: sqlite3.Connection) -> None:
    """Move the log into the file and let it begin anew.

    The passive round moves nearly everything beside the writer; only the rest, what was committed meanwhile, is moved
    with the writer waiting. While somebody reads, the log grows.
    """
    _, pages, moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages != moved:
        db.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
