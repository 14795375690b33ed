"""Makes the pictures that the page shows, in a thread of its own: the newest part of each camera, and every reject.

The pixels are read from the source's ring when they are wanted, not when they come; by then a slot may have been used
again, and the part is shown without a picture. Those that travel inside messages are there already. Of the newest part
there is never a queue: while one is drawn, the next ones replace each other. Rejects wait, `LIVE_WAITING` at most, and
are kept as files; when they come faster than `KEPT_A_SECOND`, the rest is listed without pictures, so that a station
that rejects everything has not to draw it all.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import structlog

from line_worker.errors import FrameError, ImageError
from line_worker.images import encode_png
from line_worker.live.pictures import SHOWN, SMALL, smaller, to_jpeg
from line_worker.sink.crops import CropFolder
from line_worker.wire.frames import FrameReader
from line_worker.wire.limits import LIVE_BYTES, LIVE_WAITING
from line_worker.wire.messages import Crop, Frame, FrameKey

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = structlog.get_logger()

Part = dict[str, Any]

EVERY_S = 0.04  # between two pictures of a camera, while somebody looks
IDLE_S = 1.0  # and while nobody does
WATCHED_S = 3.0  # so long after the last request somebody counts as looking
STEP = 64  # pixels; sizes of the newest part's picture are multiples of it
REJECTS = 48  # that are listed
KEPT_A_SECOND = 4.0
HELD = 48  # parts shown last, whose pixels somebody may want to keep
ORIGINAL, SMALLER = "original", "small"  # names of files


class Shown(NamedTuple):
    """The newest part of a camera; `number` grows with every one of any camera; without a picture `jpeg` is empty.

    Its longer side has at most `longest` pixels.
    """

    number: int
    part: Part
    jpeg: bytes
    longest: int


class Job(NamedTuple):
    """A decided part, its header if it was announced, and its picture as it came in a message or was read."""

    key: FrameKey
    part: Part
    frame: Frame | None
    inline: bytes = b""
    pixels: NDArray[Any] | None = None

    @property
    def left_out(self) -> bool:
        """Whether its picture was in a message, and did not come here: of a fast line some do."""
        return self.frame is not None and self.frame.place == "inline" and not self.inline


class Painter(threading.Thread):
    """`take` gives it parts; `newest` and `rejects` are what others may read."""

    def __init__(self, pictures: CropFolder) -> None:
        super().__init__(name="painter", daemon=True)
        self.newest: dict[str, Shown] = {}
        self.rejects: tuple[Part, ...] = ()  # the newest first
        # a page that was shown before this process began has seen numbers of the one before: these are larger
        self._number = self.rejects_number = time.time_ns() // 1_000_000
        self._asked: dict[int, float] = {}  # pixels of the longer side that somebody shows: when he asked last
        self._pictures, self._reader = pictures, FrameReader()
        self._next: dict[str, Job] = {}
        self._rejects: deque[Job] = deque()
        self._held: dict[FrameKey, Job] = {}  # the one shown last comes last
        self._drawn_at: dict[str, float] = {}
        self._kept_at = float("-inf")
        self._turn = threading.Condition()
        self._stopping = False

    def take(self, job: Job) -> None:
        """Show a part, and keep it when it is a reject; never waits."""
        with self._turn:
            if not job.left_out:
                self._next[job.key.camera] = job
            if job.part["verdict"] != "PASS":
                self._relist([job.part, *self.rejects])
                self._let_wait(job, time.monotonic())
            self._turn.notify()

    def _let_wait(self, job: Job, now: float) -> None:
        room = len(self._rejects) < LIVE_WAITING and now - self._kept_at >= 1 / KEPT_A_SECOND
        if job.frame is not None and not job.left_out and room:
            self._kept_at = now
            self._rejects.append(job)

    def remember(self, rejects: Iterable[Part]) -> None:
        """List rejects from before the start."""
        with self._turn:
            self._relist([*self.rejects, *rejects])

    def keep(self, key: FrameKey) -> None:
        """Write the pictures of a part that was shown lately, so that somebody can look at it closely."""
        with self._turn:
            job = self._held.get(key)
            waits = any(one.key == key for one in self._rejects)
            if job is not None and job.pixels is not None and not waits and len(self._rejects) < LIVE_WAITING:
                self._rejects.append(job)
                self._turn.notify()

    def part(self, key: FrameKey) -> Part | None:
        """Return a part that was shown or rejected lately."""
        job = self._held.get(key)
        if job is not None:
            return job.part
        named = {"camera": key.camera, "epoch": str(key.epoch), "seq": key.seq}
        return next((part for part in self.rejects if named.items() <= part.items()), None)

    def watch(self, now: float, longest: int) -> None:
        """Somebody looks, and shows the newest part with so many pixels on its longer side."""
        longest = min(SHOWN, max(SMALL, -(-longest // STEP) * STEP))
        self._asked[longest] = now
        for camera, shown in self.newest.copy().items():
            if shown.jpeg and shown.longest < min(longest, max(shown.part["width"], shown.part["height"])):
                self._show_larger(camera)

    def _show_larger(self, camera: str) -> None:
        """Draw what is shown once more: the line may stand, and this part be looked at for long."""
        with self._turn:
            job = next((one for one in reversed(self._held.values()) if one.key.camera == camera), None)
            if job is not None and job.pixels is not None and camera not in self._next:
                self._next[camera] = job
                self._turn.notify()

    def watched(self, now: float) -> bool:
        """Whether somebody has asked for a part lately."""
        return bool(self._shown_at(now))

    def _shown_at(self, now: float) -> list[int]:
        return [longest for longest, at in self._asked.copy().items() if now - at < WATCHED_S]

    def close(self) -> None:
        """Stop; what is being drawn is finished."""
        with self._turn:
            self._stopping = True
            self._turn.notify()
        if self.is_alive():
            self.join()
        self._reader.close()

    def run(self) -> None:
        """Draw until `close`."""
        while (job := self._wait()) is not None:
            with suppress(ImageError):
                if job[1]:
                    self._keep(job[0])
                else:
                    self._show(job[0])

    def _wait(self) -> tuple[Job, bool] | None:
        """Return the next job and whether it is to be kept, None at the end."""
        with self._turn:
            while not self._stopping:
                now = time.monotonic()
                if self._rejects:
                    return self._rejects.popleft(), True
                due = {camera: self._due(camera, now) for camera in self._next}
                camera = min(due, key=due.__getitem__, default="")
                if camera and due[camera] <= now:
                    return self._next.pop(camera), False
                self._turn.wait(due[camera] - now if camera else None)
        return None

    def _due(self, camera: str, now: float) -> float:
        every_s = EVERY_S if self.watched(now) else IDLE_S
        return self._drawn_at.get(camera, float("-inf")) + every_s

    def _show(self, job: Job) -> None:
        self._drawn_at[job.key.camera] = time.monotonic()
        pixels = self._read(job) if job.pixels is None else job.pixels
        longest = max(self._shown_at(time.monotonic()), default=SHOWN)
        part = job.part | _size(pixels)
        self._hold(job._replace(part=part, inline=b"", pixels=pixels))
        self._number += 1
        jpeg = b"" if pixels is None else to_jpeg(pixels, longest)
        self.newest[job.key.camera] = Shown(self._number, part, jpeg, longest)

    def _hold(self, job: Job) -> None:
        with self._turn:
            self._held[job.key] = job
            while len(self._held) > HELD or sum(_bytes(one) for one in self._held.values()) > LIVE_BYTES:
                del self._held[next(iter(self._held))]

    def _keep(self, job: Job) -> None:
        """Write the original, and a small one for the list."""
        pixels = self._read(job) if job.pixels is None else job.pixels
        if pixels is None:
            return
        try:
            for name, picture in ((ORIGINAL, pixels), (SMALLER, smaller(pixels, SMALL))):
                self._pictures.add(Crop(job.key, name, encode_png(picture)))
        except (OSError, ValueError) as error:
            log.warning("the page keeps no picture of this reject", key=str(job.key), why=str(error))
            return
        with self._turn:
            pictured = job.part | _size(pixels) | {"pictured": True}
            self._relist([pictured if part is job.part else part for part in self.rejects])

    def _relist(self, rejects: list[Part]) -> None:
        self.rejects = tuple(rejects[:REJECTS])
        self.rejects_number += 1

    def _read(self, job: Job) -> NDArray[Any] | None:
        if job.frame is None or job.frame.place == "none":
            return None
        try:
            return self._reader.read(job.frame, job.inline)
        except FrameError:  # its slot has been used again, or its source is gone
            return None


def _bytes(job: Job) -> int:
    return 0 if job.pixels is None else job.pixels.nbytes


def _size(pixels: NDArray[Any] | None) -> Part:
    return {} if pixels is None else {"height": pixels.shape[0], "width": pixels.shape[1]}
