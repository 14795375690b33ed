"""Writes a recording; see `recording` for what is in it.

The file is `X.mcap.part` until it is closed in good order and gets its name, so a file called `X.mcap` is whole. What
a killed writer left is readable up to the last flush, and the next writer sets it aside as `X.cut-1.mcap`. Chunks are
not compressed; pictures may be: as differences of rows, cheaply, or as PNG, which other programs show.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from line_worker.errors import RecordingError
from line_worker.wire.mcap_writer import McapWriter
from line_worker.wire.messages import Outcome
from line_worker.wire.recording import (
    END,
    META,
    OUTCOME,
    OUTCOMES,
    START,
    TRIGGER,
    RecordingMeta,
    Trigger,
    header_of,
    seal,
)
from line_worker.wire.rosimage import KINDS, Compression

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK_BYTES = 256 * 1024  # small pictures share a chunk, large ones have their own: damage costs little
MIN_FREE = 64_000_000  # bytes of disk without which none is begun: a full disk must not fill with beginnings
SYNC_BYTES = 16_000_000  # at most so much is on its way to the disk: with 64 MB the journal waited up to 330 ms
TRAIL_BYTES = 8_000_000  # what was written last and may still have to leave the page cache


class RecordingWriter:
    """One recording being written, by one thread. Every method raises RecordingError when the file cannot be written.

    `at_ns` are Unix nanoseconds of a clock that does not jump; `trigger_ns` is when the part was triggered.
    `compression` says how pictures are stored.
    """

    def __init__(self, path: Path, meta: RecordingMeta, compression: Compression = "none") -> None:
        self.path, self.meta = path, meta
        self._kind = KINDS[compression]
        self.part = path.with_name(path.name + ".part")
        self.frames = self.missing = self.outcomes = 0
        self._bundles: set[str] = set()
        self._channels: dict[str, int] = {}
        self._unsynced = 0
        with writing(self.path):
            self._file = _create(self.path, self.part)
            self._writer = McapWriter(self._file, profile="ros2", library="line-worker")
            self._writer.metadata(START, self._description())
            self._writer.end_chunk()

    def frame(self, trigger: Trigger, pixels: NDArray[Any] | None, at_ns: int, trigger_ns: int) -> None:
        """Write a trigger and its picture; without one, `trigger.missing` or the frame's problem says why."""
        key = trigger.frame.key
        trigger = dataclasses.replace(trigger, frame=header_of(trigger.frame))
        with writing(self.path):
            if pixels is not None:
                image = self._kind.encode(pixels, trigger_ns, str(key))
                self._writer.message(self._image_channel(key.camera), at_ns, trigger_ns, key.seq, *image)
            data = TRIGGER.dump_json(trigger, exclude={"frame": {"pixels"}})
            channel = self._json_channel(f"/{key.camera}/trigger", "line_worker.Trigger")
            self._writer.message(channel, at_ns, trigger_ns, key.seq, data)
            self._end_large_chunk()
        self.frames += 1
        self.missing += bool(trigger.missing)

    def outcome(self, outcome: Outcome, at_ns: int) -> None:
        """Write an outcome."""
        with writing(self.path):
            data = OUTCOME.dump_json(outcome)
            channel = self._json_channel(OUTCOMES, "line_worker.Outcome")
            self._writer.message(channel, at_ns, at_ns, outcome.key.seq, data)
            self._end_large_chunk()
        self.outcomes += 1
        self._bundles |= {outcome.bundle} - {""}

    @property
    def nbytes(self) -> int:
        """Bytes that the file has, with what waits to be written."""
        return 0 if self._file.closed else int(self._file.tell()) + self._writer.waiting_bytes

    def flush(self) -> None:
        """Hand everything to the operating system: a writer that is killed afterwards loses none of it."""
        with writing(self.path):
            self._end_chunk()

    def close(self) -> None:
        """Finish the file, put it on disk and give it its name. May be called twice."""
        if self._file.closed:
            return
        with writing(self.path):
            self._writer.end_chunk()
            self._writer.metadata(END, self._description())
            self._writer.finish()
            os.fsync(self._file.fileno())
            self.part.rename(self.path)
            self._file.close()

    def abandon(self) -> None:
        """Leave the file as it is: cut, but readable."""
        with contextlib.suppress(OSError):
            self._file.close()

    # ---- inside -------------------------------------------------------------------------------------------------

    def _description(self) -> dict[str, str]:
        counts = {"frames": self.frames, "missing": self.missing, "outcomes": self.outcomes}
        texts = {name: str(count) for name, count in counts.items()}
        meta = META.dump_json(self.meta).decode()
        return seal({"meta": meta, "bundles": " ".join(sorted(self._bundles)), **texts})

    def _end_large_chunk(self) -> None:
        """End the chunk if it is large enough: only between frames, so that a picture stays with its trigger."""
        if self._writer.waiting_bytes >= CHUNK_BYTES:
            self._end_chunk()

    def _end_chunk(self) -> None:
        self._unsynced += self._writer.waiting_bytes
        self._writer.end_chunk()
        self._start_writing()
        if self._unsynced > SYNC_BYTES:
            self._unsynced = 0
            os.fdatasync(self._file.fileno())

    def _start_writing(self) -> None:
        """Have the disk begin, and drop what it has: a journal beside must not wait for one burst of many pictures."""
        start = max(0, self._file.tell() - TRAIL_BYTES)
        os.posix_fadvise(self._file.fileno(), start, 0, os.POSIX_FADV_DONTNEED)

    def _image_channel(self, camera: str) -> int:
        topic = f"/{camera}/{self._kind.topic}"
        if topic not in self._channels:
            schema = self._writer.schema(self._kind.schema, "ros2msg", self._kind.definition.encode())
            self._channels[topic] = self._writer.channel(topic, "cdr", schema)
        return self._channels[topic]

    def _json_channel(self, topic: str, name: str) -> int:
        if topic not in self._channels:  # JSON describes itself; `mcap doctor` wants a schema all the same
            schema = self._writer.schema(name, "jsonschema", b'{"type": "object"}')
            self._channels[topic] = self._writer.channel(topic, "json", schema)
        return self._channels[topic]


def check_place(path: Path) -> None:
    """Make the folder; RecordingError where no recording can begin."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if free < MIN_FREE:
        raise RecordingError(f"{path}: only {free / 1e6:.0f} MB are free; nothing is recorded; make room on the disk")
    if path.exists():
        raise RecordingError(f"{path}: is there already and is not overwritten; give another name, or move it away")


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into a RecordingError about `path`."""
    try:
        yield
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot be written ({error.strerror}); nothing more is recorded; "
            "check the disk's space and the folder's permissions"
        ) from error


def _create(path: Path, part: Path) -> Any:
    """Open the part file; what a dead writer left is set aside, a living one is respected."""
    check_place(path)
    file = part.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RecordingError(f"{path}: another process is recording into it; give another name") from None
    if not file.tell():
        return file
    spare = next(
        p for n in itertools.count(1) if not (p := path.with_name(f"{path.stem}.cut-{n}{path.suffix}")).exists()
    )
    part.rename(spare)
    file.close()
    return _create(path, part)
