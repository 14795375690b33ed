"""A Modbus TCP server over a bank of registers; its event loop runs in a thread of its own.

The bank is asked at every request, so a reader gets the registers as they are at that moment, all of one instant:
nothing else runs on the loop between asking and answering. Bytes that are no Modbus hurt only their own connection.
A PLC that loses power leaves its connection open: the kernel asks whether it is still there, and of too many
connections the one that has been silent for the longest is dropped.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.server.requesthandler import ServerRequestHandler
from pymodbus.simulator import DataType, SimData, SimDevice

from line_worker.errors import SinkError

CLOSE_S = 2.0
CONNECTIONS = 16  # at a time
GONE_S = 10  # who has confirmed nothing for so long is gone; the kernel asks from half of it on


class Bank(Protocol):
    """Registers 0 to `size` - 1. Both methods are called on the server's thread, one request at a time."""

    size: int
    writable: range

    def read(self) -> list[int]:
        """Return all registers as they are now."""

    def write(self, words: list[int]) -> None:
        """Take all registers, of which the other side has just written some."""


class RegisterServer:
    """Serves `bank` at `base` as holding registers of unit `unit` (0: of every unit)."""

    def __init__(self, host: str, port: int, unit: int, base: int, bank: Bank) -> None:
        self._address, self._unit, self._base, self._bank = (host, port), unit, base, bank
        self.port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._device = self._make_device()
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Listen.

        Raises:
            SinkError: the port is taken or may not be used.
        """
        try:
            listener = socket.create_server(self._address)
        except OSError as error:
            host, port = self._address
            raise SinkError(
                f"{host}:{port}: no Modbus server can listen there ({error.strerror or error}); the PLC gets nothing; "
                "stop whatever uses the port, or set another host or port in the plc sink"
            ) from error
        _expect_answers(listener)
        self.port = listener.getsockname()[1]
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(listener, ready), name="modbus-server", daemon=True)
        self._thread.start()
        ready.wait()

    def _run(self, listener: socket.socket, ready: threading.Event) -> None:
        asyncio.run(self._serve(listener, ready))

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        server = _Server(self._device, address=self._address)
        # our own socket: it is bound already, so a port that is taken has been told with its reason
        server.call_create = partial(self._loop.create_server, server.handle_new_connection, sock=listener)
        await server.serve_forever(background=True)
        ready.set()
        await self._stop.wait()
        await self._turn_away(listener)
        await server.shutdown()
        await asyncio.sleep(0)  # transports close in the loop's next turn

    async def _turn_away(self, listener: socket.socket) -> None:
        """Accept nobody any more. Of who has been accepted just now, asyncio would forget to close the connection."""
        asyncio.get_running_loop().remove_reader(listener)
        accepting = asyncio.all_tasks() - {asyncio.current_task()}
        if accepting:
            await asyncio.wait(accepting, timeout=CLOSE_S / 2)

    def _make_device(self) -> SimDevice:
        zeros = SimData(self._base, count=self._bank.size, values=0, datatype=DataType.REGISTERS)
        return SimDevice(id=self._unit, simdata=[zeros], action=self._answer)

    async def _answer(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        written: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        """Bring `registers` up to date before they are read, or check and pass on what is written."""
        size, writable = self._bank.size, self._bank.writable
        registers[:size] = self._bank.read()
        if written is None:
            return None
        first = address - start
        if first not in writable or first + count - 1 not in writable:
            return ExcCodes.ILLEGAL_ADDRESS
        words = registers[:size]
        words[first : first + count] = [int(word) for word in written]
        self._bank.write(words)
        return None

    def is_alive(self) -> bool:
        """Whether somebody listens."""
        return self._thread is not None and self._thread.is_alive()

    def close(self) -> None:
        """Stop listening and drop every connection."""
        if self._thread is None or self._loop is None:
            return
        with suppress(RuntimeError):  # its loop has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=CLOSE_S)
        self._thread = None


class _Server(ModbusTcpServer):  # type: ignore[misc] # pymodbus is untyped
    """pymodbus' own, with at most `CONNECTIONS` at a time."""

    def callback_new_connection(self) -> _Connection:
        """Make room for a newcomer."""
        there: list[_Connection] = list(self.active_connections.values())
        if len(there) >= CONNECTIONS:
            min(there, key=lambda one: one.heard).drop()
        return _Connection(self, self.trace_packet, self.trace_pdu, self.trace_connect)


class _Connection(ServerRequestHandler):  # type: ignore[misc]
    """pymodbus' own; `heard` is when something came last, 0 before anything has: those are dropped first."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.heard = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, unless it was dropped while it was still to be made."""
        if self.is_closing and isinstance(transport, asyncio.Transport):
            transport.abort()
            return
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        self.heard = time.monotonic()
        super().data_received(data)

    def drop(self) -> None:
        """End without waiting for the other side."""
        if self.transport is not None:
            self.transport.abort()
        self.close()


def _expect_answers(listener: socket.socket) -> None:
    """Have every connection of `listener` ended whose other side has gone; they inherit this from it."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, GONE_S // 2)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_S * 1000)
