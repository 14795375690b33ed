"""The PLC's side of OPC UA: its own server with a variable for every row, which its program reads and writes."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any

from asyncua import Server, ua
from asyncua.common.callback import CallbackType

from line_worker.errors import SinkError
from line_worker.sink.looping import LoopThread
from line_worker.sink.plc.registers import FROM_PLC, TABLE, Active, Plc, Result, Row, Station, Stop, decode, encode

NAMESPACE = "urn:simulated-plc"
NODES = f"nsu={NAMESPACE};s=LineWorker.{{name}}"  # what a sink's `nodes` is for this PLC
START_S, ASK_S = 30.0, 5.0
_KINDS = {"u16": ua.VariantType.UInt16, "u32": ua.VariantType.UInt32, "f32": ua.VariantType.Float}

logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # clients that misbehave hurt only themselves


class ServedNodes:
    """Variables of a server at `host`:`port`; not encrypted, and open to everybody, as many a PLC is delivered."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self.port = host, port
        self._loop: LoopThread | None = None
        self._server: Server | None = None
        self._nodes: dict[str, Any] = {}
        self._words: list[int] = []  # what was written into it; empty: to be looked up

    def open(self) -> None:
        """Listen.

        Raises:
            SinkError: the port is taken or may not be used.
        """
        try:
            socket.create_server((self._host, self.port)).close()  # asyncua would share a port that is taken
            self._loop = LoopThread("opcua-plc")
            self._loop.run(self._start(), START_S)
        except OSError as error:
            self.close()
            raise SinkError(f"{self._host}:{self.port}: no OPC UA server can listen there ({error})") from error

    async def _start(self) -> None:
        server = Server()
        await server.init()
        server.set_endpoint(f"opc.tcp://{self._host}:{self.port}/")
        await self.secure(server)
        space = await server.register_namespace(NAMESPACE)
        folder = await server.nodes.objects.add_folder(ua.NodeId("LineWorker", space), "LineWorker")
        for row in TABLE:
            node = ua.NodeId(f"LineWorker.{row.name}", space)
            initial = ua.Variant("" if _kind(row) is ua.VariantType.String else 0, _kind(row))
            variable = await folder.add_variable(node, row.name, initial)
            await variable.set_writable(row.direction == "to PLC")
            self._nodes[row.name] = node
        server.subscribe_server_callback(CallbackType.PostWrite, lambda event, _: self._words.clear())
        await server.start()
        self._server = server

    async def secure(self, server: Server) -> None:
        """Say who may come in, and how: everybody, in the clear."""
        server.set_security_policy([ua.SecurityPolicyType.NoSecurity])

    def read(self, offsets: range) -> list[int]:
        """Return the rows to the PLC as words, all of one instant."""
        assert self._loop is not None
        return list(self._words) or self._loop.run(self._read(), ASK_S)

    async def _read(self) -> list[int]:
        assert self._server is not None
        aspace, words = self._server.iserver.aspace, []
        for block in (Station, Result, Stop, Active):
            names = block.__dataclass_fields__
            values = {n: aspace.read_attribute_value(self._nodes[n], ua.AttributeIds.Value).Value.Value for n in names}
            words += encode(block(**values))
        self._words = words
        return list(words)

    def write(self, offset: int, words: Sequence[int]) -> None:
        """Write the rows from the PLC, all in one instant."""
        assert offset == FROM_PLC.start
        assert self._loop is not None
        self._loop.run(self._write(decode(Plc, words)), ASK_S)

    async def _write(self, plc: Plc) -> None:
        assert self._server is not None
        for row in TABLE:
            if row.direction == "from PLC":
                value = ua.DataValue(ua.Variant(getattr(plc, row.name), _kind(row)))
                node = self._nodes[row.name]
                await self._server.iserver.aspace.write_attribute_value(node, ua.AttributeIds.Value, value)

    def close(self) -> None:
        """End every session and stop listening."""
        if self._loop is not None:
            if self._server is not None:
                self._loop.run(asyncio.wait_for(self._server.stop(), ASK_S), 2 * ASK_S)
            self._loop.close()
        self._loop = self._server = None


def _kind(row: Row) -> ua.VariantType:
    return _KINDS.get(row.kind, ua.VariantType.String)
