"""The PLC's side of EtherNet/IP: two arrays in cpppo's server, which its program reads and writes as its own memory."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from cpppo.dotdict import apidict
from cpppo.server.enip.device import Attribute
from cpppo.server.enip.main import main

from line_worker.errors import SinkError
from line_worker.sink.plc.registers import FROM_PLC, TO_PLC

TO, FROM = "FromStation", "ToStation"  # the arrays, as a sink names them by default
START_S, CLOSE_S, LATENCY_S = 10.0, 5.0, 0.05

logging.getLogger("enip").setLevel(logging.CRITICAL)  # clients that misbehave hurt only themselves
logging.getLogger("cpppo").setLevel(logging.CRITICAL)


class ServedTags:
    """Arrays of a controller at `host`:`port`. One a process: cpppo keeps its tags in one place."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self.port = host, port
        self._arrays: dict[str, Attribute] = {}
        self._control = apidict(timeout=1.0)
        self._control["latency"] = LATENCY_S
        self._thread = threading.Thread(target=self._run, name="ethernet-ip-plc", daemon=True)

    def open(self) -> None:
        """Listen.

        Raises:
            SinkError: the port is taken or may not be used.
        """
        try:
            socket.create_server((self._host, self.port)).close()  # cpppo would only log it
            self._thread.start()
            self._wait()
        except OSError as error:
            raise SinkError(f"{self._host}:{self.port}: no EtherNet/IP server can listen there ({error})") from error

    def _run(self) -> None:
        arrays = self._arrays

        class Kept(Attribute):  # type: ignore[misc]
            def __init__(self, name: str, *args: Any, **named: Any) -> None:
                super().__init__(name, *args, **named)
                arrays[name] = self

        tags = (f"{TO}=INT[{len(TO_PLC)}]", f"{FROM}=INT[{len(FROM_PLC)}]")
        where = ("--no-udp", "--no-config", "--address", f"{self._host}:{self.port}")
        main([*where, *tags], attribute_class=Kept, server={"control": self._control})

    def _wait(self) -> None:
        until = time.monotonic() + START_S
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection((self._host, self.port), timeout=1):
                return
            time.sleep(0.02)
        raise TimeoutError("it does not begin to listen")

    def read(self, offsets: range) -> list[int]:
        """Return the words to the PLC, all of one instant."""
        return [word & 0xFFFF for word in list(self._arrays[TO].value)]

    def write(self, offset: int, words: Sequence[int]) -> None:
        """Write the words from the PLC, all in one instant."""
        self._arrays[FROM].value[:] = [word - 0x10000 if word > 0x7FFF else word for word in words]

    def close(self) -> None:
        """Stop listening and end every session."""
        self._control["done"] = True
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)
