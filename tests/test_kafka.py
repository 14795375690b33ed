"""The Kafka sink against librdkafka's own cluster, a process of its own: keys and outages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_line import HOST, sink_of
from line_worker.errors import ConfigError, SinkError
from line_worker.ports import free_port
from plc_station import outcome
from stopping import send_signal

kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is missing: pip install 'line-worker[kafka]'")

CLUSTER = """
import time
from confluent_kafka import Producer
cluster = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 3, "log_level": 0})
print(",".join(f"{b.host}:{b.port}" for b in cluster.list_topics(timeout=10).brokers.values()), flush=True)
time.sleep(600)
"""


class Cluster:
    """Three brokers in one process."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", CLUSTER], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.servers = self.process.stdout.readline().strip().split(",")

    def send(self, what: signal.Signals) -> None:
        send_signal(self.process.pid, what)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def messages(
        self, topic: str, count: int, patience_s: float = 20.0
    ) -> list[tuple[str, dict[str, Any], dict[str, bytes]]]:
        """Return what the topic has, once that is `count` messages: key, message, headers."""
        settings = {"bootstrap.servers": ",".join(self.servers), "group.id": "test", "auto.offset.reset": "earliest"}
        consumer = kafka.Consumer(settings)
        found: list[tuple[str, dict[str, Any], dict[str, bytes]]] = []
        partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([kafka.TopicPartition(topic, number, 0) for number in partitions])
        try:
            until = time.monotonic() + patience_s
            while partitions and len(found) < count and time.monotonic() < until:
                message = consumer.poll(0.2)
                if message is not None and message.error() is None:
                    found.append((message.key().decode(), json.loads(message.value()), dict(message.headers())))
            while (message := consumer.poll(0.2)) is not None and message.error() is None:
                found.append((message.key().decode(), json.loads(message.value()), dict(message.headers())))
        finally:
            consumer.close()
        return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    running = Cluster()
    yield running
    running.kill()


def settings(cluster: Cluster, topic: str, **more: Any) -> dict[str, Any]:
    return {"kind": "kafka", "servers": cluster.servers, "topic": topic} | more


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)


@pytest.fixture
def sink(cluster: Cluster, topic: str) -> Iterator[Any]:
    found = sink_of(settings(cluster, topic))
    found.open()
    yield found
    found.close()


def test_an_outcome_is_stored_under_its_id(cluster: Cluster, sink: Any, topic: str) -> None:
    for seq in (0, 1, 0):
        sink.deliver(outcome(seq, reason=seq), 0.0)
        sink.settle()
    found = cluster.messages(topic, 2)
    assert sorted(key for key, _, _ in found) == ["line-1/top/7/0", "line-1/top/7/1"]
    key, message, headers = next(one for one in found if one[0].endswith("/1"))
    assert (message["ResultId"]["Id"], message["ResultContent"][0]["Verdict"]) == (key, "FAIL")
    assert headers == {"line": b"line-1", "camera": b"top"}
    assert sink.duplicates == 1


def test_it_keeps_up_with_200_outcomes_a_second(cluster: Cluster, sink: Any, topic: str) -> None:
    start = time.monotonic()
    for seq in range(400):
        sink.deliver(outcome(seq), 0.0)
    sink.settle()
    assert time.monotonic() - start < 2
    assert len(cluster.messages(topic, 400)) == 400


def test_brokers_that_stand_still_store_nothing_that_counts_and_get_it_again(
    cluster: Cluster, sink: Any, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("line_worker.sink.kafka.topic.CONFIRM_S", 1.0)
    monkeypatch.setattr("line_worker.sink.kafka.topic.CONNECT_S", 1.0)
    sink.deliver(outcome(0), 0.0)
    sink.settle()
    cluster.send(signal.SIGSTOP)
    try:
        sink.deliver(outcome(1), 0.0)
        with pytest.raises(SinkError, match=r"has not stored everything .*outcomes stay with the hub"):
            sink.settle()
        assert not sink.reachable()[0]
        with pytest.raises(SinkError, match=rf"Kafka {HOST}.*topic {topic}: cannot be reached"):
            sink.deliver(outcome(1), 0.0)
    finally:
        cluster.send(signal.SIGCONT)
    monkeypatch.undo()  # brokers that have just gone on need their time
    assert sink.deliver(outcome(1), 0.0)
    sink.settle()
    assert sink.reachable() == (True, "")
    assert {key for key, _, _ in cluster.messages(topic, 2)} == {"line-1/top/7/0", "line-1/top/7/1"}


def test_brokers_that_are_killed_are_told_and_closing_stays_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("line_worker.sink.kafka.topic.CONFIRM_S", 1.0)
    monkeypatch.setattr("line_worker.sink.kafka.topic.CONNECT_S", 1.0)
    mortal = Cluster()
    found = sink_of(settings(mortal, "killed"))
    found.open()
    mortal.kill()
    found.deliver(outcome(0), 0.0)
    with pytest.raises(SinkError, match="has not stored everything"):
        found.settle()
    with pytest.raises(SinkError, match="cannot be reached"):
        found.deliver(outcome(0), 0.0)
    start = time.monotonic()
    found.close()
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"servers": ["kafka"]}, "should match"),
        ({"topic": "a b"}, "topic = 'a b'"),
        ({"sasl": "GSSAPI"}, "sasl = 'GSSAPI'"),
        (
            {"servers": ["127.0.0.1:9092", "kafka.plant:9092"], "username": "u", "password_file": "p"},
            "the password would cross the network in the clear",
        ),
    ],
)
def test_what_it_may_not_be(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as problem:
        sink_of({"kind": "kafka"} | more)
    assert says in str(problem.value)


def test_a_certificate_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    found = sink_of({"kind": "kafka", "servers": [f"{HOST}:{free_port()}"], "tls": True, "ca": str(tmp_path / "none")})
    with pytest.raises(SinkError, match=r"ssl\.ca\.location failed"):
        found.open()


def test_without_confluent_kafka_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "line_worker.sink.kafka.topic", None)
    with pytest.raises(SinkError, match=r"pip install line-worker\[kafka\]"):
        sink_of({"kind": "kafka"}).open()
