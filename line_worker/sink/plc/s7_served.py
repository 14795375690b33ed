"""The PLC's side of S7: a data block in snap7's own server, which its program reads and writes as its own memory."""

from __future__ import annotations

import logging
import socket
import struct
from collections.abc import Sequence

from snap7.error import S7Error
from snap7.server import Server
from snap7.type import SrvArea

from line_worker.errors import SinkError
from line_worker.sink.plc.registers import SIZE

SESSIONS = 8  # at once; as few as a small PLC has

logging.getLogger("snap7").setLevel(logging.CRITICAL)  # peers that misbehave hurt only themselves


class ServedBlock:
    """Data block `db`, just long enough for a register table from byte `base`, for clients at `host`:`port`."""

    def __init__(self, host: str, port: int, db: int, base: int, sessions: int = SESSIONS) -> None:
        self._host, self.port, self._db, self._base = host, port, db, base
        self._memory = bytearray(base + 2 * SIZE)
        self._server = Server(log=False, max_clients=sessions)
        self._server.register_area(SrvArea.DB, db, self._memory)

    def open(self) -> None:
        """Listen.

        Raises:
            SinkError: the port is taken or may not be used.
        """
        try:
            socket.create_server((self._host, self.port)).close()  # snap7 would share a port that is taken
            self._server.start_to(self._host, self.port)
        except (OSError, S7Error) as error:
            raise SinkError(f"{self._host}:{self.port}: no S7 server can listen there ({error})") from error

    def read(self, offsets: range) -> list[int]:
        """Return these words, all of one instant."""
        self._server.lock_area(SrvArea.DB, self._db)
        try:
            return list(struct.unpack_from(f">{len(offsets)}H", self._memory, self._base + 2 * offsets.start))
        finally:
            self._server.unlock_area(SrvArea.DB, self._db)

    def write(self, offset: int, words: Sequence[int]) -> None:
        """Write `words` from `offset` on, all in one instant."""
        self._server.lock_area(SrvArea.DB, self._db)
        try:
            struct.pack_into(f">{len(words)}H", self._memory, self._base + 2 * offset, *words)
        finally:
            self._server.unlock_area(SrvArea.DB, self._db)

    def close(self) -> None:
        """Stop listening and end every session."""
        self._server.stop()
