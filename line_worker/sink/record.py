"""The recorder: frames and outcomes into an MCAP recording while the line runs.

The hub gives a frame together with its outcome: a picture that is copied and written while the part is decided would
share processor, memory and disk with the decision and the journal. It is copied out of the ring at once, before the
source needs its slot again, and written by a thread of its own. A slow disk costs pictures, never decisions. What does
not fit into the queue, or was overwritten before it could be copied, is recorded as missing, with its key. An outcome
counts as delivered when it is queued: the journal is the book, a recording is a witness, and what a killed recorder had
in hand is missing from it visibly. Outcomes of parts that came before the recording began (the hub owes them to a
durable sink) are acknowledged and left out.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from line_worker.errors import FrameError, RecordingError, SinkError
from line_worker.sink import QuietSink
from line_worker.sink.recent import RecentKeys
from line_worker.wire.frames import FrameReader
from line_worker.wire.limits import RECORDER_BYTES
from line_worker.wire.recording import RecordingMeta, Trigger
from line_worker.wire.recording_parts import Limits, RecordingParts
from line_worker.wire.recording_writer import RecordingWriter
from line_worker.wire.rosimage import Compression

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.config import Config
    from line_worker.wire.messages import Frame, FrameKey, Outcome

log = structlog.get_logger()

TELL_S = 1.0
QUEUE_ITEMS = 20_000  # triggers and outcomes waiting for the disk

Task = Callable[[], None]
ONE_FILE = Limits()


class Recorder(QuietSink):
    """See the module's text. `missing` counts the pictures that are not in the recording."""

    wants_frames = True
    nice = 5  # what a recording misses is missing from a file; what a decision misses is a reject

    def __init__(
        self,
        path: Path,
        config: Config,
        tolerance: float,
        limits: Limits = ONE_FILE,
        compression: Compression = "none",
        queue_bytes: int = RECORDER_BYTES,
    ) -> None:
        self._path, self._config, self._tolerance = path, config, tolerance
        self._limits, self._compression, self._queue_bytes = limits, compression, queue_bytes
        self._parts = {parts.name for parts in config.parts}
        self._thread: WriterThread | None = None
        self._reader = FrameReader()
        self._taken, self._delivered = RecentKeys(), RecentKeys()
        self._first: dict[tuple[str, int], int] = {}  # camera and epoch -> first part of this recording
        self.missing = 0
        self._untold: Counter[str] = Counter()
        self._told_at = -TELL_S

    def open(self) -> None:
        """Create the file; SinkError when that is impossible, for example because it is there already."""
        self.close()
        self._first.clear()
        meta = RecordingMeta(self._config.line.name, time.time(), self._tolerance, self._config.public_json())
        try:
            self._thread = WriterThread(self._writer(meta))
        except RecordingError as error:
            raise SinkError(str(error)) from error
        self._thread.start()

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Queue `outcome`; after a failure of the disk a new file is tried first."""
        if self._thread is None or self._thread.failure:
            self.open()
        assert self._thread is not None
        if self._began_with(outcome) and outcome.key not in self._delivered:
            if self._thread.tasks.qsize() >= QUEUE_ITEMS:
                raise SinkError(f"{self._path}: the disk does not keep up; outcomes wait")
            self._thread.put(functools.partial(self._thread.writer.outcome, outcome, _wall_ns()))
            self._delivered.add(outcome.key)
        return True

    def tap(self, frame: Frame, inline: bytes) -> None:
        """Queue a copy of the frame's pixels, or why there are none."""
        thread = self._thread
        if thread is None or thread.failure or frame.key in self._taken:
            return
        if thread.tasks.qsize() >= QUEUE_ITEMS:
            self._miss("the disk does not keep up")
            return
        self._first.setdefault((frame.key.camera, frame.key.epoch), frame.key.seq)
        at_ns = _wall_ns()
        pixels, missing = self._copy(frame, inline, thread)
        if missing:
            self._miss(missing)
        else:
            self._taken.add(frame.key)
        trigger_ns = at_ns - round(max(0.0, frame.age_ms) * 1e6)
        task = functools.partial(thread.writer.frame, Trigger(frame, missing), pixels, at_ns, trigger_ns)
        thread.put(task, 0 if pixels is None else pixels.nbytes)

    def _miss(self, why: str) -> None:
        self.missing += 1
        self._untold[why] += 1

    def poll(self, now: float) -> None:
        """Say what was missed, once a second: the disk may be slow as it is."""
        if self._untold and now - self._told_at >= TELL_S:
            log.warning("pictures are missing from the recording", count=self._untold.total(), why=dict(self._untold))
            self._untold.clear()
            self._told_at = now

    def reachable(self) -> tuple[bool, str]:
        """Whether the file can be written, and how many pictures it lacks."""
        if self._thread is None or self._thread.failure:
            return False, self._thread.failure if self._thread else "not open"
        return True, f"{self.missing} picture(s) missing" if self.missing else ""

    def close(self) -> None:
        """Write what is queued and finish the file."""
        if self._thread is not None:
            self._thread.finish()
            self._thread = None
        self._reader.close()

    def _writer(self, meta: RecordingMeta) -> RecordingWriter | RecordingParts:
        if self._limits.parted:
            return RecordingParts(self._path, meta, self._limits, self._compression)
        return RecordingWriter(self._path, meta, self._compression)

    def _began_with(self, outcome: Outcome) -> bool:
        """Whether a part, or one of its views, came after this recording began; of a part that nobody saw: anything."""
        keys = [view.key for view in outcome.views] or [outcome.key]
        unseen = outcome.key.camera in self._parts and not outcome.views
        return any(self._began(key) for key in keys) or (unseen and bool(self._first))

    def _began(self, key: FrameKey) -> bool:
        """Whether the picture came after this recording began; without clocks, which may differ from the hub's."""
        first = self._first.get((key.camera, key.epoch))
        return first is not None and key.seq >= first

    def _copy(self, frame: Frame, inline: bytes, thread: WriterThread) -> tuple[NDArray[Any] | None, str]:
        """Return (pixels, "") or (None, why they are missing); (None, "") for a frame that never had any."""
        if frame.place == "none":
            return None, ""
        if thread.waiting_bytes + max(0, frame.nbytes) > self._queue_bytes:
            return None, "the disk does not keep up"
        try:
            return self._reader.read(frame, inline), ""
        except FrameError as error:
            return None, str(error).removeprefix(f"{frame.key}: ")


