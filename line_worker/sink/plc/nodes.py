"""An OPC UA client for the register table as variables of a PLC; every failure is one SinkError and ends the session.

A row is a variable. OPC UA promises no order between the variables of one request, so `toggle` and `sync`, which
tell the PLC that all is there, are written after the rest. What the PLC writes is read the other way round: first the
acknowledgement and the count of triggers, then what they are about.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any

from asyncua import Client, ua
from asyncua.crypto import security_policies, uacrypto
from cryptography import x509

from line_worker.config import OpcUaClientSink
from line_worker.errors import SinkError
from line_worker.sink.looping import RESULT, LoopThread
from line_worker.sink.plc.link import TIMEOUT_S, failed
from line_worker.sink.plc.registers import TABLE, TO_PLC, Plc, Row, encode, to_plc
from line_worker.sink.secret import read_secret

CONNECT_S = 3.0  # keys and certificates take a small PLC a while
CLOSE_S = 1.0
SESSION_MS = 10_000  # so long a PLC keeps the session of a station that has crashed
LAST = ("toggle", "sync")  # in this order: a new `sync` tells the PLC which `toggle` it has seen already
_KINDS = {"u16": ua.VariantType.UInt16, "u32": ua.VariantType.UInt32, "f32": ua.VariantType.Float}

logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # its complaints come back to us as errors of our own


class NodeClient:
    """Talks to the OPC UA server of a PLC. Connects when it is used."""

    def __init__(self, sink: OpcUaClientSink, timeout_s: float = TIMEOUT_S) -> None:
        self._sink, self._timeout_s = sink, timeout_s
        self._loop: LoopThread | None = None
        self._client: Client | None = None
        self._nodes: dict[str, ua.NodeId] = {}
        self._held: dict[str, Any] = {}  # what the PLC's variables hold of ours

    def connect(self) -> None:
        """Open a session, unless that is done, and find the variables.

        Raises:
            SinkError: the PLC cannot be reached, does not answer in time or refuses.
        """
        if self._client is None:
            self._run(self._connect(), CONNECT_S)

    def read(self, offsets: range) -> list[int]:
        """Return the rows from the PLC as words, read in one request.

        Raises:
            SinkError: as `connect`.
        """
        self.connect()
        values = self._run(self._read(_COUNTS_FIRST), self._timeout_s)
        return encode(Plc(**{row.name: values[row.name] for row in _COUNTS_FIRST}))

    def write(self, offset: int, words: Sequence[int]) -> None:
        """Write what has changed of the rows to the PLC.

        Raises:
            SinkError: as `connect`.
        """
        assert offset == TO_PLC.start, "we write what is ours, whole"
        self.connect()
        changed = {name: value for name, value in to_plc(words).items() if self._held.get(name) != value}
        self._run(self._write(changed), self._timeout_s)
        self._held |= changed

    def _run(self, request: Coroutine[Any, Any, RESULT], timeout_s: float) -> RESULT:
        try:
            if self._loop is None:
                self._loop = LoopThread("opcua-client")
            return self._loop.run(request, timeout_s)
        except (OSError, TimeoutError, ua.UaError, ValueError, x509.ExtensionNotFound) as error:
            raise self._failed(error) from error

    # ---- on the loop --------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        client = Client(self._sink.url, timeout=self._timeout_s, watchdog_intervall=CONNECT_S)
        client.session_timeout = SESSION_MS
        client.name = client.description = "line-worker"
        await _secure(client, self._sink)
        try:
            await client.connect()
            self._nodes = await self._find(client)
            await self._check(client)
        except BaseException:
            await _let_go(client)
            raise
        self._client = client
        gc.collect()
        gc.freeze()  # asyncua's thousands of types stay: looking through them again and again takes 100 ms each time

    async def _find(self, client: Client) -> dict[str, ua.NodeId]:
        """Return the rows' variables; a namespace that is named (nsu=...) gets its number in this server."""
        spaces = await client.get_namespace_array()
        return {row.name: _numbered(self._names(row), spaces) for row in TABLE}

    async def _check(self, client: Client) -> None:
        """ValueError unless every variable is there, has its row's type, and may be written where we must."""
        await self._values(client, TABLE)
        ours = [row for row in TABLE if row.direction == "to PLC"]
        rights = ua.AttributeIds.UserAccessLevel
        found = await client.uaclient.read_attributes([self._nodes[row.name] for row in ours], rights)
        for row, level in zip(ours, found, strict=True):
            if isinstance(level.Value.Value, int) and not level.Value.Value & ua.AccessLevel.CurrentWrite.mask:
                raise ValueError(f"{self._names(row)} may not be written by us")

    async def _read(self, rows: Sequence[Row]) -> dict[str, Any]:
        assert self._client is not None
        return await self._values(self._client, rows)

    async def _values(self, client: Client, rows: Sequence[Row]) -> dict[str, Any]:
        found = await client.uaclient.read_attributes([self._nodes[row.name] for row in rows], ua.AttributeIds.Value)
        return {row.name: self._value(row, value) for row, value in zip(rows, found, strict=True)}

    def _value(self, row: Row, found: ua.DataValue) -> Any:
        if found.StatusCode is not None and not found.StatusCode.is_good():
            raise ValueError(f"{self._names(row)}: {found.StatusCode.name}")
        kind = found.Value.VariantType
        if kind != _kind(row) or found.Value.Value is None:
            raise ValueError(f"{self._names(row)} holds a {kind.name}; it should be a {_kind(row).name}")
        return found.Value.Value

    async def _write(self, values: dict[str, Any]) -> None:
        rest = [row for row in TABLE if row.name in values and row.name not in LAST]
        last = [_ROWS[name] for name in LAST if name in values]
        for rows in (rest, last):
            if rows:
                await self._write_rows(rows, values)

    async def _write_rows(self, rows: list[Row], values: dict[str, Any]) -> None:
        assert self._client is not None
        nodes = [self._nodes[row.name] for row in rows]
        # without status and times: many a PLC refuses to be told them
        told = [ua.DataValue(ua.Variant(values[row.name], _kind(row)), StatusCode=None) for row in rows]
        for row, status in zip(rows, await self._client.uaclient.write_attributes(nodes, told), strict=True):
            if not status.is_good():
                raise ValueError(f"{self._names(row)} cannot be written: {status.name}")

    def _names(self, row: Row) -> str:
        return self._sink.nodes.format(name=row.name)

    # ---- the end ------------------------------------------------------------------------------------------------

    def _failed(self, error: Exception) -> SinkError:
        self._disconnect()
        place = f"OPC UA PLC {self._sink.url}"
        if isinstance(error, TimeoutError):
            return failed(place, "gives no answer", "url and certificates")
        if isinstance(error, OSError):
            return failed(place, f"cannot be reached ({error})", "url and certificates")
        what = error.args[0] if isinstance(error, ValueError) else error
        return failed(place, f"refuses: {what}", "nodes, their types and rights, and certificates")

    def _disconnect(self) -> None:
        client, self._client, self._held = self._client, None, {}
        if client is not None and self._loop is not None:
            with suppress(OSError, TimeoutError):  # whatever is left of it ends with the loop
                self._loop.run(_let_go(client), 2 * CLOSE_S)

    def close(self) -> None:
        """End the session, which frees it in the PLC; the next request opens another."""
        self._disconnect()
        if self._loop is not None:
            self._loop.close()
            self._loop = None


