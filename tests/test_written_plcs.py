"""PLCs into whose memory we write, on servers that nobody here wrote: asyncua's (OPC UA) and cpppo's (EtherNet/IP).

Killed, stopped, slow, half-open, mute and restarted; S7 has a file of its own.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from left_behind import let_go_of_connections
from line_worker.config import EtherNetIpSink, OpcUaClientSink, WrittenPlc
from line_worker.errors import SinkError
from line_worker.ports import free_port
from line_worker.sink.plc import PlcOutput
from line_worker.sink.plc.link import link_to
from line_worker.sink.plc.modes import Written
from line_worker.sink.plc.registers import FROM_PLC, TO_PLC, Active, Result, Station, Stop, encode
from plc_process import PlcProcess, Wire, deliver_all, why_not
from plc_station import HOST, outcome, wait_for
from plc_station import Station as Running


@pytest.fixture(scope="module", autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    yield
    let_go_of_connections()


PATIENT = {"queue": 64, "plc_heartbeat_ms": 5000}  # cpppo takes 20 ms for a request, and more beside other work
NUMBERS = count(0, 100)  # a PLC refuses a part whose number is not larger than the last one's
NODES = "nsu=urn:simulated-plc;s=LineWorker.{name}"


def opcua(port: int, **changes: object) -> OpcUaClientSink:
    keys = {"kind": "opcua-client", "url": f"opc.tcp://{HOST}:{port}", "nodes": NODES} | PATIENT
    return OpcUaClientSink.model_validate(keys | changes)


def ethernet_ip(port: int, **changes: object) -> EtherNetIpSink:
    return EtherNetIpSink.model_validate({"kind": "ethernet-ip", "host": HOST, "port": port} | PATIENT | changes)


@dataclass(frozen=True)
class Way:
    """How the station speaks, and what the PLC that it speaks to is started with."""

    settings: Callable[..., WrittenPlc]
    needs: str
    flag: str

    def plc(self, folder: Path) -> PlcProcess:
        pytest.importorskip(self.needs, reason=f"{self.needs} is missing: pip install 'line-worker[test]'")
        return PlcProcess(folder, self.flag)


WAYS = {
    "opcua-client": Way(opcua, "asyncua", "--opcua"),
    "ethernet-ip": Way(ethernet_ip, "cpppo", "--ethernet-ip"),
}


Fleet = Callable[[str], PlcProcess]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Return the PLC of a kind; one serves all tests, because OPC UA's takes seconds to start."""
    running: dict[str, PlcProcess] = {}

    def plc_of(kind: str) -> PlcProcess:
        if kind not in running:
            running[kind] = stack.enter_context(WAYS[kind].plc(tmp_path_factory.mktemp(kind)))
        return running[kind]

    with ExitStack() as stack:
        yield plc_of


@pytest.fixture(params=list(WAYS))
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


@pytest.fixture
def plc(request: pytest.FixtureRequest, way: Way, fleet: Fleet) -> PlcProcess:
    return fleet(request.node.callspec.params["way"])


def test_every_verdict_arrives_once_and_in_order_also_after_the_plc_was_killed_and_stopped(
    way: Way, plc: PlcProcess
) -> None:
    with Running(PlcOutput(way.settings(plc.port))) as station:
        station.await_reachable()
        first = next(NUMBERS)
        deliver_all(station, plc, first, 20)
        received = [booking for booking in plc.books if booking["received"]][-20:]
        assert [booking["accepted"] for booking in received] == [seq % 4 < 2 for seq in range(20)]
        assert (received[5]["part_id"], received[5]["score"]) == (f"part-{first + 5}", first + 5.0)
        plc.kill()
        wait_for(lambda: "cannot be reached" in why_not(station))
        station.deliver(outcome(first + 20, left_ms=50))
        time.sleep(0.2)
        plc.start()
        station.await_reachable()
        deliver_all(station, plc, first + 24, 8)
        plc.signal(signal.SIGSTOP)
        try:
            wait_for(lambda: "gives no answer" in why_not(station))
            station.deliver(outcome(first + 32, left_ms=1000))
            time.sleep(1.2)  # it connects all the while; when it succeeds, this PASS is over
        finally:
            plc.signal(signal.SIGCONT)
        station.await_reachable()
        deliver_all(station, plc, first + 36, 4)
    assert not {first + 20, first + 32} & {booking["seq"] for booking in plc.books if booking["accepted"]}