class WriterThread(threading.Thread):
    """Writes queued tasks in order; `failure` says why it has stopped, "" while it works."""

    def __init__(self, writer: RecordingWriter | RecordingParts) -> None:
        super().__init__(name="recording", daemon=True)
        self.writer = writer
        self.tasks: queue.SimpleQueue[tuple[Task, int] | None] = queue.SimpleQueue()
        self.failure = ""
        self.waiting_bytes = 0
        self._lock = threading.Lock()

    def put(self, task: Task, nbytes: int = 0) -> None:
        """Queue a task that holds `nbytes` of memory."""
        with self._lock:
            self.waiting_bytes += nbytes
        self.tasks.put((task, nbytes))

    def finish(self) -> None:
        """Write what is queued, close the file, end."""
        self.tasks.put(None)
        self.join()

    def run(self) -> None:
        """Write until `finish`; whatever ends it before is its `failure`: a dead thread looks like a quiet one."""
        failure = f"{self.writer.path}: its writer has ended unexpectedly; nothing more is recorded; stderr says why"
        try:
            while (item := self.tasks.get()) is not None:
                self._write(*item)
            self.writer.close()
            failure = ""
        except RecordingError as error:
            failure = str(error)
        finally:
            if failure:
                log.error("recording has stopped", error=failure)
                self.writer.abandon()
            self.failure = failure

    def _write(self, task: Task, nbytes: int) -> None:
        task()
        with self._lock:
            self.waiting_bytes -= nbytes
        if self.tasks.empty():
            self.writer.flush()  # nothing waits: what is written now survives a kill


_WALL_NS = time.time_ns() - time.monotonic_ns()


def _wall_ns() -> int:
    """Return Unix nanoseconds as of the start of this process, advanced by the monotonic clock: they never jump."""
    return _WALL_NS + time.monotonic_ns()
