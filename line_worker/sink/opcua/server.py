"""The OPC UA server; its event loop runs in a thread of its own.

Whoever has news (`wake`, `show`) sets an event; the loop then writes what has changed, all of one instant, because it
gives way to no reader in between. Clients are bounded in number, must open a session within seconds, and none of them
has more rights than another, whatever name it gives.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import threading
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from asyncua import Server
from asyncua.common.callback import CallbackType

from line_worker.errors import SinkError
from line_worker.sink.opcua.nodes import NAMESPACE, Nodes
from line_worker.sink.opcua.security import Anybody, secure
from line_worker.sink.plc.modes import Registers
from line_worker.sink.plc.registers import ACTIVE_AT, RESULT_AT, STOP_AT, Active, Result, Station, Stop, decode, encode
from line_worker.verdicts import StationState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from line_worker.config import OpcUaSink

IDLE_S = 0.02  # between two looks at the registers when nobody wakes us
OPEN_S, CLOSE_S = 60.0, 2.0
CLIENTS, SUBSCRIPTIONS, QUEUE = 32, 64, 1000  # at once; values that wait for a slow subscriber
ACTIVATE_S = 10.0  # a client has this long to open its session
MESSAGE = 1 << 20  # bytes of the largest request
WAITING = 256  # results that wait to be written

logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # clients that misbehave hurt only themselves


class VisionServer:
    """Serves `registers` and results of `line`; see the module's text."""

    def __init__(self, sink: OpcUaSink, line: str, cameras: Sequence[str], registers: Registers) -> None:
        self._sink, self._line, self._cameras, self._registers = sink, line, cameras, registers
        self.port = sink.port
        self._results: deque[tuple[str, dict[str, Any]]] = deque(maxlen=WAITING)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._news, self._stopping = asyncio.Event(), False
        self._thread: threading.Thread | None = None
        self._trouble = ""
        self._last: list[int] = []

    @property
    def _place(self) -> str:
        return f"opc.tcp://{self._sink.host}:{self._sink.port}"

    def open(self) -> None:
        """Load the types, listen.

        Raises:
            SinkError: the port is taken or may not be used, or a certificate cannot be.
        """
        opened: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, args=(opened,), name="opcua-server", daemon=True)
        self._thread.start()
        try:
            self.port = opened.result(OPEN_S)
        except (OSError, ValueError, TimeoutError) as error:
            self.close()
            why = getattr(error, "strerror", None) or error or "it took too long"
            raise SinkError(
                f"{self._place}: no OPC UA server can listen there ({why}); its clients get nothing; stop whatever "
                "uses the port, or set another host, port or certificate in the opcua sink"
            ) from error

    def _run(self, opened: Future[int]) -> None:
        try:
            asyncio.run(self._serve(opened))
        except Exception as error:  # noqa: BLE001 - whatever ends the loop is told: to `open`, or by `trouble`
            self._trouble = (
                f"{self._place}: the server has ended ({error!r}); clients read nothing until it is restarted"
            )
            if not opened.done():
                opened.set_exception(error)

    async def _serve(self, opened: Future[int]) -> None:
        self._loop = asyncio.get_running_loop()
        _free(self._sink.host, self._sink.port)  # before seconds are spent on the types
        server, nodes = await self._make()
        await server.start()
        try:
            assert server.bserver is not None
            opened.set_result(server.bserver.port)
            while not self._stopping:
                await self._write(nodes)
                try:
                    await asyncio.wait_for(self._news.wait(), IDLE_S)
                except TimeoutError:
                    continue
                self._news.clear()
        finally:
            await server.stop()

    async def _make(self) -> tuple[Server, Nodes]:
        server = Server(user_manager=Anybody())
        inner = server.iserver
        inner.allow_remote_admin = False
        inner.max_connections, inner.max_subscriptions = CLIENTS, SUBSCRIPTIONS
        inner.max_pending_activation_seconds = ACTIVATE_S
        inner.max_monitored_item_queue_size = inner.max_unacked_messages_per_subscription = QUEUE
        server.limits.max_message_size = MESSAGE
        await server.init()
        await server.set_application_uri(f"{NAMESPACE}:{self._line}")
        server.set_server_name(f"line-worker {self._line}")
        server.set_endpoint(f"{self._place}/")
        await secure(server, self._sink)
        nodes = Nodes(server, self._line)
        await nodes.build(self._cameras, registers=self._sink.handshake)
        if self._sink.handshake:
            self._hear(server, nodes)
        gc.collect()
        gc.freeze()  # tens of thousands of nodes that stay: looking through them again and again costs 20 ms each time
        return server, nodes

    def _hear(self, server: Server, nodes: Nodes) -> None:
        """Take what the PLC has written, once a request, when all of it is there."""

        def asked(event: Any, _: Any) -> None:
            nodes.refuse(event.request_params.NodesToWrite)

        def written(event: Any, _: Any) -> None:
            if event.is_external and any(nodes.is_plcs(one.NodeId) for one in event.request_params.NodesToWrite):
                self._registers.take(encode(nodes.read_plc()))
                self._news.set()

        server.subscribe_server_callback(CallbackType.PreWrite, asked)
        server.subscribe_server_callback(CallbackType.PostWrite, written)

    async def _write(self, nodes: Nodes) -> None:
        words = self._registers.words()
        if words != self._last:
            self._last = words
            station = decode(Station, words[:RESULT_AT])
            await nodes.write_state(StationState(station.state))
            if self._sink.handshake:
                result, stop = decode(Result, words[RESULT_AT:STOP_AT]), decode(Stop, words[STOP_AT:ACTIVE_AT])
                await nodes.write_registers(station, result, stop, decode(Active, words[ACTIVE_AT:]))
        while self._results:
            await nodes.write_result(*self._results.popleft())

    def show(self, camera: str, result: dict[str, Any]) -> None:
        """Show `result` as the newest of `camera`."""
        self._results.append((camera, result))
        self.wake()

    def wake(self) -> None:
        """There is something new to show."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended: `trouble` says why
                self._loop.call_soon_threadsafe(self._news.set)

    def trouble(self) -> str:
        """Return why clients cannot read, or nothing."""
        return self._trouble

    def ended(self) -> str:
        """Return why the server has ended, or nothing."""
        return self._trouble

    def close(self) -> None:
        """End every session and stop listening, in bounded time."""
        self._stopping = True
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout=CLOSE_S)
            self._thread = None


def _free(host: str, port: int) -> None:
    """OSError when nobody can listen there."""
    socket.create_server((host, port)).close()
