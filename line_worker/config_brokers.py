"""What of line.toml says how outcomes get to a broker of the plant: MQTT, Sparkplug B, NATS, Kafka. All are durable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from line_worker.config_plcs import Port
from line_worker.config_section import Name, Section
from line_worker.wire.hosts import is_loopback

Server = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*:\d{1,5}$")]
Servers = Annotated[tuple[Server, ...], Field(min_length=1, max_length=16)]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]  # what stands between the dots of a subject
Level = Annotated[str, Field(pattern=r"^[^/+#\x00]+$", max_length=64)]  # what stands between the strokes of a topic


class Broker(Section):
    """Who we are to a broker, and how we know that it is the one."""

    durable: ClassVar[bool] = True
    username: str = ""
    password_file: Path | None = None  # mode 0400
    tls: bool = False
    ca: Path | None = None  # what signs the broker's certificate; default: whom this host trusts
    certificate: Path | None = None  # our own, where the broker asks for one
    private_key: Path | None = None

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Hosts and ports that we may speak to."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.tls and (self.ca or self.certificate):
            raise ValueError("ca and certificate are of no use without tls = true")
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together")
        if self.password_file and not self.username:
            raise ValueError("password_file is of no use without username")
        if self.password_file and not self.tls and not all(is_loopback(host) for host, _ in self.places):
            raise ValueError("the password would cross the network in the clear; set tls = true")
        return self


class MqttBroker(Broker):
    """A broker that speaks MQTT."""

    name: Name
    host: str = "127.0.0.1"
    port: Port | None = None  # 1883, with TLS 8883

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Where the broker is."""
        return ((self.host, self.at_port),)

    @property
    def at_port(self) -> int:
        """The broker's port."""
        return self.port or (8883 if self.tls else 1883)


class MqttSink(MqttBroker):
    """Outcomes as JSON with QoS 1, the station's state retained, a last will."""

    kind: Literal["mqtt"]
    name: Name = "mqtt"
    prefix: str = Field(default="line-worker", pattern=r"^[^/+#\x00]+(/[^/+#\x00]+)*$")  # of every topic


class SparkplugSink(MqttBroker):
    """The station as an edge node of Sparkplug B, each camera a device of it."""

    kind: Literal["sparkplug"]
    name: Name = "sparkplug"
    group: Level = "line-worker"
    node: Level | Literal[""] = ""  # default: the line's name


class NatsSink(Broker):
    """Outcomes as JSON into a stream of NATS JetStream, which is made where it is missing."""

    kind: Literal["nats"]
    name: Name = "nats"
    servers: Servers = ("127.0.0.1:4222",)
    prefix: Word = "line-worker"  # subjects: PREFIX.LINE.CAMERA
    stream: Word = "line-worker"
    duplicates_s: float = Field(default=120.0, ge=1, le=86_400)  # so long a stream that we make knows what it has

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Where the servers are."""
        return tuple(_place(server) for server in self.servers)


class KafkaSink(Broker):
    """Outcomes as JSON into a topic of Kafka, keyed by ResultId."""

    kind: Literal["kafka"]
    name: Name = "kafka"
    servers: Servers = ("127.0.0.1:9092",)
    topic: str = Field(default="line-worker", pattern=r"^[A-Za-z0-9._-]{1,249}$")
    sasl: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"  # with a username

    @property
    def places(self) -> tuple[tuple[str, int], ...]:
        """Where the first brokers are."""
        return tuple(_place(server) for server in self.servers)


def _place(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    return host, int(port)


BROKERS: dict[str, type[Section]] = {
    "mqtt": MqttSink,
    "sparkplug": SparkplugSink,
    "nats": NatsSink,
    "kafka": KafkaSink,
}
