"""The PLC sink: outcomes into a PLC: registers (Modbus TCP), data block (S7), variables (OPC UA), tags (EtherNet/IP).

The handshake decides what the registers hold. As Modbus server, the PLC polls us and every request is answered with the
handshake's registers of that instant. In every other way a thread writes them to the PLC whenever they change and
reads the PLC's own: every few milliseconds while a result waits, rarely otherwise. A PLC that cannot be reached raises
nothing: its heartbeat is stale then, `reachable` says so, and its own window rejects the parts. Where several cameras
look at a part, the PLC gets the part's verdict and not theirs.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

import structlog

from line_worker.config import Config, OpcUaSink, PlcSink, WrittenPlc
from line_worker.errors import SinkError
from line_worker.priority import URGENT
from line_worker.sink import Ask, QuietSink
from line_worker.sink.plc.handshake import Handshake
from line_worker.sink.plc.registers import Plc, decode
from line_worker.wire.messages import HubState, Outcome

if TYPE_CHECKING:
    from line_worker.sink.plc.modes import Mode

log = structlog.get_logger()


class PlcOutput(QuietSink):
    """The sink for one PLC. Real-time: what the PLC does not take within its window is dropped and counted."""

    durable = False
    nice = URGENT

    def __init__(self, sink: PlcSink | WrittenPlc | OpcUaSink, config: Config | None = None) -> None:
        self._sink = sink
        self._views = config.views() if config is not None else set()
        self.eager = config is not None and config.fires(sink.name)  # a trigger must not wait for the next round
        self._lock = threading.Lock()  # the handshake is used by the runner's thread and by the link's
        session = 1 + secrets.randbelow(0xFFFF)
        self._handshake = Handshake(session, sink.plc_heartbeat_ms / 1000, sink.queue)
        self._mode: Mode | None = None

    @property
    def counts(self) -> Counter[str]:
        """Results by what became of them; see `Handshake`."""
        with self._lock:
            return self._handshake.counts.copy()

    @property
    def port(self) -> int:
        """The port that the PLC or we listen on."""
        return self._mode.port if self._mode is not None else self._sink.port

    def open(self) -> None:
        """Listen for the PLC, or begin to write to it.

        Raises:
            SinkError: as server, the port cannot be used; as client, what the protocol needs is missing.
        """
        from line_worker.sink.plc.modes import mode_of  # a protocol is imported by those who speak it

        assert not isinstance(self._sink, OpcUaSink)
        mode = mode_of(self._sink, self)
        mode.open()
        self._mode = mode

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Offer `outcome` to the PLC until its window ends."""
        if outcome.key.camera in self._views:
            return True
        with self._lock:
            self._handshake.offer(outcome, now)
        if self._mode is not None:
            self._mode.wake()
        return True

    def beat(self, state: HubState, now: float) -> None:
        """Drive the heartbeat."""
        with self._lock:
            self._handshake.beat(state, now)

    def poll(self, now: float) -> None:
        """Drop what is too late and log what has happened.

        Raises:
            SinkError: nobody speaks with the PLC any more; the process ends with it, and is started again.
        """
        with self._lock:
            self._handshake.tick(now)
            notes = self._handshake.take_notes()
        for note in notes:
            (log.warning if note.serious else log.info)(note.event, **note.details)
        if self._mode is not None and (why := self._mode.ended()):
            raise SinkError(f"sink {self._sink.name}: {why}")

    def asks(self) -> list[Ask]:
        """Return what the PLC has asked of the line."""
        with self._lock:
            return self._handshake.take_asks()

    def reachable(self) -> tuple[bool, str]:
        """Whether the PLC takes results, and why not."""
        trouble = self._mode.trouble() if self._mode is not None else "not open"
        with self._lock:
            return (False, trouble) if trouble else self._handshake.reachable()

    def words(self) -> list[int]:
        """Return the registers to the PLC as they are now."""
        with self._lock:
            return self._handshake.words(time.monotonic())

    def take(self, words: list[int]) -> None:
        """Take the registers that the PLC has written."""
        with self._lock:
            self._handshake.take(decode(Plc, words), time.monotonic())

    @property
    def pending(self) -> bool:
        """Whether the PLC is to be asked again at once: results wait for it, or it triggers."""
        if self.eager:
            return True
        with self._lock:
            return self._handshake.pending

    def close(self) -> None:
        """Let go of the PLC: its heartbeat from us stops."""
        if self._mode is not None:
            self._mode.close()
            self._mode = None
        self.poll(time.monotonic())
