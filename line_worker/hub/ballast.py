"""A file beside the journal that takes up room while there is plenty, and gives it back when the disk is full.

What it frees lets the hub go on writing rows, and so passing parts, while somebody makes room: the alarm comes before
the stop. It is laid again at the next start of a hub that finds at least twice its size free.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import structlog

log = structlog.get_logger()


class Ballast:
    """The file at `path` with `size` bytes; 0 lays none."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self._size = path, size

    def lay(self) -> bool:
        """Take up the room unless that is done already; False when there is too little."""
        try:
            if self.path.exists() and self.path.stat().st_size == self._size:
                return True
            self.path.unlink(missing_ok=True)
            if not self._size or shutil.disk_usage(self.path.parent).free < 2 * self._size:
                return False
            self._fill()
        except OSError as error:
            log.warning("no ballast: a full disk will stop the line at once", path=str(self.path), why=str(error))
            self.path.unlink(missing_ok=True)
            return False
        return True

    def _fill(self) -> None:
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        try:
            os.posix_fallocate(file, 0, self._size)
        finally:
            os.close(file)

    def release(self) -> bool:
        """Give the room back; False when there is none to give."""
        try:
            self.path.unlink()
        except OSError:
            return False
        log.error("the journal's disk is full: ballast released; make room now", freed_bytes=self._size)
        return True
