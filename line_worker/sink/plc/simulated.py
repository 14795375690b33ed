"""The simulated PLC: the twin that ships. It runs `PlcProgram` against the PLC sink through real Modbus TCP.

As client it polls our server, as a PLC does in the sink's mode `server`; with `serve` it is the Modbus server that the
sink writes to in mode `client`, and with `memory` another server that a sink writes to: snap7's (S7), asyncua's (OPC
UA) or cpppo's (EtherNet/IP).
`python -m line_worker.sink.plc.simulated HOST PORT --log FILE` runs it as a process: every decision becomes a line of
JSON, SIGTERM ends it with exit code 0. When the station goes away its windows run on, and it tries to reach the station
again.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, TextIO

from line_worker.errors import SinkError
from line_worker.health import StopFlag, die_with_parent
from line_worker.sink.plc.client import RegisterClient
from line_worker.sink.plc.link import Words
from line_worker.sink.plc.program import Booking, PlcProgram
from line_worker.sink.plc.registers import FROM_PLC, SIZE, TO_PLC, Active, Plc, encode
from line_worker.sink.plc.server import RegisterServer

POLL_S = 0.005
AGAIN_S = 0.1  # between two attempts to reach the station
CLOSE_S = 3.0


class Memory(Words, Protocol):
    """Memory of a PLC that others reach over the network. `close` ends every session."""

    port: int

    def open(self) -> None:
        """Listen; SinkError when that is impossible."""


class SimulatedPlc:
    """A PLC of its own: start it as a context manager (in a thread), or call `run` (in this one).

    Args:
        host, port, unit, base: where the PLC sink listens or, with `serve`, where this PLC does.
        serve: be the Modbus server.
        memory: be the server of this memory, which the station writes to.
        poll_s: time between two polls, the scan cycle of the PLC.
        window_s: how long a part that `trigger` announced waits for its result.
        trigger_s: time between two parts that this PLC lets come by itself, once it is synchronised; 0: none.
        log: gets a line of JSON for every booking.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        unit: int = 1,
        base: int = 0,
        serve: bool = False,
        memory: Memory | None = None,
        poll_s: float = POLL_S,
        window_s: float = 1.0,
        trigger_s: float = 0.0,
        log: TextIO | None = None,
    ) -> None:
        self._program = PlcProgram(window_s)
        self._lock = threading.Lock()  # the program is used by this PLC's thread, its server's and callers of `trigger`
        self._poll_s, self._log = poll_s, log
        self._trigger_s, self._trigger_at = trigger_s, 0.0
        self._link: Words | None = None  # where the program finds the station's registers
        self._server: RegisterServer | Memory | None = None
        if memory is not None:
            self._link = self._server = memory
        elif serve:
            self._server = RegisterServer(host, port, unit, base, _Bank(self))
        else:
            self._link = RegisterClient(host, port, unit, base)
        self._told = Plc()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.books: list[Booking] = []
        self.trouble = ""

    @property
    def port(self) -> int:
        """The port that this PLC listens on."""
        assert self._server is not None, "only a serving PLC listens"
        return self._server.port

    @property
    def received(self) -> int:
        """Results taken so far."""
        return self._program.received

    @property
    def accepted(self) -> int:
        """Parts accepted so far."""
        return self._program.accepted

    @property
    def stops(self) -> int:
        """How often the station has stopped the line."""
        return self._program.stops

    @property
    def stop_line(self) -> int:
        """Why the line stands still, 0 while it runs."""
        return self._program.stop_line

    @property
    def active(self) -> Active:
        """The recipe that inspects."""
        return self._program.active

    def trigger(self, part_id: str = "") -> int:
        """A part has come; returns its trigger count."""
        with self._lock:
            return self._program.trigger(time.monotonic(), part_id)

    def select(self, recipe: int) -> None:
        """The recipe of this number is to inspect."""
        with self._lock:
            self._program.select(recipe)

    def run(self, stopping: Callable[[], bool]) -> None:
        """Scan until `stopping`.

        Raises:
            SinkError: as server, the port cannot be used.
        """
        if self._server is not None:
            self._server.open()
        try:
            while not stopping():
                time.sleep(self._cycle())
        finally:
            self._end()

    def _cycle(self) -> float:
        """Do one scan; returns how long to wait before the next."""
        wait_s = self._poll_s
        self._let_come(time.monotonic())
        if self._link is None:
            with self._lock:
                self._program.idle(time.monotonic())
        else:
            wait_s = self._poll(self._link)
        self._keep_books()
        return wait_s

    def _let_come(self, now: float) -> None:
        """A part comes by itself, when it is time."""
        if self._trigger_s and self._program.synchronised and now >= self._trigger_at:
            self.trigger(f"part-{self._program.triggers + 1}")
            self._trigger_at = max(self._trigger_at + self._trigger_s, now)

    def _poll(self, link: Words) -> float:
        before = self._told.ack_toggle
        try:
            plc = self.scan(link.read(TO_PLC))
            if plc != self._told:
                link.write(FROM_PLC.start, encode(plc))
                self._told = plc
        except SinkError as error:
            self.trouble, self._told = str(error), Plc()
            self.scan(None)
            return AGAIN_S
        self.trouble = ""
        return 0.0 if plc.ack_toggle != before else self._poll_s  # another result may be waiting

    def scan(self, words: Sequence[int] | None) -> Plc:
        """Give the program the registers, or none; returns what it writes."""
        with self._lock:
            now = time.monotonic()
            return self._program.idle(now) if words is None else self._program.scan(words, now)

    def _keep_books(self) -> None:
        with self._lock:
            new = list(self._program.booked)
            self._program.booked.clear()
        if self._log is None:
            self.books += new
        elif new:
            self._log.writelines(json.dumps(booking.as_dict()) + "\n" for booking in new)
            self._log.flush()

    def _end(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._link is not None:
            self._link.close()
        self._keep_books()

    def start(self) -> SimulatedPlc:
        """Run in a thread of its own; with `serve`, `port` is known on return."""
        listening = threading.Event()

        def stopping() -> bool:
            listening.set()
            return self._stop.is_set()

        self._thread = threading.Thread(target=self.run, args=(stopping,), name="simulated-plc", daemon=True)
        self._thread.start()
        listening.wait(timeout=CLOSE_S)
        return self

    def stop(self) -> None:
        """End the thread; the books are complete on return."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=CLOSE_S)

    def __enter__(self) -> SimulatedPlc:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Bank:
    """The registers of a serving PLC."""

    size, writable = SIZE, TO_PLC

    def __init__(self, plc: SimulatedPlc) -> None:
        self._plc = plc
        self._station_words = [0] * FROM_PLC.start

    def read(self) -> list[int]:
        return self._station_words + encode(self._plc.scan(None))

    def write(self, words: list[int]) -> None:
        self._station_words = words[: FROM_PLC.start]
        self._plc.scan(words[: TO_PLC.stop])


def _memory(chosen: argparse.Namespace) -> Memory | None:
    """Return the memory that the arguments choose, none for Modbus."""
    if chosen.s7_db is not None:
        from line_worker.sink.plc.s7_served import ServedBlock

        return ServedBlock(chosen.host, chosen.port, chosen.s7_db, chosen.base, chosen.sessions)
    if chosen.opcua:
        from line_worker.sink.plc.nodes_served import ServedNodes

        return ServedNodes(chosen.host, chosen.port)
    if chosen.ethernet_ip:
        from line_worker.sink.plc.tags_served import ServedTags

        return ServedTags(chosen.host, chosen.port)
    return None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one simulated PLC until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="simulated-plc", description="A PLC that rejects by default: over Modbus TCP, S7, OPC UA or EtherNet/IP."
    )
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--log", type=Path, required=True, help="decisions as JSON lines, appended")
    parser.add_argument("--unit", type=int, default=1)
    parser.add_argument(
        "--base", type=int, default=0, help="address of the first register, in a data block of the first byte"
    )
    parser.add_argument("--serve", action="store_true", help="be the Modbus server that the sink writes to")
    parser.add_argument("--s7-db", type=int, help="be an S7 server, with the table in this data block")
    parser.add_argument("--opcua", action="store_true", help="be an OPC UA server, with a variable for every row")
    parser.add_argument("--ethernet-ip", action="store_true", help="be an EtherNet/IP server (pip install cpppo)")
    parser.add_argument("--sessions", type=int, default=8, help="of S7, at once")
    parser.add_argument("--poll-ms", type=float, default=POLL_S * 1000)
    parser.add_argument("--window-ms", type=float, default=1000.0)
    parser.add_argument("--trigger-ms", type=float, default=0.0, help="let a part come so often by itself")
    parser.add_argument("--parent", type=int, default=0, help="end with this process")
    chosen = parser.parse_args(arguments)
    stop = StopFlag()
    if chosen.parent:
        die_with_parent(chosen.parent)
    with chosen.log.open("a", encoding="utf-8") as log:
        plc = SimulatedPlc(
            chosen.host,
            chosen.port,
            unit=chosen.unit,
            base=chosen.base,
            serve=chosen.serve,
            memory=_memory(chosen),
            poll_s=chosen.poll_ms / 1000,
            window_s=chosen.window_ms / 1000,
            trigger_s=chosen.trigger_ms / 1000,
            log=log,
        )
        plc.run(lambda: bool(stop))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