def test_a_wire_that_is_slow_or_dies_in_silence(way: Way, plc: PlcProcess) -> None:
    with Wire(plc.port) as wire, Running(PlcOutput(way.settings(wire.port))) as station:
        wire.delay_s = 0.02
        station.await_reachable()
        first = next(NUMBERS)
        deliver_all(station, plc, first, 4)
        wire.delay_s = 0.0
        wire.dead = True
        wait_for(lambda: "gives no answer" in why_not(station))
        wire.dead = False
        station.await_reachable()
        deliver_all(station, plc, first + 4, 4)


def test_a_plc_that_never_answers_is_reported_and_closing_stays_quick(way: Way) -> None:
    pytest.importorskip(way.needs, reason=f"{way.needs} is missing: pip install 'line-worker[test]'")
    with socket.create_server((HOST, 0)) as mute:
        with Running(PlcOutput(way.settings(mute.getsockname()[1]))) as station:
            wait_for(lambda: "gives no answer" in why_not(station))
            start = time.monotonic()
        assert time.monotonic() - start < 4
    wait_for(lambda: not {thread.name for thread in threading.enumerate()} & {"plc-client", "opcua-client"})


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0" * 100, b"\xff" * 100, b"ACKF\x1c\0"])
def test_an_answer_that_makes_no_sense_is_a_clear_error(way: Way, answer: bytes) -> None:
    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as peer:
            peer.settimeout(5)
            peer.recv(1000)
            peer.sendall(answer)
            peer.shutdown(socket.SHUT_WR)
            peer.recv(1000)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        link = link_to(way.settings(listener.getsockname()[1]))
        with pytest.raises(SinkError, match="check its power, network, "):
            link.read(FROM_PLC)
        link.close()
        thread.join()