_ROWS = {row.name: row for row in TABLE}
_COUNTS = ("ack_toggle", "triggers")
_COUNTS_FIRST = sorted((row for row in TABLE if row.direction == "from PLC"), key=lambda row: row.name not in _COUNTS)


def _kind(row: Row) -> ua.VariantType:
    return _KINDS.get(row.kind, ua.VariantType.String)


def _numbered(text: str, spaces: list[str]) -> ua.NodeId:
    """Return the node that `text` names; ValueError when it names none or a namespace that there is not."""
    node = ua.NodeId.from_string(text)
    uri = getattr(node, "NamespaceUri", None)
    if uri is None:
        return node
    if uri not in spaces:
        raise ValueError(f"{text}: it has no such namespace (it has: {', '.join(spaces)})")
    return ua.NodeId(node.Identifier, spaces.index(uri), node.NodeIdType)


async def _secure(client: Client, sink: OpcUaClientSink) -> None:
    """Set up who we are, and with a certificate of ours that all is signed and encrypted for the PLC alone."""
    if sink.username:
        client.set_user(sink.username)
    if sink.password_file is not None:
        client.set_password(read_secret(sink.password_file, f"sink {sink.name}", "password").decode())
    if sink.certificate is None or sink.private_key is None:
        return
    own = await uacrypto.load_certificate(sink.certificate)
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    client.application_uri = next(iter(names.get_values_for_type(x509.UniformResourceIdentifier)), "")
    policy = getattr(security_policies, f"SecurityPolicy{sink.policy}")
    files = sink.certificate, sink.private_key
    await client.set_security(policy, *files, server_certificate=str(sink.server_certificate))


async def _let_go(client: Client) -> None:
    """End the session in bounded time, whatever state it is in."""
    try:
        with suppress(OSError, TimeoutError, ua.UaError):
            async with asyncio.timeout(CLOSE_S):
                await client.disconnect()
    finally:
        client.disconnect_socket()
