"""The Sparkplug B sink against mosquitto, read with Eclipse Tahu's decoder: births, data, death, rebirth, outages."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from broker_line import HOST, line
from left_behind import leave_broker
from line_worker.errors import SinkError
from line_worker.sink import make_sink
from line_worker.wire.messages import HubState
from mqtt_broker import MOSQUITTO, Mosquitto, denying
from plc_station import outcome, wait_for

pytest.importorskip("google.protobuf", reason="protobuf is missing: pip install 'line-worker[sparkplug]'")
pytest.importorskip("paho.mqtt", reason="paho-mqtt is missing: pip install 'line-worker[sparkplug]'")
pytest.importorskip("tahutils", reason="tahutils is missing: pip install 'line-worker[test]'")
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion
from tahutils.tahu import sparkplug_b_pb2 as tahu

from line_worker.sink.sparkplug.node import EdgeNode
from line_worker.sink.sparkplug.payload import commands

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is missing: apt-get install mosquitto")
BASE = "spBv1.0/line-worker"


class Told(NamedTuple):
    """A message, decoded by Tahu."""

    kind: str
    device: str
    seq: int | None
    metrics: dict[str, Any]
    historical: bool
    qos: int
    retain: bool

    @property
    def bd_seq(self) -> int:
        return int(self.metrics["bdSeq"])


def decoded(topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> Told:
    found = tahu.Payload.FromString(payload)
    _, _, kind, _, *device = topic.split("/")
    metrics = {one.name: getattr(one, one.WhichOneof("value")) if not one.is_null else None for one in found.metrics}
    seq = found.seq if found.HasField("seq") else None
    return Told(kind, "".join(device), seq, metrics, any(one.is_historical for one in found.metrics), qos, retain)


class Host:
    """A host application: hears everything of the group, and can ask for a rebirth."""

    def __init__(self, port: int) -> None:
        self.heard: list[Told] = []
        self.client = Client(CallbackAPIVersion.VERSION2, "host", clean_session=True)
        self.client.on_connect = lambda *_: self.client.subscribe(f"{BASE}/#", qos=1)
        self.client.on_message = self._hear
        self.there = False
        self.client.on_subscribe = self._subscribed
        self.client.reconnect_delay_set(1, 1)
        self.client.connect(HOST, port)

    def __enter__(self) -> Host:
        self.client.loop_start()
        wait_for(lambda: self.there)
        return self

    def __exit__(self, *error: object) -> None:
        leave_broker(self.client)

    def _subscribed(self, *_: object) -> None:
        self.there = True

    def _hear(self, client: Client, data: object, message: Any) -> None:
        if "NCMD" not in message.topic:
            self.heard.append(decoded(message.topic, message.payload, message.qos, message.retain))

    def kinds(self) -> list[str]:
        return [told.kind for told in self.heard]

    def results(self) -> list[Told]:
        return [told for told in self.heard if told.kind == "DDATA"]

    def rebirth(self, node: str = "line-1", value: bool = True) -> None:
        payload = tahu.Payload()
        payload.metrics.add(name="Node Control/Rebirth", datatype=11, boolean_value=value)
        self.client.publish(f"{BASE}/NCMD/{node}", payload.SerializeToString())


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    running = Mosquitto(tmp_path / "mosquitto").start()
    yield running
    running.kill()


def sink_at(port: int, folder: Path) -> Any:
    config = line({"kind": "sparkplug", "host": HOST, "port": port})
    config = config.model_copy(update={"line": config.line.model_copy(update={"data": folder / "data"})})
    return make_sink(config.sinks[0], config)


@pytest.fixture
def host(broker: Mosquitto) -> Iterator[Host]:
    with Host(broker.port) as listening:
        yield listening


@pytest.fixture
def sink(host: Host, broker: Mosquitto, tmp_path: Path) -> Iterator[Any]:
    found = sink_at(broker.port, tmp_path)
    found.open()
    yield found
    found.close()


def beat(sink: Any, number: int, state: int = 2, cause: str = "") -> None:
    sink.beat(HubState(1, number, state, cause, "beef" * 16, 0, 1, {}), time.monotonic())
    sink.poll(time.monotonic())


def test_birth_comes_before_data_and_all_is_numbered(sink: Any, host: Host) -> None:
    beat(sink, 1)
    for seq in range(300):
        sink.deliver(outcome(seq, reason=seq % 2), 0.0)
    sink.settle()
    beat(sink, 2, 4, "the light is out")
    wait_for(lambda: host.kinds()[-1:] == ["NDATA"])
    # the first birth knew nothing of the station: its metrics came with a second one
    assert host.kinds()[:5] == ["NBIRTH", "DBIRTH", "NBIRTH", "DBIRTH", "DDATA"]
    birth, data = host.heard[2], host.heard[2:]
    assert birth.metrics["Station/Station"] == "RUNNING"
    assert (birth.metrics["Node Control/Rebirth"], birth.bd_seq, birth.seq) == (False, 0, 0)
    assert [told.seq for told in data] == [number % 256 for number in range(len(data))]
    assert {told.qos for told in data} == {0}
    assert not any(told.retain for told in host.heard)
    assert {"Station/Station": "FAULT", "Station/Cause": "the light is out"}.items() <= data[-1].metrics.items()
    assert "Station/StopLine" not in data[-1].metrics, "only what has changed"
    devices = host.heard[3].metrics
    assert (devices["Score"], set(devices)) == (None, set(host.results()[0].metrics))


def test_a_result_is_told_with_its_values(sink: Any, host: Host) -> None:
    sink.deliver(outcome(7, reason=1), 0.0)
    sink.settle()
    wait_for(lambda: bool(host.results()))
    [told] = host.results()
    assert told.device == "top"
    assert told.metrics == {
        "ResultId": "line-1/top/7/7",
        "PartId": "part-7",
        "MeasId": 7,
        "Trigger": 8,
        "Verdict": "FAIL",
        "Reason": "ANOMALY",
        "Score": 7.0,
        "Threshold": 1.0,
        "LatencyMs": 10.0,
        "IsSimulated": False,
        "InternalRecipeId": "beef" * 16,
    }
    assert told.historical, "it was decided before the station was born"


def test_a_host_that_asks_is_answered_with_births_and_another_node_is_not(sink: Any, host: Host) -> None:
    beat(sink, 1)
    wait_for(lambda: host.kinds().count("NBIRTH") == 2)
    host.rebirth("line-2")
    host.rebirth(value=False)
    host.client.publish(f"{BASE}/NCMD/line-1", b"\xff\xff rubbish")
    host.rebirth()
    wait_for(lambda: (beat(sink, 1), host.kinds().count("DBIRTH") == 3)[1])
    assert (host.heard[-2].kind, host.heard[-1].kind) == ("NBIRTH", "DBIRTH")
    assert host.heard[-2].seq == 0
    assert host.heard[-2].bd_seq == host.heard[0].bd_seq, "the connection is the same"


def test_who_leaves_says_so_and_the_next_connection_has_the_next_number(
    sink: Any, host: Host, broker: Mosquitto, tmp_path: Path
) -> None:
    wait_for(lambda: "NBIRTH" in host.kinds())
    sink.close()
    wait_for(lambda: "NDEATH" in host.kinds())
    again = sink_at(broker.port, tmp_path)
    again.open()
    wait_for(lambda: host.kinds().count("NBIRTH") == 2)
    again.close()
    wait_for(lambda: host.kinds().count("NDEATH") == 2)
    assert [told.bd_seq for told in host.heard if told.kind in ("NBIRTH", "NDEATH")] == [0, 0, 1, 1]
    assert [told.seq for told in host.heard if told.kind == "NDEATH"] == [None, None]


def test_of_one_that_was_killed_the_broker_tells_the_death(host: Host, broker: Mosquitto, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_sparkplug import sink_at\n"
        "sink = sink_at(int(sys.argv[1]), Path(sys.argv[2]))\n"
        "sink.open()\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(broker.port), str(tmp_path)]) as process:
        wait_for(lambda: "NBIRTH" in host.kinds())
        process.kill()
    wait_for(lambda: "NDEATH" in host.kinds())
    assert host.heard[-1].bd_seq == host.heard[0].bd_seq


# ---- outages ---------------------------------------------------------------------------------------------------------


def test_after_an_outage_the_station_is_born_again_and_nothing_is_missing(
    sink: Any, host: Host, broker: Mosquitto
) -> None:
    sink.deliver(outcome(0), 0.0)
    sink.settle()
    wait_for(lambda: len(host.results()) == 1)
    broker.kill()
    wait_for(lambda: not sink.reachable()[0])
    with pytest.raises(SinkError, match=rf"MQTT broker {HOST}:{broker.port}: cannot be reached.*stay with the hub"):
        sink.deliver(outcome(1), 0.0)
    host.heard.clear()
    host.there = False
    broker.start()
    wait_for(lambda: host.there)
    sink.deliver(outcome(1), 0.0)
    sink.settle()
    wait_for(lambda: len(host.results()) == 1)
    assert host.kinds()[:2] == ["NBIRTH", "DBIRTH"]
    assert host.results()[0].metrics["MeasId"] == 1


def test_a_broker_that_is_stopped_takes_nothing_and_nothing_counts(
    sink: Any, host: Host, broker: Mosquitto, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("line_worker.sink.mqtt.broker.CONFIRM_S", 0.5)
    broker.send(signal.SIGSTOP)
    sink.deliver(outcome(0), 0.0)
    with pytest.raises(SinkError, match="has not confirmed everything within"):
        sink.settle()
    broker.send(signal.SIGCONT)
    sink.deliver(outcome(0), 0.0)
    sink.settle()
    wait_for(lambda: {told.metrics["MeasId"] for told in host.results()} == {0})


@pytest.mark.parametrize("comes_back", [True, False])
def test_what_went_over_a_connection_that_is_lost_is_sent_again_over_the_next(
    sink: Any, host: Host, broker: Mosquitto, comes_back: bool
) -> None:
    broker.send(signal.SIGSTOP)
    sink.deliver(outcome(0), 0.0)  # which the broker never reads
    broker.kill()
    wait_for(lambda: not sink.reachable()[0])
    host.there = False
    if comes_back:
        broker.start()
    with pytest.raises(SinkError, match="went away before it had confirmed everything"):
        sink.deliver(outcome(1), 0.0)
    with pytest.raises(SinkError, match="went away before it had confirmed everything"):
        sink.settle()
    if not comes_back:
        broker.start()
    wait_for(lambda: host.there)
    for seq in (0, 1):
        sink.deliver(outcome(seq), 0.0)
    sink.settle()
    wait_for(lambda: [told.metrics["MeasId"] for told in host.results()] == [0, 1])


def test_a_broker_whose_rules_forbid_it_is_named_and_confirms_nothing(tmp_path: Path) -> None:
    running = denying(tmp_path, "subscribe")
    found = sink_at(running.port, tmp_path)
    try:
        with pytest.raises(SinkError, match=r"does not let us subscribe to .*NCMD/line-1 .*check .*the broker's rules"):
            found.open()
        assert not found.reachable()[0]
    finally:
        found.close()
        running.kill()


# ---- by itself -------------------------------------------------------------------------------------------------------


def test_all_numbers_begin_again_after_255() -> None:
    node = EdgeNode("g", "n", ["top"], 254)
    node.connects()
    assert decoded(*node.death(0)[:2]).bd_seq == 255
    node.connects()
    assert decoded(*node.death(0)[:2]).bd_seq == 0


def test_a_command_that_cannot_be_read_is_none() -> None:
    assert commands(b"\xff\xff") == {}
    assert commands(b"") == {}


def test_without_protobuf_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "line_worker.sink.sparkplug.node", None)
    with pytest.raises(SinkError, match=r"pip install line-worker\[sparkplug\]"):
        sink_at(1883, tmp_path).open()
