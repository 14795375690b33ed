"""A Modbus TCP client for blocks of holding registers; every failure is one SinkError and ends the connection."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Any

from pymodbus import ModbusException
from pymodbus.client import ModbusTcpClient

from line_worker.errors import SinkError
from line_worker.sink.plc.link import TIMEOUT_S, failed

logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)  # its complaints come back to us as errors of our own


class RegisterClient:
    """Talks to unit `unit` of the server at `host`:`port`; offsets count from `base`. Connects when it is used."""

    def __init__(self, host: str, port: int, unit: int, base: int, timeout_s: float = TIMEOUT_S) -> None:
        self._address, self._unit, self._base, self._timeout_s = (host, port), unit, base, timeout_s
        self._client = ModbusTcpClient(host, port=port, timeout=timeout_s, retries=0)

    def connect(self) -> None:
        """Connect, unless that is done.

        Raises:
            SinkError: the server cannot be reached.
        """
        try:
            if self._client.socket is None:  # connected by us, because pymodbus keeps the reason to itself
                self._client.socket = socket.create_connection(self._address, self._timeout_s)
        except OSError as error:
            raise self._failed(f"cannot be reached ({error.strerror or error})") from error

    def read(self, offsets: range) -> list[int]:
        """Return these registers, read in one request.

        Raises:
            SinkError: the server cannot be reached, does not answer in time or refuses.
        """
        answer = self._ask(self._client.read_holding_registers, self._base + offsets.start, count=len(offsets))
        words: list[int] = answer.registers
        if len(words) != len(offsets):
            raise self._failed(f"answered {len(words)} registers instead of {len(offsets)}")
        return words

    def write(self, offset: int, words: Sequence[int]) -> None:
        """Write `words` from `offset` on, in one request.

        Raises:
            SinkError: as `read`.
        """
        self._ask(self._client.write_registers, self._base + offset, list(words))

    def _ask(self, request: Callable[..., Any], *args: Any, **named: Any) -> Any:
        self.connect()
        try:
            answer = request(*args, device_id=self._unit, **named)
        except OSError as error:
            raise self._failed(f"cannot be reached ({error.strerror or error})") from error
        except ModbusException as error:
            raise self._failed(f"gives no answer ({error})") from error
        if answer.isError():
            raise self._failed(f"refuses: {answer}")
        return answer

    def _failed(self, what: str) -> SinkError:
        self.close()
        host, port = self._address
        place = f"Modbus server {host}:{port}, unit {self._unit}, registers from {self._base}"
        return failed(place, what, "address and register map")

    def close(self) -> None:
        """Close the connection; the next request opens it again."""
        self._client.close()
