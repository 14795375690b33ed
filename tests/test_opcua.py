"""The OPC UA sink for the plant: OPC 40100's names, encryption, a whole line; asyncua's own client is its peer."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from left_behind import let_go_of_connections
from line_worker.errors import SinkError
from line_worker.ports import free_port
from line_worker.sink.opcua import OpcUaOutput
from line_worker.sink.plc.registers import TABLE, Plc
from opcua_peer import HOST, LINE, NEWEST, Peer, Station, certificate, connected, line, outcome
from plc_station import sink_process, wait_for

pytest.importorskip("asyncua", reason="asyncua is missing: pip install 'line-worker[opcua]'")
from asyncua import Client, ua


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    let_go_of_connections()


@pytest.fixture(scope="module")
def shared() -> Iterator[Station]:
    """A station without a handshake; tests that only look share it, because the types take seconds to load."""
    with Station(line(handshake=False)) as running:
        yield running


# ---- OPC 40100 -------------------------------------------------------------------------------------------------------


def test_a_result_has_the_companions_names_and_types(shared: Station) -> None:
    async def look() -> None:
        async with connected(shared.url) as peer:
            shared.deliver(outcome(41), outcome(42, reason=52))
            newest = peer.node(NEWEST)
            async with asyncio.timeout(5):
                while (found := await newest.read_value()).ResultId.Id != f"{LINE}/top/7/42":
                    await asyncio.sleep(0.01)
            assert (found.PartId.Id, found.JobId.Id, found.InternalRecipeId.Id) == ("part-42", "top/7", "beef" * 16)
            assert (found.IsSimulated, found.IsPartial, found.ResultState) == (False, False, 4)
            assert found.ProcessingTimes.ProcessingDuration == 3.0
            took = found.ProcessingTimes.EndTime - found.ProcessingTimes.StartTime
            assert took.total_seconds() == pytest.approx(0.010, abs=1e-4)
            content = {pair.Value.Key.Name: pair.Value.Value.Value for pair in found.ResultContent}
            assert content["Verdict"] == "NO_DECISION"
            assert (content["Reason"], content["Score"], content["Threshold"], content["Regions"]) == (
                *("EXPOSURE", 42.0, 1.0, 0),
            )
            definition = peer.client.get_node(await newest.read_type_definition())
            assert (await definition.read_browse_name()).Name == "ResultType"
            members = {
                (await child.read_browse_name()).Name: await child.read_value() for child in await newest.get_children()
            }
            assert (members["PartId"], members["ResultState"]) == (found.PartId, 4)
            assert len(members["ResultContent"]) == len(found.ResultContent)

    asyncio.run(look())


def test_every_result_is_an_event_for_those_who_subscribe(shared: Station) -> None:
    heard: list[Any] = []

    class Handler:
        def event_notification(self, event: Any) -> None:
            heard.append(event)

    async def listen() -> None:
        async with connected(shared.url) as peer:
            subscription = await peer.client.create_subscription(10, Handler())
            kind = peer.client.get_node(ua.NodeId(1024, peer.companion))  # ResultReadyEventType
            await subscription.subscribe_events(peer.node(""), kind)
            shared.deliver(*(outcome(500 + number, reason=(0, 1)[number % 2]) for number in range(20)))
            async with asyncio.timeout(10):
                while len(heard) < 20:
                    await asyncio.sleep(0.02)

    asyncio.run(listen())
    assert [event.ResultId.Id for event in heard] == [f"{LINE}/top/7/{500 + number}" for number in range(20)]
    last = heard[-1]
    assert (last.PartId.Id, last.JobId.Id, last.IsSimulated, last.ResultState) == ("part-519", "top/7", False, 1)
    assert last.ResultContent[0].Value.Value.Value == "FAIL"
    assert last.CreationTime.year == 2023
    assert last.Message.Text == "top: FAIL"


def test_drawn_parts_are_marked_as_simulated(shared: Station) -> None:
    async def look() -> None:
        async with connected(shared.url) as peer:
            shared.deliver(outcome(3, camera="side"))
            side = peer.node("ResultManagement/Results/side")
            async with asyncio.timeout(5):
                while (found := await side.read_value()).ResultId.Id != f"{LINE}/side/7/3":
                    await asyncio.sleep(0.01)
            assert found.IsSimulated is True

    asyncio.run(look())


@pytest.mark.parametrize(
    ("state", "vision", "automatic"),
    [
        (0, "Preoperational", None),
        (1, "Operational", "Ready"),
        (2, "Operational", "ContinuousExecution"),
        (4, "Error", None),
    ],
)
def test_the_state_machines_follow_the_station(shared: Station, state: int, vision: str, automatic: str | None) -> None:
    async def current(peer: Peer, path: str) -> tuple[str | None, str | None]:
        machine = peer.node("").get_child([f"{peer.companion}:{name}" for name in path.split("/")])
        variable = await (await machine).get_child("0:CurrentState")
        value = await variable.read_data_value(raise_on_bad_status=False)
        if not value.StatusCode.is_good():
            assert value.StatusCode.value == ua.StatusCodes.BadStateNotActive
            return None, None
        inside = peer.client.get_node(await (await variable.get_child("0:Id")).read_value())
        return value.Value.Value.Text, (await inside.read_browse_name()).Name

    async def look() -> None:
        async with connected(shared.url) as peer:
            shared.state = state
            async with asyncio.timeout(5):
                while (await current(peer, "VisionStateMachine"))[0] != vision or (
                    await current(peer, "VisionStateMachine/AutomaticModeStateMachine")
                )[0] != automatic:
                    await asyncio.sleep(0.02)
            assert await current(peer, "VisionStateMachine") == (vision, vision)
            inside = await current(peer, "VisionStateMachine/AutomaticModeStateMachine")
            assert inside == (automatic, automatic)
            definition = peer.client.get_node(await peer.node("").read_type_definition())
            assert (await definition.read_browse_name()).Name == "VisionSystemType"

    asyncio.run(look())


def test_a_silent_hub_is_an_error_of_the_vision_system(shared: Station) -> None:
    async def look() -> None:
        async with connected(shared.url) as peer:
            shared.beating, shared.state = False, 2
            path = [f"{peer.companion}:VisionStateMachine", "0:CurrentState"]
            variable = await peer.node("").get_child(path)
            async with asyncio.timeout(5):
                while (await variable.read_value()).Text != "Error":
                    await asyncio.sleep(0.02)

    try:
        asyncio.run(look())
    finally:
        shared.beating = True


def test_without_a_handshake_no_plc_is_waited_for_and_none_is_misled(shared: Station) -> None:
    async def look() -> None:
        async with connected(shared.url) as peer:
            with pytest.raises(ua.UaStatusCodeError):
                await peer.register("verdict").read_value()

    assert shared.output.reachable() == (True, "")
    asyncio.run(look())


# ---- encrypted -------------------------------------------------------------------------------------------------------


def test_with_a_certificate_only_known_clients_are_let_in_and_nothing_is_in_the_clear(tmp_path: Path) -> None:
    own, key = certificate(tmp_path, "server", f"urn:line-worker:{LINE}", server=True)
    plc, stranger = (certificate(tmp_path, name, f"urn:{name}", server=False) for name in ("plc", "stranger"))
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "plc.der").write_bytes(plc[0].read_bytes())
    files = {"certificate": str(own), "private_key": str(key), "trusted": str(tmp_path / "trusted")}

    async def read(url: str, who: tuple[Path, Path] | None) -> str:
        client = Client(url, timeout=5)
        client.session_timeout = 60_000
        if who is not None:
            client.application_uri = f"urn:{who[0].stem}"
            await client.set_security_string(f"Basic256Sha256,SignAndEncrypt,{who[0]},{who[1]},{own}")
        async with client:
            node = ua.NodeId(f"{LINE}/{NEWEST}.ResultState", await client.get_namespace_index("urn:line-worker"))
            return str(await client.get_node(node).read_value())

    with Station(line(handshake=False, **files)) as station:
        station.deliver(outcome(1))
        wait_for(lambda: asyncio.run(read(station.url, plc)) == "1")
        for who in (stranger, None):
            with pytest.raises((ua.UaError, OSError, TimeoutError)):
                asyncio.run(read(station.url, who))
        assert asyncio.run(read(station.url, plc)) == "1"


def test_a_certificate_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "trusted").mkdir()
    (tmp_path / "own.der").write_bytes(b"no certificate")
    files = {"certificate": str(tmp_path / "own.der"), "private_key": str(tmp_path / "none"), "trusted": str(tmp_path)}
    found = line(**files)
    with pytest.raises(SinkError, match="set another host, port or certificate"):
        OpcUaOutput(found.sinks[0], found).open()  # type: ignore[arg-type]


# ---- a whole line ----------------------------------------------------------------------------------------------------

LINE_TOML = """
[line]
name = "line-1"
runtime = "{folder}/run"
data = "{folder}/data"
[[cameras]]
name = "top"
deadline_ms = 2000
source = {{ kind = "synthetic", part = "noise", rate = 20, width = 64, height = 64 }}
canary_every_s = 0
[workers]
bundle = "stub"
[[sinks]]
kind = "opcua"
port = {port}
handshake = false
"""


async def _newest(port: int, past: int) -> int:
    """Wait until a line that was drawn shows a completed result whose number is above `past`; returns its number."""
    async with asyncio.timeout(60):
        while True:
            with suppress(OSError, TimeoutError, ua.UaError):
                async with connected(f"opc.tcp://{HOST}:{port}/") as peer:
                    while True:
                        found = await peer.node(NEWEST).read_value()
                        number = int(found.MeasId.Id) if found.MeasId is not None else -1
                        if number > past and found.ResultState == 1:
                            assert found.IsSimulated is True
                            return number
                        await asyncio.sleep(0.05)
            await asyncio.sleep(0.2)


async def _read_for_ever(peer: Peer) -> None:
    while True:
        await peer.node(NEWEST).read_value()
        await asyncio.sleep(0.05)


@pytest.mark.long
def test_a_line_serves_its_newest_result_also_after_a_crash_and_ends_in_good_order(short_path: Path) -> None:
    port = free_port()
    (short_path / "line.toml").write_text(LINE_TOML.format(folder=short_path, port=port))
    command = [sys.executable, "-m", "line_worker.cli", "serve", str(short_path / "line.toml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)

    async def run() -> None:
        number = await _newest(port, 20)
        async with connected(f"opc.tcp://{HOST}:{port}/") as peer:
            os.kill(sink_process(short_path, "opcua"), signal.SIGKILL)
            with pytest.raises((OSError, ua.UaError)):
                await _read_for_ever(peer)
        await _newest(port, number)
        async with connected(f"opc.tcp://{HOST}:{port}/"):
            process.send_signal(signal.SIGTERM)  # while a session is open
            await asyncio.get_running_loop().run_in_executor(None, process.wait, 30)

    try:
        with suppress(OSError, ua.UaError):  # the last session was ended from the other side
            asyncio.run(run())
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0, told[-2000:]
    finally:
        process.kill()
        process.communicate()


# ---- our own end -----------------------------------------------------------------------------------------------------


def test_closing_ends_every_session_and_leaves_no_thread() -> None:
    async def run(station: Station) -> None:
        client = Client(station.url, timeout=2)
        lost = asyncio.Event()

        async def gone(error: Exception) -> None:
            lost.set()

        client.connection_lost_callback = gone
        await client.connect()
        start = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(None, station.output.close)
        assert time.monotonic() - start < 3
        async with asyncio.timeout(5):
            await lost.wait()
        with pytest.raises((OSError, ua.UaError)):
            await client.nodes.server_state.read_value()
        client.disconnect_socket()  # there is no session to close

    before = {thread for thread in threading.enumerate() if thread.name == "opcua-server"}
    with Station(line(handshake=False)) as station:
        asyncio.run(run(station))
    wait_for(lambda: before >= {thread for thread in threading.enumerate() if thread.name == "opcua-server"})


def test_a_port_that_is_taken_is_said_so() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        output = OpcUaOutput(line(port=port).sinks[0], line())  # type: ignore[arg-type]
        with pytest.raises(SinkError, match=rf"{HOST}:{port}: no OPC UA server.*in use.*another host, port"):
            output.open()
        output.close()


def test_without_asyncua_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "line_worker.sink.opcua.server", None)
    with pytest.raises(SinkError, match=r"pip install line-worker\[opcua\]"):
        OpcUaOutput(line().sinks[0], line()).open()  # type: ignore[arg-type]


def test_the_companions_licence_is_shipped_with_it() -> None:
    folder = Path(sys.modules[OpcUaOutput.__module__].__file__ or "").parent
    assert "MIT License" in (folder / "Opc.Ua.MachineVision.LICENSE").read_text()
    assert "OPC Foundation" in (folder / "Opc.Ua.MachineVision.NodeSet2.xml").read_text()[:400]


def test_what_the_plc_writes_is_the_tables() -> None:
    assert {field.name for field in fields(Plc)} == {row.name for row in TABLE if row.direction == "from PLC"}
    assert replace(Plc(), ack_seq=1).ack_seq == 1
