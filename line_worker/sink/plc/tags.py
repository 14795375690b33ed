"""An EtherNet/IP client for two arrays of a Logix controller; every failure is one SinkError and ends the session.

Requests are unconnected ones (UCMM): there is no CIP connection in the controller that a crash would leave behind, and
the session ends with its TCP connection. Of pycomm3 it takes the packets, not its drivers, whose socket waits for
ever when the controller goes away in the middle of an answer, and which first upload every tag there is.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from contextlib import suppress

from pycomm3 import PycommError, Services
from pycomm3.cip import PADDED_EPATH, PortSegment
from pycomm3.packets import (
    RegisterSessionRequestPacket,
    RequestPacket,
    ResponsePacket,
    SendRRDataRequestPacket,
    UnRegisterSessionRequestPacket,
)
from pycomm3.packets.util import tag_request_path, wrap_unconnected_send

from line_worker.config import EtherNetIpSink
from line_worker.errors import SinkError
from line_worker.sink.plc.link import TIMEOUT_S, failed
from line_worker.sink.plc.registers import FROM_PLC, TO_PLC

HEADER = 24  # bytes of the encapsulation
VERSION = b"\x01\x00"
LARGEST = 4096  # bytes of an answer that can be ours
INT, UINT, WORD = 0xC3, 0xC7, 0xD2  # types of 16 bits that a controller may hold words in
_FAILURES = (OSError, PycommError, ValueError, struct.error)


class TagClient:
    """Talks to the controller of `sink`. Connects when it is used."""

    def __init__(self, sink: EtherNetIpSink, timeout_s: float = TIMEOUT_S) -> None:
        self._sink, self._timeout_s = sink, timeout_s
        self._socket: socket.socket | None = None
        self._session = 0
        self._types: dict[str, int] = {}
        route = [] if sink.slot == "none" else [PortSegment("backplane", sink.slot)]
        self._route = PADDED_EPATH.encode(route, length=True, pad_length=True) if route else b""

    def connect(self) -> None:
        """Open a session, unless that is done.

        Raises:
            SinkError: the controller cannot be reached, does not answer in time or refuses.
        """
        try:
            self._connect()
        except _FAILURES as error:
            raise self._failed(error) from error

    def read(self, offsets: range) -> list[int]:
        """Return these words, read in one request.

        Raises:
            SinkError: as `connect`.
        """
        tag, size = self._array(offsets.start)
        try:
            return self._read(tag, size)[offsets.start - self._first(tag) :][: len(offsets)]
        except _FAILURES as error:
            raise self._failed(error) from error

    def write(self, offset: int, words: Sequence[int]) -> None:
        """Write `words` from `offset` on, in one request.

        Raises:
            SinkError: as `connect`.
        """
        tag, size = self._array(offset)
        try:
            if tag not in self._types:
                self._read(tag, size)
            kind = self._types[tag]
            self._ask(Services.write_tag, tag, struct.pack(f"<HH{len(words)}H", kind, len(words), *words))
        except _FAILURES as error:
            raise self._failed(error) from error

    def _array(self, offset: int) -> tuple[str, int]:
        """Return the array that holds `offset`, which must be its beginning, and its size."""
        if offset in FROM_PLC:
            return self._sink.from_plc, len(FROM_PLC)
        return self._sink.to_plc, len(TO_PLC)

    def _first(self, tag: str) -> int:
        return FROM_PLC.start if tag == self._sink.from_plc else TO_PLC.start

    def _read(self, tag: str, size: int) -> list[int]:
        answer = self._ask(Services.read_tag, tag, struct.pack("<H", size))
        (kind,) = struct.unpack_from("<H", answer)
        if kind not in (INT, UINT, WORD) or len(answer) != 2 + 2 * size:
            raise ValueError(f"{tag} holds {len(answer) - 2} bytes of type 0x{kind:02X}; it should be INT[{size}]")
        self._types[tag] = kind
        return list(struct.unpack_from(f"<{size}H", answer, 2))

    # ---- the session --------------------------------------------------------------------------------------------

    def _ask(self, service: bytes, tag: str, data: bytes) -> bytes:
        """Return what the controller answers to `service` on `tag`."""
        self._connect()
        message = service + tag_request_path(tag, {}, False) + data
        answer = self._exchange(_Unconnected(message, self._route))
        if not answer:
            raise ValueError(f"{tag}: {answer.error}")
        return bytes(answer.data)

    def _connect(self) -> None:
        if self._socket is not None:
            return
        self._types, self._session = {}, 0
        self._socket = socket.create_connection((self._sink.host, self._sink.port), self._timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answer = self._exchange(RegisterSessionRequestPacket(VERSION))
        if not answer:
            raise ValueError(f"gives us no session: {answer.error}")
        self._session = answer.session

    def _exchange(self, request: RequestPacket) -> ResponsePacket:
        assert self._socket is not None
        self._socket.sendall(request.build_request(None, self._session, b"_linewrk", 0))
        header = self._receive(HEADER)
        (size,) = struct.unpack_from("<H", header, 2)
        if size > LARGEST:
            raise ValueError(f"answers something that is no EtherNet/IP ({size} bytes)")
        return request.response_class(request, header + self._receive(size))

    def _receive(self, size: int) -> bytes:
        assert self._socket is not None
        data = b""
        while len(data) < size:
            more = self._socket.recv(size - len(data))
            if not more:
                raise ConnectionResetError("it has closed the connection")
            data += more
        return data

    def _failed(self, error: Exception) -> SinkError:
        self.close()
        host, port, slot = self._sink.host, self._sink.port, self._sink.slot
        place = f"EtherNet/IP PLC {host}:{port}, slot {slot}"
        if isinstance(error, TimeoutError):
            what = "gives no answer"
        elif isinstance(error, OSError):
            what = f"cannot be reached ({error.strerror or error})"
        else:
            what = f"refuses ({error})"
        arrays = f"{self._sink.to_plc} : INT[{len(TO_PLC)}] and {self._sink.from_plc} : INT[{len(FROM_PLC)}]"
        return failed(place, what, f"slot, and that there are {arrays}, to be read and written from outside")

    def close(self) -> None:
        """End the session, which frees it in the controller; the next request opens another."""
        connection, self._socket = self._socket, None
        if connection is None:
            return
        with suppress(OSError):  # it is gone already
            if self._session:
                connection.sendall(UnRegisterSessionRequestPacket().build_request(None, self._session, b"_linewrk", 0))
        connection.close()


class _Unconnected(SendRRDataRequestPacket):  # type: ignore[misc]
    """A request to what `route` leads to; without a route to whom we are connected with."""

    def __init__(self, message: bytes, route: bytes) -> None:
        super().__init__()
        self._whole = wrap_unconnected_send(message, route) if route else message

    def _setup_message(self) -> None:
        super()._setup_message()
        self._msg.append(self._whole)
