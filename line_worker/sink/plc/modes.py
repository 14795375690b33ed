"""The two ways to a PLC's registers: it polls our server, or we write to its server. Neither decides anything."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Protocol

import structlog

from line_worker.config import PlcSink, WrittenPlc
from line_worker.errors import SinkError
from line_worker.sink.plc.link import failed, link_to
from line_worker.sink.plc.registers import FROM_PLC, SIZE, TO_PLC

log = structlog.get_logger()

BUSY_S = 0.003  # between two rounds over Modbus while a result waits for its acknowledgement
IDLE_S = 0.05
BACKOFF_S = (0.1, 2.0)
CLOSE_S = 2.0


class Registers(Protocol):
    """What the PLC may read and has written; called from the mode's thread."""

    @property
    def pending(self) -> bool:
        """Whether the PLC is to be asked again at once."""

    def words(self) -> list[int]:
        """Return the registers to the PLC as they are now."""

    def take(self, words: list[int]) -> None:
        """Take the registers that the PLC has written."""


class Mode(Protocol):
    """A way to the PLC."""

    @property
    def port(self) -> int:
        """The TCP port of the side that listens."""

    def open(self) -> None:
        """Begin; SinkError when that is impossible."""

    def wake(self) -> None:
        """There is something new to show."""

    def trouble(self) -> str:
        """Return why the PLC cannot be reached, or nothing."""

    def ended(self) -> str:
        """Return why nobody speaks with the PLC any more, or nothing."""

    def close(self) -> None:
        """End, in bounded time."""


class Served:
    """The PLC polls us."""

    size, writable = SIZE, FROM_PLC

    def __init__(self, sink: PlcSink, registers: Registers) -> None:
        from line_worker.sink.plc.server import RegisterServer

        self._registers = registers
        self._plc_words = [0] * len(FROM_PLC)
        self._server = RegisterServer(sink.host, sink.port, sink.unit, sink.base, self)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._server.port

    def read(self) -> list[int]:
        """Return the whole bank."""
        reserved = [0] * (FROM_PLC.start - TO_PLC.stop)
        return self._registers.words() + reserved + self._plc_words

    def write(self, words: list[int]) -> None:
        """Take what the PLC has written."""
        self._plc_words = words[FROM_PLC.start :]
        self._registers.take(self._plc_words)

    def open(self) -> None:
        """Listen."""
        self._server.open()

    def wake(self) -> None:
        """Nothing to do: the PLC comes by itself."""

    def trouble(self) -> str:
        """Nothing: whether the PLC comes shows in its heartbeat."""
        return ""

    def ended(self) -> str:
        """Return that the server has ended, or nothing."""
        return "" if self._server.is_alive() else _ENDED

    def close(self) -> None:
        """Stop listening."""
        self._server.close()


class Written:
    """We write to the PLC whenever something changes, and read what it answers."""

    def __init__(self, sink: PlcSink | WrittenPlc, registers: Registers) -> None:
        self.port = sink.port
        self._name, self._registers = sink.name, registers
        self._link = link_to(sink)
        self._busy_s = BUSY_S if sink.kind == "plc" else sink.poll_ms / 1000
        self._thread = threading.Thread(target=self._run, name="plc-client", daemon=True)
        self._wake, self._stop = threading.Event(), threading.Event()
        self._trouble = "the PLC has not been reached yet"
        self._last: list[int] = []  # what the PLC's registers hold
        self._told: set[type[Exception]] = set()  # what nobody had foreseen, once in the log

    def open(self) -> None:
        """Begin to write."""
        self._thread.start()

    def wake(self) -> None:
        """Write at once."""
        self._wake.set()

    def trouble(self) -> str:
        """Return why the last round failed, or nothing."""
        return self._trouble

    def ended(self) -> str:
        """Return that the thread has ended, or nothing."""
        return "" if self._thread.is_alive() else _ENDED

    def _run(self) -> None:
        backoff_s = BACKOFF_S[0]
        while not self._stop.is_set():
            try:
                self._round()
            except Exception as error:  # noqa: BLE001 - libraries raise anything at all over a malformed answer
                self._trouble, self._last = str(self._failure(error)), []
                self._stop.wait(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_S[1])
            else:
                self._trouble, backoff_s = "", BACKOFF_S[0]
                self._wake.wait(self._busy_s if self._registers.pending else max(self._busy_s, IDLE_S))
                self._wake.clear()

    def _failure(self, error: Exception) -> SinkError:
        """Return why a round has failed; the link is closed unless it has told so itself."""
        if isinstance(error, SinkError):
            return error
        if type(error) not in self._told:
            self._told.add(type(error))
            log.error("an answer of the PLC cannot be understood", sink=self._name, exc_info=error)
        with suppress(Exception):  # it is in a state that its library does not know
            self._link.close()
        return failed(f"sink {self._name}", f"the PLC's answer cannot be understood ({error!r})", "and what it runs")

    def _round(self) -> None:
        self._link.connect()  # which may take longer than a PASS lives: what is to be written is asked for afterwards
        words = self._registers.words()
        if words != self._last:
            self._link.write(TO_PLC.start, words)
            self._last = words
        self._registers.take(self._link.read(FROM_PLC))

    def close(self) -> None:
        """Stop writing; the heartbeat in the PLC's registers stands still from now on."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_S)
        self._link.close()


_ENDED = "the thread that speaks with the PLC has ended; nothing passes until it is started again"


def mode_of(sink: PlcSink | WrittenPlc, registers: Registers) -> Mode:
    """Return the way to the PLC of `sink`; SinkError when what it needs is not installed."""
    if sink.kind == "plc" and sink.mode == "server":
        return Served(sink, registers)
    return Written(sink, registers)
