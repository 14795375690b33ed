"""The contract of `line_worker.sink.Sink`, obeyed by every sink alike; the PLC sinks have the simulated PLC as peer."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from left_behind import leave_broker, let_go_of_connections
from line_worker.config import (
    EtherNetIpSink,
    MqttSink,
    OpcUaClientSink,
    OpcUaSink,
    PlcSink,
    S7Sink,
    WebhookSink,
    WrittenPlc,
    parse,
)
from line_worker.ports import free_port
from line_worker.sink import Sink
from line_worker.sink.collect import Collector
from line_worker.sink.log import Log
from line_worker.sink.plc import PlcOutput
from line_worker.sink.plc.simulated import SimulatedPlc
from line_worker.sink.store import Store, read_outcomes
from line_worker.sink.webhook import Webhook
from line_worker.wire.messages import Crop, Frame, FrameKey, HubState, Outcome
from plc_process import BASE, DB, PlcProcess, S7Plc

HOST = "127.0.0.1"
LINE = {
    "line": {"name": "line-1", "runtime": "run", "data": "data"},
    "cameras": [{"name": "top", "deadline_ms": 500, "source": {"kind": "synthetic"}}],
    "workers": {"bundle": "stub"},
}
Taken = list[tuple[int, str]]  # sequence number and verdict of what has arrived on the other side


def outcome(seq: int, *, reason: int = 0) -> Outcome:
    verdict = {0: "PASS", 1: "FAIL"}.get(reason, "NO_DECISION")
    return Outcome(
        *(seq + 1, FrameKey("line-1", "top", 7, seq), verdict, reason, 0.5, 1.0, (), "ab" * 32, "worker-0", 1),
        *("", 0, 10.0, 5000.0, 1.7e9 + seq, {"score": 1.0}),
    )


@dataclass
class Bench:
    """A sink and a look at its other side."""

    sink: Sink
    taken: Callable[[], Taken]
    connect: Callable[[], object] = lambda: None  # the other side comes
    beats: int = 0

    def turn(self) -> None:
        """Do what the runner does between outcomes."""
        self.beats += 1
        self.sink.beat(HubState(1, self.beats, 2, "", "ab" * 32, 0, 1, {}), time.monotonic())
        self.sink.poll(time.monotonic())

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "waited in vain"
            self.turn()
            time.sleep(0.01)

    def deliver(self, *outcomes: Outcome) -> None:
        for one in outcomes:
            assert self.sink.deliver(one, time.monotonic()) is True
            self.sink.settle()
            self.turn()

    def open(self) -> None:
        self.sink.open()
        self.connect()
        self.until(lambda: self.sink.reachable() == (True, ""))


@contextmanager
def collector(tmp_path: Path) -> Iterator[Bench]:
    sink = Collector()
    yield Bench(sink, lambda: [(one.key.seq, one.verdict) for one in sink.outcomes])


@contextmanager
def store(tmp_path: Path) -> Iterator[Bench]:
    yield Bench(Store(tmp_path, 10**6), lambda: [(one.key.seq, one.verdict) for one in read_outcomes(tmp_path)])


@contextmanager
def log(tmp_path: Path) -> Iterator[Bench]:
    def taken() -> Taken:
        lines = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
        return [(line["seq"], line["verdict"]) for line in lines]

    yield Bench(Log(tmp_path / "log.jsonl"), taken)


@contextmanager
def plc_server(tmp_path: Path) -> Iterator[Bench]:
    sink = PlcOutput(PlcSink(kind="plc").model_copy(update={"port": 0}))
    plcs: list[SimulatedPlc] = []

    def taken() -> Taken:
        return [(booking.seq, booking.verdict) for booking in plcs[0].books if booking.received]

    with ExitStack() as stack:
        yield Bench(sink, taken, lambda: plcs.append(stack.enter_context(SimulatedPlc(HOST, sink.port))))


@contextmanager
def plc_client(tmp_path: Path) -> Iterator[Bench]:
    with SimulatedPlc(HOST, 0, serve=True) as plc:
        sink = PlcOutput(PlcSink(kind="plc", mode="client", port=plc.port))
        yield Bench(sink, lambda: [(b.seq, b.verdict) for b in plc.books if b.received])


@contextmanager
def s7(tmp_path: Path) -> Iterator[Bench]:
    pytest.importorskip("snap7", reason="python-snap7 is missing: pip install 'line-worker[s7]'")
    with S7Plc(tmp_path) as plc:
        sink = PlcOutput(S7Sink(kind="s7", host=HOST, port=plc.port, db=DB, base=BASE))
        yield Bench(sink, lambda: plc.taken)


LASTING: dict[str, PlcProcess] = {}  # PLCs that serve all tests of this file: some take seconds to start


@pytest.fixture(scope="module", autouse=True)
def _end_what_lasts() -> Iterator[None]:
    yield
    for plc in LASTING.values():
        plc.kill()
    LASTING.clear()


@contextmanager
def lasting(folder: Path, flag: str, needs: str, settings: Callable[[int], WrittenPlc]) -> Iterator[Bench]:
    pytest.importorskip(needs, reason=f"{needs} is missing: pip install 'line-worker[test]'")
    if flag not in LASTING:
        LASTING[flag] = PlcProcess(folder, flag).__enter__()
    plc = LASTING[flag]
    earlier = len(plc.taken)
    yield Bench(PlcOutput(settings(plc.port)), lambda: plc.taken[earlier:])


def opcua_client(tmp_path: Path) -> AbstractContextManager[Bench]:
    nodes = "nsu=urn:simulated-plc;s=LineWorker.{name}"

    def settings(port: int) -> WrittenPlc:
        return OpcUaClientSink(kind="opcua-client", url=f"opc.tcp://{HOST}:{port}", nodes=nodes, plc_heartbeat_ms=5000)

    return lasting(tmp_path, "--opcua", "asyncua", settings)


def ethernet_ip(tmp_path: Path) -> AbstractContextManager[Bench]:
    def settings(port: int) -> WrittenPlc:
        return EtherNetIpSink(kind="ethernet-ip", host=HOST, port=port, plc_heartbeat_ms=5000)

    return lasting(tmp_path, "--ethernet-ip", "cpppo", settings)


@contextmanager
def opcua(tmp_path: Path) -> Iterator[Bench]:
    pytest.importorskip("asyncua", reason="asyncua is missing: pip install 'line-worker[opcua]'")
    from line_worker.sink.opcua import OpcUaOutput

    settings = OpcUaSink(kind="opcua", handshake=False).model_copy(update={"port": 0})
    sink = OpcUaOutput(settings, parse(LINE))
    taken: Taken = []
    stop, there = threading.Event(), threading.Event()

    def listen() -> None:
        asyncio.run(watch(f"opc.tcp://{HOST}:{sink.port}/", taken, there, stop))

    def come() -> None:
        peer.start()
        assert there.wait(20)

    peer = threading.Thread(target=listen, name="simulated-client")
    yield Bench(sink, lambda: list(taken), come)
    stop.set()
    if peer.ident is not None:
        peer.join()
    let_go_of_connections()


@contextmanager
def mqtt(tmp_path: Path) -> Iterator[Bench]:
    pytest.importorskip("paho.mqtt", reason="paho-mqtt is missing: pip install 'line-worker[mqtt]'")
    command = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if command is None:
        pytest.skip("mosquitto is missing: apt-get install mosquitto")
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    from line_worker.sink.mqtt import Mqtt

    port = free_port()
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} {HOST}\nallow_anonymous true\n")
    broker = subprocess.Popen([command, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    client, there, taken = Client(CallbackAPIVersion.VERSION2), threading.Event(), []

    def hear(_: object, data: object, message: Any) -> None:
        found = json.loads(message.payload)
        taken.append((int(found["MeasId"]["Id"]), found["ResultContent"][0]["Verdict"]))

    def come() -> None:
        client.on_connect = lambda *_: client.subscribe("line-worker/line-1/+/result", qos=1)
        client.on_subscribe = lambda *_: there.set()
        client.on_message = hear
        client.connect(HOST, port)
        client.loop_start()
        assert there.wait(10)

    settings = MqttSink(kind="mqtt", host=HOST, port=port)
    try:
        until = time.monotonic() + 10
        while time.monotonic() < until and not _listens(port):
            time.sleep(0.02)
        yield Bench(Mqtt(settings, parse(LINE)), lambda: list(taken), come)
        leave_broker(client)
    finally:
        broker.kill()
        broker.wait()


@contextmanager
def webhook(tmp_path: Path) -> Iterator[Bench]:
    taken: Taken = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            taken.extend((int(one["MeasId"]["Id"]), one["ResultContent"][0]["Verdict"]) for one in body["Results"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "secret").write_text("s")
    (tmp_path / "secret").chmod(0o400)
    server = HTTPServer((HOST, 0), Handler)
    peer = threading.Thread(target=server.serve_forever, args=(0.02,))
    peer.start()
    url = f"http://{HOST}:{server.server_address[1]}/"
    settings = WebhookSink(kind="webhook", url=url, secret_file=tmp_path / "secret")
    try:
        yield Bench(Webhook(settings, parse(LINE)), lambda: list(taken))
    finally:
        server.shutdown()
        server.server_close()
        peer.join()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


async def watch(url: str, taken: Taken, there: threading.Event, stop: threading.Event) -> None:
    """Subscribe to the newest result of camera `top`, and note each once."""
    from asyncua import Client, ua

    class Handler:
        def datachange_notification(self, node: object, result: Any, data: object) -> None:
            if getattr(result, "MeasId", None) is not None:
                taken.append((int(result.MeasId.Id), result.ResultContent[0].Value.Value.Value))

    client = Client(url)
    client.session_timeout = 60_000
    with suppress(OSError, ua.UaError):  # the server was closed first
        await client.connect()
        await client.load_data_type_definitions()
        own = await client.get_namespace_index("urn:line-worker")
        subscription = await client.create_subscription(10, Handler())
        newest = client.get_node(ua.NodeId("line-1/ResultManagement/Results/top", own))
        await subscription.subscribe_data_change(newest, queuesize=100)
        there.set()
        while not stop.is_set():
            await asyncio.sleep(0.02)
        await client.disconnect()


KINDS = {
    "collector": collector,
    "store": store,
    "log": log,
    "plc server": plc_server,
    "plc client": plc_client,
    "s7": s7,
    "opcua client": opcua_client,
    "ethernet-ip": ethernet_ip,
    "opcua": opcua,
    "mqtt": mqtt,
    "webhook": webhook,
}


@pytest.fixture(params=list(KINDS))
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    with KINDS[request.param](tmp_path) as found:
        yield found
        found.sink.close()


SENT = [outcome(seq, reason=(0, 1, 30)[seq % 3]) for seq in range(6)]
EXPECTED = [(one.key.seq, one.verdict) for one in SENT]


def test_every_outcome_arrives_once_and_in_order(bench: Bench) -> None:
    bench.open()
    bench.deliver(*SENT)
    bench.until(lambda: len(bench.taken()) >= len(SENT))
    assert bench.taken() == EXPECTED


def test_an_outcome_that_is_sent_again_arrives_once(bench: Bench) -> None:
    bench.open()
    bench.deliver(*SENT[:3])
    bench.deliver(*SENT)
    bench.until(lambda: len(bench.taken()) >= len(SENT))
    for _ in range(5):
        bench.turn()
    assert bench.taken() == EXPECTED


def test_frames_crops_and_states_are_taken_by_every_sink(bench: Bench) -> None:
    bench.open()
    key = FrameKey("line-1", "top", 7, 0)
    bench.sink.tap(Frame(key, 0.0, 100.0, (1, 1), "uint8", "gray", 0, "inline"), b"\0")
    bench.sink.crop(Crop(key, "overlay", b"png"))
    bench.deliver(SENT[0])
    bench.until(lambda: len(bench.taken()) == 1)
    assert bench.sink.reachable() == (True, "")


def test_closing_is_quick_may_be_repeated_and_leaves_no_thread(bench: Bench) -> None:
    before = set(threading.enumerate())
    bench.open()
    bench.deliver(SENT[0])
    bench.until(lambda: len(bench.taken()) == 1)
    start = time.monotonic()
    bench.sink.close()
    bench.sink.close()
    assert time.monotonic() - start < 3
    left = set(threading.enumerate()) - before
    assert {thread.name for thread in left} <= {
        "simulated-plc",
        "paho-mqtt-client-",
        "simulated-client",
    }  # the peer, which knows nothing of this


def test_closing_before_opening_does_nothing(bench: Bench) -> None:
    bench.sink.close()


def test_it_says_what_the_runner_must_know(bench: Bench) -> None:
    realtime = isinstance(bench.sink, PlcOutput)
    assert bench.sink.durable is not realtime
    assert bench.sink.wants_frames is False
    assert bench.sink.wants_crops is isinstance(bench.sink, (Store, Collector))


def test_what_was_taken_survives_closing(bench: Bench) -> None:
    bench.open()
    bench.deliver(*SENT)
    bench.until(lambda: len(bench.taken()) >= len(SENT))
    bench.sink.close()
    assert bench.taken() == EXPECTED
