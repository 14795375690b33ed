"""Announces triggers to the hub and keeps each frame until the hub has recorded its outcome."""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from line_worker.config import Camera
from line_worker.errors import DecodeError
from line_worker.source import Captured
from line_worker.verdicts import Reason
from line_worker.wire import messages as m
from line_worker.wire.frames import FrameRing, Slot, checksum
from line_worker.wire.links import FRAMES
from line_worker.wire.sockets import Wire

log = structlog.get_logger()

ALIVE_S = 0.1
HELLO_S = 0.2  # a hub that does not know us is greeted at most this often
RESEND_S = 1.0  # a frame that nobody has acknowledged this long after its deadline is announced again
MAX_PENDING = 1000  # headers kept while the hub is away; what comes beyond becomes a gap


@dataclass(slots=True)
class Pending:
    """A frame the hub has not acknowledged: `at` is when it was captured, `again_at` when to announce it again."""

    frame: m.Frame
    slot: Slot | None
    at: float
    again_at: float


class Announcer:
    """The source's end of the frames link, for one camera."""

    def __init__(self, line: str, camera: Camera, wire: Wire) -> None:
        self._line, self._camera, self._wire = line, camera, wire
        self._channel = wire.connect(FRAMES, f"source-{camera.name}")
        self._limit = int(camera.max_frame_mb * 1e6)
        self._ring = self._new_ring() if camera.transport == "ring" else None
        self._pending: dict[m.FrameKey, Pending] = {}
        self._instance, self._hello_at = 0, 0.0
        self._ready, self._detail = False, "not opened yet"
        self._alive_at = 0.0
        self.fired: deque[m.Fire] = deque(maxlen=MAX_PENDING)  # what the hub says of parts that have come
        self.state = -1  # the station's state, -1 until the hub has said it
        self.epoch, self.next_seq = time.time_ns() // 1000, 0

    @property
    def pending(self) -> int:
        """Frames that are announced and not yet recorded."""
        return len(self._pending)

    @property
    def has_room(self) -> bool:
        """Whether another frame with pixels fits into the window."""
        return len(self._pending) < self._camera.window

    def set_ready(self, ready: bool, detail: str) -> None:
        """Say whether the camera gives frames, and why not."""
        self._ready, self._detail = ready, detail
        self._alive_at = 0.0

    def announce(self, captured: Captured) -> None:
        """Give the trigger its sequence number and tell the hub."""
        if not self.has_room:
            self._listen()  # while this picture was waited for the hub may have decided the one before
        seq, self.next_seq = self.next_seq, self.next_seq + 1
        if len(self._pending) >= MAX_PENDING:
            return  # the hub is away: the gap in the sequence speaks
        frame, slot = self._frame(seq, captured)
        again_at = captured.at + self._camera.deadline_ms / 1000 + RESEND_S
        pending = self._pending[frame.key] = Pending(frame, slot, captured.at, again_at)
        self._send(pending, time.monotonic())

    def place(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """Return room for a picture, until the next call: in the ring, if it has any, it need not be copied again."""
        room = self._ring.reserve(shape, dtype) if self._ring is not None else None
        return np.empty(shape, dtype) if room is None else room

    def turn(self) -> None:
        """Take what the hub says; say that we are alive; announce again what seems lost."""
        self._listen()
        now = time.monotonic()
        if now - self._alive_at >= ALIVE_S:
            self._alive_at = now
            self._channel.send(
                m.SourceAlive(self._camera.name, self.epoch, self.next_seq, self._ready, self._detail[:1000])
            )
            self._send_again(now)

    def wait(self, timeout_s: float) -> None:
        """Sleep until the hub says something."""
        self._wire.wait(timeout_s)

    def goodbye(self) -> None:
        """Tell the hub that nothing more will come."""
        self._channel.send(m.SourceBye(self._camera.name, self.epoch, self.next_seq))

    def close(self) -> None:
        """Remove the ring."""
        if self._ring is not None:
            self._ring.close()

    # ---- inside -------------------------------------------------------------------------------------------------

    def _new_ring(self) -> FrameRing:
        name = f"line-worker-{self._line}-{self._camera.name}"
        return FrameRing(name, self._camera.ring_slots, self._limit)

    def _frame(self, seq: int, captured: Captured) -> tuple[m.Frame, Slot | None]:
        key = m.FrameKey(self._line, self._camera.name, self.epoch, seq)
        pixels, problem = captured.pixels, captured.problem
        if pixels is not None and problem is Reason.NONE:
            problem = self._unfit(pixels)
        if pixels is None or problem is not Reason.NONE:
            return self._header(key, captured, None, problem or Reason.NO_FRAME), None
        pixels = np.ascontiguousarray(pixels)
        if self._ring is None:
            return dataclasses.replace(
                self._header(key, captured, pixels), place="inline", pixels=pixels.tobytes()
            ), None
        slot = self._ring.put(pixels)
        if slot is None:
            return self._header(key, captured, None, Reason.OVERLOAD), None
        placed = dataclasses.replace(
            self._header(key, captured, pixels),
            place="ring",
            ring=self._ring.ring,
            offset=slot.offset,
            generation=slot.generation,
        )
        return placed, slot

    def _unfit(self, pixels: NDArray[Any]) -> Reason:
        if not self.has_room:
            return Reason.OVERLOAD
        return Reason.TOO_BIG if pixels.nbytes > self._limit else Reason.NONE

    def _header(
        self, key: m.FrameKey, captured: Captured, pixels: NDArray[Any] | None, problem: Reason = Reason.NONE
    ) -> m.Frame:
        return m.Frame(
            key=key,
            age_ms=0.0,
            deadline_ms=self._camera.deadline_ms,
            shape=pixels.shape if pixels is not None else (),
            dtype=str(pixels.dtype) if pixels is not None else "",
            colour="" if pixels is None else "gray" if pixels.ndim == 2 else "bgr",
            checksum=checksum(pixels) if pixels is not None else 0,
            place="none",
            problem=int(problem),
            part_id=captured.part_id,
            trigger=captured.trigger,
        )

    def _listen(self) -> None:
        for received in self._channel.receive():
            self._take(received.message)

    def _send(self, pending: Pending, now: float) -> None:
        self._channel.send(dataclasses.replace(pending.frame, age_ms=(now - pending.at) * 1000))

    def _send_again(self, now: float) -> None:
        for key, pending in list(self._pending.items()):
            if pending.again_at > now:
                continue
            if key.epoch != self.epoch:  # the hub has refused the rest of that epoch
                self._forget(key)
                continue
            pending.again_at = now + RESEND_S
            self._send(pending, now)

    def _take(self, message: m.Message | DecodeError) -> None:
        match message:
            case m.FrameDone():
                for seq in message.seqs:
                    self._forget(m.FrameKey(self._line, self._camera.name, message.epoch, seq))
            case m.HubHello():
                self.state = message.state
                self._meet(message, time.monotonic())
            case m.Fire():
                self.fired.append(message)
            case m.Refused():
                log.error("the hub refuses this source", why=message.why)
                if message.old_epoch == self.epoch:
                    self._new_epoch()

    def _meet(self, hub: m.HubHello, now: float) -> None:
        """A hub that does not know us: introduce ourselves and send the whole window again."""
        stranger = hub.instance != self._instance
        if not stranger and (hub.known or now - self._hello_at < HELLO_S):
            return
        self._instance = hub.instance
        self._hello()
        for key, pending in self._pending.items():
            if key.epoch == self.epoch:
                self._send(pending, now)

    def _hello(self) -> None:
        self._hello_at, self._alive_at = time.monotonic(), 0.0  # how the camera is follows in the same turn
        self._channel.send(m.SourceHello(self._camera.name, self.epoch, self.next_seq))

    def _new_epoch(self) -> None:
        """Begin again from 0; what the hub has of the old epoch keeps its slots until it is decided."""
        log.warning("a new epoch begins", old=self.epoch, announced=self.next_seq, undecided=self.pending)
        self.epoch, self.next_seq = max(time.time_ns() // 1000, self.epoch + 1), 0
        self._hello()

    def _forget(self, key: m.FrameKey) -> None:
        pending = self._pending.pop(key, None)
        if pending is not None and pending.slot is not None and self._ring is not None:
            self._ring.free(pending.slot)