def test_an_answer_that_its_library_chokes_on_is_a_failed_round_and_the_next_one_counts(fleet: Fleet) -> None:
    plc = fleet("opcua-client")
    with Wire(plc.port) as wire, Running(PlcOutput(opcua(wire.port))) as station:
        station.await_reachable()
        wire.spoil = lambda answer: answer[:57] + b"\xff" + answer[58:] if answer.startswith(b"MSG") else answer
        wait_for(lambda: "answer cannot be understood (IndexError(" in why_not(station))
        wire.spoil = None
        station.await_reachable()
        deliver_all(station, plc, next(NUMBERS), 4)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_sink_whose_thread_has_ended_says_so_and_ends(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    output = PlcOutput(opcua(fleet("opcua-client").port))
    output.open()
    try:
        output.poll(time.monotonic())
        assert isinstance(output._mode, Written)
        monkeypatch.setattr(output._mode, "_round", sys.exit)
        wait_for(lambda: not {thread.name for thread in threading.enumerate()} & {"plc-client"})
        with pytest.raises(SinkError, match="the thread that speaks with the PLC has ended"):
            output.poll(time.monotonic())
    finally:
        output.close()


HOLDER = """
import json, sys, time
from line_worker.config import parse
from line_worker.sink import make_sink
config = parse(json.loads(sys.argv[1]))
sink = make_sink(config.sinks[0], config)
sink.open()
while True:
    sink.poll(time.monotonic())
    time.sleep(0.01)
"""


def connections(port: int) -> int:
    """Return how many clients the server at `port` has now."""
    wanted = f"0100007F:{port:04X}"
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(row[1] == wanted and row[3] == "01" for row in rows)


def test_the_session_ends_when_the_sink_is_closed_and_when_its_process_is_killed(way: Way, plc: PlcProcess) -> None:
    sink = way.settings(plc.port)
    camera = {"name": "top", "deadline_ms": 500, "source": {"kind": "synthetic"}}
    line = {"name": "line-1", "runtime": "run", "data": "data"}
    config = {"line": line, "cameras": [camera], "workers": {"bundle": "stub"}, "sinks": [sink.model_dump(mode="json")]}
    wait_for(lambda: connections(plc.port) == 0)
    with subprocess.Popen([sys.executable, "-c", HOLDER, json.dumps(config)]) as holder:
        try:
            wait_for(lambda: connections(plc.port) == 1)
        finally:
            holder.kill()
    wait_for(lambda: connections(plc.port) == 0)
    with Running(PlcOutput(sink)) as station:
        station.await_reachable()
        assert connections(plc.port) == 1
    wait_for(lambda: connections(plc.port) == 0)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ("nsu=urn:other;s=LineWorker.{name}", "it has no such namespace (it has: http://opcfoundation.org/UA/"),
        ("ns=2;s=Line.{name}", "ns=2;s=Line.map_version: BadNodeIdUnknown"),
        ("ns=2;s=LineWorker.toggle#{name}", "BadNodeIdUnknown"),
        ("i=2258#{name}", "Error parsing string"),
    ],
)
def test_variables_that_are_not_there_are_named(fleet: Fleet, nodes: str, says: str) -> None:
    link = link_to(opcua(fleet("opcua-client").port, nodes=nodes))
    with pytest.raises(SinkError) as refused:
        link.read(FROM_PLC)
    link.close()
    assert says in str(refused.value)
    assert "check its power, network, nodes, their types and rights" in str(refused.value)


def test_variables_of_another_type_or_without_the_right_to_write_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("asyncua", reason="asyncua is missing: pip install 'line-worker[opcua]'")
    from asyncua import ua

    from line_worker.sink.plc import nodes_served

    served = nodes_served.ServedNodes(HOST, free_port())
    served.open()
    link = link_to(opcua(served.port))
    try:
        assert link.read(FROM_PLC) == [0] * len(FROM_PLC)
        link.close()
        assert served._loop is not None
        assert served._server is not None
        verdict = served._server.get_node(served._nodes["verdict"])
        served._loop.run(verdict.set_writable(False), 5)
        with pytest.raises(SinkError, match=r"LineWorker\.verdict may not be written by us"):
            link.read(FROM_PLC)
        served._loop.run(verdict.write_value(ua.DataValue(ua.Variant(7, ua.VariantType.UInt16))), 5)
        served._loop.run(verdict.set_writable(True), 5)
        monkeypatch.setitem(nodes_served._KINDS, "u16", ua.VariantType.UInt32)
        monkeypatch.setattr("line_worker.sink.plc.nodes._KINDS", {"u16": ua.VariantType.Int32})
        with pytest.raises(SinkError, match=r"map_version holds a UInt16; it should be a Int32"):
            link.read(FROM_PLC)
    finally:
        link.close()
        served.close()


