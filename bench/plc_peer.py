"""The PLC of `bench plc`, a process: polls, says what it sees and when, acknowledges; ends with its standard input."""

from __future__ import annotations

import asyncio
import gc
import os
import select
import sys
import time
from contextlib import suppress
from dataclasses import replace

from line_worker.sink.plc.client import RegisterClient
from line_worker.sink.plc.link import Words
from line_worker.sink.plc.registers import (
    FROM_PLC,
    RESULT_AT,
    STOP_AT,
    TABLE,
    TO_PLC,
    Plc,
    Result,
    Station,
    decode,
    encode,
)

BEAT_S = 0.1
POLL_S = 0.002  # between an answer and the next request: who polls without pause measures the processor it takes away


class Eyes:
    """What the PLC has seen; `look` returns what it writes, None when it has nothing to say."""

    def __init__(self) -> None:
        self._plc, self._beat_at, self._toggle = Plc(), 0.0, 0
        self.seen: list[tuple[int, float]] = []  # told at the end: printing takes time

    def look(self, sync: int, toggle: int, seq: int, now: float) -> Plc | None:
        """Take what was read at `now`."""
        before = self._plc
        if sync != self._plc.sync_echo:
            self._plc, self._toggle = replace(self._plc, sync_echo=sync), toggle
        elif toggle != self._toggle:
            self.seen.append((seq, now))
            self._toggle = toggle
            self._plc = replace(self._plc, ack_seq=seq, ack_toggle=toggle)
        if now - self._beat_at > BEAT_S:
            self._beat_at = now
            self._plc = replace(self._plc, plc_heartbeat=(self._plc.plc_heartbeat + 1) & 0xFFFF)
        return None if self._plc == before else self._plc


def stopped() -> bool:
    """Whether the bench has closed our standard input."""
    return bool(select.select([sys.stdin], [], [], 0)[0])


def modbus(port: int) -> Eyes:
    """Poll over Modbus TCP."""
    return polled(RegisterClient("127.0.0.1", port, 1, 0))


def s7(port: int) -> Eyes:
    """Let the station write to a data block, and poll that."""
    from bench.plc import S7_DB
    from line_worker.sink.plc.s7_served import ServedBlock

    block = ServedBlock("127.0.0.1", port, S7_DB, 0)
    block.open()
    return polled(block)


def opcua_client(port: int) -> Eyes:
    """Let the station write to variables of a server of ours, and poll those."""
    from line_worker.sink.plc.nodes_served import ServedNodes

    nodes = ServedNodes("127.0.0.1", port)
    nodes.open()
    return polled(nodes)


def ethernet_ip(port: int) -> Eyes:
    """Let the station write to arrays of a server of ours, and poll those."""
    from line_worker.sink.plc.tags_served import ServedTags

    tags = ServedTags("127.0.0.1", port)
    tags.open()
    return polled(tags)


def polled(link: Words) -> Eyes:
    """Poll the registers where `link` leads, until told to stop."""
    eyes = Eyes()
    while not stopped():
        words = link.read(TO_PLC)
        now = time.monotonic()
        station, result = decode(Station, words[:RESULT_AT]), decode(Result, words[RESULT_AT:STOP_AT])
        told = eyes.look(station.sync, result.toggle, result.seq, now)
        if told is not None:
            link.write(FROM_PLC.start, encode(told))
        time.sleep(POLL_S)
    link.close()
    return eyes


async def opcua(port: int) -> Eyes:
    """Poll over OPC UA."""
    from asyncua import Client, ua

    known = {"u16": ua.VariantType.UInt16, "u32": ua.VariantType.UInt32}
    kinds = {row.name: known.get(row.kind, ua.VariantType.String) for row in TABLE}
    eyes = Eyes()
    client = Client(f"opc.tcp://127.0.0.1:{port}/")
    client.session_timeout = 60_000
    async with client:
        own = await client.get_namespace_index("urn:line-worker")
        wanted = [client.get_node(ua.NodeId(f"bench/Registers/{n}", own)) for n in ("sync", "toggle", "seq")]
        names = list(Plc.__dataclass_fields__)
        ours = [client.get_node(ua.NodeId(f"bench/Registers/{name}", own)) for name in names]
        while not stopped():
            sync, toggle, seq = await client.read_values(wanted)
            told = eyes.look(sync, toggle, seq, time.monotonic())
            if told is not None:
                values = [ua.Variant(getattr(told, n), kinds[n]) for n in names]
                await client.write_values(ours, [ua.DataValue(value) for value in values])
            await asyncio.sleep(POLL_S)
    return eyes


if __name__ == "__main__":
    with suppress(PermissionError):
        os.nice(-10)  # nor does it share a processor with the station
    gc.disable()  # a PLC has no garbage collector: asyncua's objects keep this one busy for 100 ms at a time
    way, place = sys.argv[1], int(sys.argv[2])
    ways = {"modbus": modbus, "s7": s7, "opcua-client": opcua_client, "ethernet-ip": ethernet_ip}
    found = asyncio.run(opcua(place)) if way == "opcua" else ways[way](place)
    print("\n".join(f"{seq} {at}" for seq, at in found.seen))
