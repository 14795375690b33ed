"""An S7 client for words in a data block (PUT/GET); every failure is one SinkError and ends the session.

Of python-snap7 it takes the transport and the codec, not its `Client`, which waits five seconds for a PLC that is
silent, so that a stop would have to wait as long.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Sequence
from typing import Any

from snap7.connection import ISOTCPConnection
from snap7.datatypes import S7Area, S7WordLen
from snap7.error import S7ConnectionError, S7Error, S7TimeoutError
from snap7.s7protocol import S7Protocol

from line_worker.errors import SinkError
from line_worker.sink.plc.link import TIMEOUT_S, failed
from line_worker.sink.plc.registers import SIZE

LOCAL_TSAP = 0x0100
_FAILURES = (S7Error, OSError, ValueError, IndexError, struct.error)
S7_BASIC = 3  # the kind of session: PG and OP are the few that a PLC keeps for the engineer's tool and for panels

logging.getLogger("snap7").setLevel(logging.CRITICAL)  # its complaints come back to us as errors of our own


class BlockClient:
    """Talks to data block `db` of the CPU in `seat` (rack, slot) behind `host`:`port`; offsets count from byte `base`.

    Connects when it is used.
    """

    def __init__(
        self, host: str, port: int, seat: tuple[int, int], db: int, base: int, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._address, self._seat, self._db, self._base, self._timeout_s = (host, port), seat, db, base, timeout_s
        self._session: ISOTCPConnection | None = None
        self._codec = S7Protocol()

    def connect(self) -> None:
        """Open a session, unless that is done.

        Raises:
            SinkError: the PLC cannot be reached, does not answer in time or refuses.
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
        try:
            size = 2 * len(offsets)
            self._connect()
            at = self._base + 2 * offsets.start
            answer = self._ask(self._codec.build_read_request(S7Area.DB, self._db, at, S7WordLen.BYTE, size))
            data = bytes(self._codec.extract_read_data(answer, S7WordLen.BYTE, size))
        except _FAILURES as error:
            raise self._failed(error) from error
        return list(struct.unpack(f">{len(offsets)}H", data))

    def write(self, offset: int, words: Sequence[int]) -> None:
        """Write `words` from `offset` on, in one request.

        Raises:
            SinkError: as `connect`.
        """
        try:
            self._connect()
            at, data = self._base + 2 * offset, struct.pack(f">{len(words)}H", *words)
            answer = self._ask(self._codec.build_write_request(S7Area.DB, self._db, at, S7WordLen.BYTE, data))
            self._codec.check_write_response(answer)
        except _FAILURES as error:
            raise self._failed(error) from error

    def _connect(self) -> None:
        if self._session is not None:
            return
        rack, slot = self._seat
        host, port = self._address
        session = ISOTCPConnection(host, port, LOCAL_TSAP, S7_BASIC << 8 | rack << 5 | slot)
        session.connect(self._timeout_s)
        self._session, self._codec = session, S7Protocol()
        self._ask(self._codec.build_setup_communication_request())

    def _ask(self, request: bytes) -> dict[str, Any]:
        assert self._session is not None
        self._session.send_data(request)
        answer: dict[str, Any] = self._codec.parse_response(self._session.receive_data())
        self._codec.validate_pdu_reference(answer["sequence"])
        return answer

    def _failed(self, error: Exception) -> SinkError:
        self.close()
        host, port = self._address
        rack, slot = self._seat
        place = f"S7 PLC {host}:{port}, rack {rack}, slot {slot}, DB{self._db} from byte {self._base}"
        if isinstance(error, S7TimeoutError):
            what = "gives no answer"
        elif isinstance(error, S7ConnectionError | OSError):
            what = f"cannot be reached ({error})"
        else:
            what = f"refuses ({error})"
        need = self._base + 2 * SIZE
        check = f"rack and slot, that PUT/GET is permitted, and that DB{self._db} has {need} bytes and is not optimised"
        return failed(place, what, check)

    def close(self) -> None:
        """End the session, which frees it in the PLC; the next request opens another."""
        if self._session is not None:
            self._session.disconnect()
            self._session = None
