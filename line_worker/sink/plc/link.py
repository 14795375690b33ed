"""How we write into a PLC: a block of 16-bit words that it keeps, over whichever protocol it speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from line_worker.config import PlcSink, WrittenPlc
from line_worker.errors import SinkError

TIMEOUT_S = 0.5


class Words(Protocol):
    """The register table, by offset."""

    def read(self, offsets: range) -> list[int]:
        """Return these words, all of one instant; SinkError when they cannot be had."""

    def write(self, offset: int, words: Sequence[int]) -> None:
        """Write `words` from `offset` on, all in one instant; SinkError when that cannot be done."""

    def close(self) -> None:
        """Let go."""


class Link(Words, Protocol):
    """The table in a PLC, a request for each call. Connects when it is used; every failure ends the connection.

    `close` frees the connection in the PLC; the next request opens another.
    """

    def connect(self) -> None:
        """Connect, unless that is done; SinkError when the PLC cannot be reached."""


def link_to(sink: PlcSink | WrittenPlc, timeout_s: float = TIMEOUT_S) -> Link:
    """Return the link to the PLC of `sink`; nothing is opened yet.

    Raises:
        SinkError: what its protocol needs is not installed.
    """
    try:
        return _link(sink, timeout_s)
    except ImportError as error:
        module, extra = _NEEDS[sink.kind]
        raise SinkError(
            f"sink {sink.name}: {module} is not installed ({error}); the PLC gets nothing; "
            f"pip install line-worker[{extra}]"
        ) from error


def _link(sink: PlcSink | WrittenPlc, timeout_s: float) -> Link:
    if sink.kind == "plc":
        from line_worker.sink.plc.client import RegisterClient

        return RegisterClient(sink.host, sink.port, sink.unit, sink.base, timeout_s)
    if sink.kind == "opcua-client":
        from line_worker.sink.plc.nodes import NodeClient

        return NodeClient(sink, timeout_s)
    if sink.kind == "ethernet-ip":
        from line_worker.sink.plc.tags import TagClient

        return TagClient(sink, timeout_s)
    from line_worker.sink.plc.s7 import BlockClient

    return BlockClient(sink.host, sink.port, (sink.rack, sink.slot), sink.db, sink.base, timeout_s)


_NEEDS = {
    "plc": ("pymodbus", "plc"),
    "s7": ("python-snap7", "s7"),
    "opcua-client": ("asyncua", "opcua"),
    "ethernet-ip": ("pycomm3", "ethernet-ip"),
}


def failed(place: str, what: str, check: str) -> SinkError:
    """Return the error of a PLC at `place`, of which `check` should be looked at."""
    return SinkError(f"{place}: {what}; nothing passes meanwhile, it is tried again; check its power, network, {check}")
