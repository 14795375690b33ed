"""What the tests of OPC UA share: the sink with a hub, asyncua's own client as its peer, and certificates."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import plc_station
from line_worker.config import Config, parse
from line_worker.sink.opcua import OpcUaOutput
from line_worker.sink.plc.registers import TABLE, Result
from line_worker.wire.messages import FrameKey, Outcome

pytest.importorskip("asyncua", reason="asyncua is missing: pip install 'line-worker[opcua]'")
from asyncua import Client, Node, ua

HOST = "127.0.0.1"
LINE = "line-1"
NEWEST = "ResultManagement/Results/top"


def outcome(seq: int, *, left_ms: float = 2000.0, reason: int = 0, camera: str = "top") -> Outcome:
    verdict = {0: "PASS", 1: "FAIL"}.get(reason, "NO_DECISION")
    return Outcome(
        *(seq + 1, FrameKey(LINE, camera, 7, seq), verdict, reason, float(seq), 1.0, (), "beef" * 16, "w", 1),
        *(f"part-{seq}", seq + 1, 10.0, left_ms, 1.7e9 + seq, {"score": 3.0}),
    )


def line(source: dict[str, Any] | None = None, **sink: Any) -> Config:
    """Return a line with one OPC UA sink on a free port."""
    cameras = [
        {"name": "top", "deadline_ms": 500, "source": source or {"kind": "camera", "device": 0}},
        {"name": "side", "deadline_ms": 500, "source": {"kind": "synthetic"}},
    ]
    found = parse(
        {
            "line": {"name": LINE, "runtime": "run", "data": "data"},
            "cameras": cameras,
            "workers": {"bundle": "some.bundle"},
            "sinks": [{"kind": "opcua"} | sink],
        }
    )
    free = found.sinks[0].model_copy(update={"port": sink.get("port", 0)})
    return found.model_copy(update={"sinks": (free,)})


class Station(plc_station.Station):
    """An OPC UA sink with a hub that beats and polls it."""

    output: OpcUaOutput

    def __init__(self, config: Config) -> None:
        super().__init__(OpcUaOutput(config.sinks[0], config))  # type: ignore[arg-type]
        self.first, self._before = 0, Counter[str]()

    def begin(self) -> None:
        """Begin another test: its numbers and counts are its own."""
        self.first += 1000
        self._before = self.output.counts

    @property
    def counts(self) -> Counter[str]:
        return self.output.counts - self._before

    @property
    def url(self) -> str:
        return f"opc.tcp://{HOST}:{self.output.port}/"


class Peer:
    """A client that knows the line's nodes."""

    def __init__(self, client: Client, own: int, companion: int) -> None:
        self.client, self.own, self.companion = client, own, companion

    def node(self, path: str) -> Node:
        return self.client.get_node(ua.NodeId(f"{LINE}/{path}" if path else LINE, self.own))

    def register(self, name: str) -> Node:
        return self.node(f"Registers/{name}")

    async def result(self) -> Result:
        """Read the whole result in one request."""
        names = [field.name for field in fields(Result)]
        values = await self.client.read_values([self.register(name) for name in names])
        return Result(**dict(zip(names, values, strict=True)))

    async def tell(self, **changes: int) -> None:
        kinds = {row.name: ua.VariantType.UInt16 if row.kind == "u16" else ua.VariantType.UInt32 for row in TABLE}
        values = [ua.DataValue(ua.Variant(value, kinds[name])) for name, value in changes.items()]
        await self.client.write_values([self.register(name) for name in changes], values)

    async def synchronise(self) -> None:
        await self.tell(plc_heartbeat=1)
        await self.tell(plc_heartbeat=2, sync_echo=await self.register("sync").read_value())

    async def acknowledge(self) -> Result:
        shown = await self.result()
        beat = await self.register("plc_heartbeat").read_value() + 1
        await self.tell(plc_heartbeat=beat & 0xFFFF, ack_seq=shown.seq, ack_toggle=shown.toggle)
        return shown

    async def shows(self, seq: int) -> Result:
        async with asyncio.timeout(10):
            while (shown := await self.result()).seq != seq or not shown.toggle:
                await asyncio.sleep(0.001)
            return shown


@asynccontextmanager
async def connected(url: str, user: str = "") -> AsyncIterator[Peer]:
    client = Client(url, timeout=5)
    client.session_timeout = 60_000
    if user:
        client.set_user(user)
    async with client:
        await client.load_data_type_definitions()
        own = await client.get_namespace_index("urn:line-worker")
        yield Peer(client, own, await client.get_namespace_index("http://opcfoundation.org/UA/MachineVision"))


def certificate(folder: Path, name: str, uri: str, *, server: bool) -> tuple[Path, Path]:
    """Make a certificate and its key in `folder`."""
    from asyncua.crypto.cert_gen import setup_self_signed_certificate
    from cryptography.x509.oid import ExtendedKeyUsageOID

    use = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
    key, cert = folder / f"{name}.pem", folder / f"{name}.der"
    asyncio.run(setup_self_signed_certificate(key, cert, uri, "localhost", [use], {"organizationName": name}))
    return cert, key
