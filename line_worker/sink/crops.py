"""Pictures below one folder, under a quota: the newest are kept, the oldest dropped."""

from __future__ import annotations

import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from line_worker.wire.messages import Crop

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # names come over the wire: none may leave the folder


class Kept(NamedTuple):
    """A picture on the disk."""

    written: float  # Unix time
    path: Path
    size: int


class CropFolder:
    """The pictures below `root`; together they take at most `quota` bytes."""

    def __init__(self, root: Path, quota: int) -> None:
        self.root, self._quota = root, quota
        self._kept: deque[Kept] = deque()  # oldest first
        self.bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._kept)

    def open(self) -> None:
        """Count what earlier runs have left, and clear away what a crash left half-written.

        Raises:
            OSError: the folder cannot be made or read.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        for torn in self.root.rglob("*.part"):
            torn.unlink(missing_ok=True)
        found = [Kept(entry.stat().st_mtime, entry, entry.stat().st_size) for entry in self.root.rglob("*.png")]
        self._kept = deque(sorted(found))
        self.bytes = sum(kept.size for kept in found)
        self.drop_oldest(self.bytes - self._quota)

    def add(self, crop: Crop) -> Path:
        """Write one picture, whole or not at all, and drop as many old ones as it needs; one that is there stays.

        Raises:
            ValueError: its name or size is not acceptable.
            OSError: it cannot be written.
        """
        size = len(crop.pixels)
        if size > self._quota:
            raise ValueError(f"{size} bytes, more than the whole quota of {self._quota}")
        path = self._path(crop)
        if not path.exists():
            self.drop_oldest(self.bytes + size - self._quota)
            if self.bytes + size > self._quota:
                raise OSError(f"{self._kept[0].path} cannot be deleted to make room")
            self._write(path, crop.pixels)
            self._kept.append(Kept(path.stat().st_mtime, path, size))
            self.bytes += size
        return path

    def _path(self, crop: Crop) -> Path:
        for name in (crop.key.camera, crop.name):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a name for a file")
        return self.root / crop.key.camera / str(crop.key.epoch) / f"{crop.key.seq}-{crop.name}.png"

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        try:
            part.write_bytes(data)
            os.replace(part, path)
        except OSError:
            with suppress(OSError):  # the first error is the one to report
                part.unlink(missing_ok=True)
            raise

    def drop_oldest(self, wanted: int) -> int:
        """Delete the oldest pictures until `wanted` bytes are free or none is left; returns the bytes freed."""
        freed = 0
        while freed < wanted and self._kept:
            kept = self._kept[0]
            try:
                kept.path.unlink(missing_ok=True)
            except OSError:  # a folder that cannot be written frees nothing
                break
            with suppress(OSError):  # it still holds others
                kept.path.parent.rmdir()
            self._kept.popleft()
            freed += kept.size
            self.bytes -= kept.size
            self.dropped += 1
        return freed
