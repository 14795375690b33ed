"""A recording in parts: a new file when one is large or old enough, the oldest dropped beyond a quota.

`shift.mcap` becomes `shift-20261127T081500.000Z.mcap` and so on, each a whole recording of its own. An outcome lies in
the part that is written when it comes, which may be the one after its picture's. What a killed writer left takes its
room on the disk, too: it counts, and is dropped in its turn.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from line_worker.wire.messages import Outcome
from line_worker.wire.recording import RecordingMeta, Trigger
from line_worker.wire.recording_writer import RecordingWriter, writing
from line_worker.wire.rosimage import Compression

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = structlog.get_logger()

STAMP = r"-\d{8}T\d{6}\.\d{3}Z"


class Limits(NamedTuple):
    """When a part ends, and how much all of them may take; 0: no limit. Bytes, seconds, bytes."""

    part_bytes: float = 0.0
    part_s: float = 0.0
    quota_bytes: float = 0.0

    @property
    def parted(self) -> bool:
        """Whether there is more than one part."""
        return bool(self.part_bytes or self.part_s)


class RecordingParts:
    """Writes as RecordingWriter does, by one thread, into one part after the other; raises what it raises."""

    def __init__(self, path: Path, meta: RecordingMeta, limits: Limits, compression: Compression = "none") -> None:
        self.path, self._meta, self._limits, self._compression = path, meta, limits, compression
        self._writer = self._next(round(meta.created * 1e9))

    def frame(self, trigger: Trigger, pixels: NDArray[Any] | None, at_ns: int, trigger_ns: int) -> None:
        """See RecordingWriter; a part ends before a frame, never between a picture and its trigger."""
        self._turn(at_ns)
        self._writer.frame(trigger, pixels, at_ns, trigger_ns)

    def outcome(self, outcome: Outcome, at_ns: int) -> None:
        """See RecordingWriter."""
        self._writer.outcome(outcome, at_ns)

    def flush(self) -> None:
        """See RecordingWriter."""
        self._writer.flush()

    def close(self) -> None:
        """Finish the part."""
        self._writer.close()

    def abandon(self) -> None:
        """Leave the part as it is."""
        self._writer.abandon()

    # ---- inside -------------------------------------------------------------------------------------------------

    def _turn(self, at_ns: int) -> None:
        limits = self._limits
        large = 0 < limits.part_bytes <= self._writer.nbytes
        old = 0 < limits.part_s <= (at_ns - self._began_ns) / 1e9
        if large or old:
            self._writer.close()
            self._writer = self._next(at_ns)

    def _next(self, at_ns: int) -> RecordingWriter:
        with writing(self.path.parent):
            self._drop_oldest()
        self._began_ns = at_ns
        moment = datetime.fromtimestamp(at_ns / 1e9, UTC)
        stamp = f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03d}Z"
        path = self.path.with_name(f"{self.path.stem}-{stamp}{self.path.suffix}")
        return RecordingWriter(path, dataclasses.replace(self._meta, created=at_ns / 1e9), self._compression)

    def _drop_oldest(self) -> None:
        """Make room for another part below the quota."""
        if not self._limits.quota_bytes:
            return
        sizes = _sizes(self.path)
        # a part ends only after a frame has made it too large
        largest = max(self._limits.part_bytes, *sizes.values(), 0)
        excess = sum(sizes.values()) + largest - self._limits.quota_bytes
        for oldest, size in sizes.items():
            if excess <= 0:
                break
            oldest.unlink(missing_ok=True)
            excess -= size
            log.info("the oldest part of a recording is dropped", part=str(oldest), bytes=size)


def finished_parts(path: Path) -> Iterator[Path]:
    """Yield the parts of a recording that are closed, the oldest first."""
    yield from _named(path, STAMP + re.escape(path.suffix))


def _sizes(path: Path) -> dict[Path, int]:
    """Return the bytes of every part that nobody writes, the oldest first: the closed, and what killed writers left."""
    ours = _named(path, rf"{STAMP}(\.cut-\d+)?{re.escape(path.suffix)}(\.part)?")
    sizes = {}
    for part in ours:
        with contextlib.suppress(FileNotFoundError):  # somebody deleted it just now
            if part.is_file() and not _is_written(part):
                sizes[part] = part.stat().st_size
    return sizes


def _named(path: Path, rest: str) -> list[Path]:
    """Return the files whose name is that of the recording and then `rest`, a regular expression, by name."""
    ours = re.compile(re.escape(path.stem) + rest)
    return sorted(part for part in path.parent.iterdir() if ours.fullmatch(part.name)) if path.parent.is_dir() else []


def _is_written(part: Path) -> bool:
    """Return whether a writer has the part open: it holds a lock as long as it lives."""
    if part.suffix != ".part":
        return False
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