@pytest.mark.long
def test_a_plc_that_encrypts_is_spoken_to_by_its_certificate_alone(tmp_path: Path) -> None:
    pytest.importorskip("asyncua", reason="asyncua is missing: pip install 'line-worker[opcua]'")
    from asyncua import Server, ua
    from asyncua.crypto.permission_rules import User, UserRole

    from line_worker.sink.plc.nodes_served import ServedNodes
    from opcua_peer import certificate

    own, key = certificate(tmp_path, "plc", "urn:freeopcua:python:server", server=True)
    stranger, _ = certificate(tmp_path, "stranger", "urn:stranger", server=True)
    ours, our_key = certificate(tmp_path, "station", "urn:line-worker:line-1", server=False)
    (tmp_path / "password").write_text("right")
    (tmp_path / "password").chmod(0o400)

    class Passwords:
        def get_user(self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None) -> Any:
            return User(role=UserRole.User) if (username, password) == ("station", "right") else None

    class Encrypted(ServedNodes):
        async def secure(self, server: Server) -> None:
            server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
            server.set_identity_tokens([ua.UserNameIdentityToken])
            server.iserver.user_manager = Passwords()
            await server.load_certificate(own)
            await server.load_private_key(key)

    served = Encrypted(HOST, free_port())
    served.open()
    files = {"certificate": str(ours), "private_key": str(our_key), "server_certificate": str(own)}
    login = {"username": "station", "password_file": str(tmp_path / "password")}
    refused: list[dict[str, str]] = [
        files | login | {"server_certificate": str(stranger)},
        files | login | {"username": "somebody"},
        {},
    ]
    try:
        link = link_to(opcua(served.port, **files, **login), timeout_s=2.0)
        link.write(TO_PLC.start, served.read(TO_PLC))
        assert link.read(FROM_PLC) == [0] * len(FROM_PLC)
        link.close()
        for keys in refused:
            link = link_to(opcua(served.port, **keys), timeout_s=2.0)
            with pytest.raises(SinkError, match="check its power, network"):
                link.read(FROM_PLC)
            link.close()
    finally:
        served.close()


@pytest.fixture(scope="module")
def logix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Return the port of cpppo's own server, with arrays that fit and others."""
    pytest.importorskip("cpppo", reason="cpppo is missing: pip install 'line-worker[test]'")
    port = free_port()
    tags = ("FromStation=INT[51]", "ToStation=INT[24]", "Short=INT[3]", "Wide=DINT[24]")
    command = [sys.executable, "-m", "cpppo.server.enip", "--no-udp", "--no-config", "--address", f"{HOST}:{port}"]
    with subprocess.Popen([*command, *tags], stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: bool(connect(port)))
            yield port
        finally:
            process.kill()


def connect(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


def test_what_is_written_is_in_the_array_as_another_client_reads_it(logix: int) -> None:
    from cpppo.server.enip.get_attribute import proxy_simple

    words = (
        encode(Station(heartbeat=0xFFFE))
        + encode(Result(seq=70000, part_id="ab"))
        + encode(Stop(2))
        + encode(Active(3, 1))
    )
    for slot in (0, "none"):
        link = link_to(ethernet_ip(logix, slot=slot), timeout_s=5.0)
        link.write(TO_PLC.start, words)
        link.close()
        peer = proxy_simple(HOST, port=logix)
        with peer:
            [found] = peer.read([f"FromStation[0-{len(TO_PLC) - 1}]"])
        peer.close_gateway()
        assert [word & 0xFFFF for word in found] == words


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"from_plc": "Wide"}, r"Wide holds 96 bytes of type 0xC4; it should be INT\[24\]"),
        ({"from_plc": "Short"}, r"refuses \(Short: "),
        ({"from_plc": "Missing"}, r"EtherNet/IP PLC .*Missing"),
    ],
)
def test_arrays_that_do_not_fit_are_named(logix: int, changes: dict[str, str], says: str) -> None:
    link = link_to(ethernet_ip(logix, **changes), timeout_s=5.0)
    with pytest.raises(SinkError, match=says):
        link.read(FROM_PLC)
    link.close()


@pytest.mark.parametrize(
    ("module", "settings", "extra"), [("nodes", opcua, "opcua"), ("tags", ethernet_ip, "ethernet-ip")]
)
def test_without_the_library_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, module: str, settings: Callable[[int], WrittenPlc], extra: str
) -> None:
    monkeypatch.setitem(sys.modules, f"line_worker.sink.plc.{module}", None)
    with pytest.raises(SinkError, match=rf"pip install line-worker\[{extra}\]"):
        link_to(settings(1))
