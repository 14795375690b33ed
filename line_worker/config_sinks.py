"""What of line.toml says where outcomes go, a table for each kind of sink.

A `durable` sink is owed every outcome until it has acknowledged it; the others get it once, while it is of use.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from line_worker.config_brokers import BROKERS
from line_worker.config_brokers import Broker as Broker
from line_worker.config_brokers import KafkaSink as KafkaSink
from line_worker.config_brokers import MqttBroker as MqttBroker
from line_worker.config_brokers import MqttSink as MqttSink
from line_worker.config_brokers import NatsSink as NatsSink
from line_worker.config_brokers import SparkplugSink as SparkplugSink
from line_worker.config_plcs import PLCS, Port
from line_worker.config_plcs import EtherNetIpSink as EtherNetIpSink
from line_worker.config_plcs import GpioSink as GpioSink
from line_worker.config_plcs import OpcUaClientSink as OpcUaClientSink
from line_worker.config_plcs import OpcUaSink as OpcUaSink
from line_worker.config_plcs import PlcSink as PlcSink
from line_worker.config_plcs import S7Sink as S7Sink
from line_worker.config_plcs import WrittenPlc as WrittenPlc
from line_worker.config_section import Name, Section
from line_worker.wire.hosts import is_loopback


class WebhookSink(Section):
    """A web server of the plant: outcomes as signed JSON."""

    durable: ClassVar[bool] = True
    kind: Literal["webhook"]
    name: Name = "webhook"
    url: str = Field(pattern=r"^https?://[A-Za-z0-9.-]+(:\d{1,5})?(/[!-~]*)?$")
    secret_file: Path  # what the body is signed with; mode 0400
    ca: Path | None = None  # what signs the server's certificate; default: whom this host trusts
    timeout_s: float = Field(default=5.0, gt=0, le=10)  # for one request, from connecting to the whole answer
    batch: int = Field(default=100, ge=1, le=256)  # results in one request, when so many wait

    @field_validator("url")
    @classmethod
    def _has_port(cls, url: str) -> str:
        port = urlsplit(url).port  # ValueError: out of range
        if port == 0:
            raise ValueError("the port should be between 1 and 65535")
        return url


class StoreSink(Section):
    """Outcomes in SQLite, crops and overlays as files under a quota, oldest dropped first."""

    durable: ClassVar[bool] = True
    kind: Literal["store"]
    name: Name = "store"
    path: Path | None = None  # default: `store` in the line's data folder
    quota_mb: PositiveFloat = 1024.0


class LogSink(Section):
    """Outcomes as JSON lines, to a file or to standard output."""

    durable: ClassVar[bool] = True
    kind: Literal["log"]
    name: Name = "log"
    path: Path | None = None


class RecordSink(Section):
    """Frames and outcomes into an MCAP recording."""

    durable: ClassVar[bool] = True
    kind: Literal["record"]
    name: Name = "record"
    path: Path
    tolerance: float = Field(default=1e-3, ge=0)  # how far a replayed score may lie off, as a share of its threshold
    part_mb: float = Field(default=0.0, ge=0)  # a new file after so much, 0: never
    part_minutes: float = Field(default=0.0, ge=0)  # or after so long, 0: never
    compression: Literal["none", "png", "delta"] = "none"  # of the pictures; all lossless
    quota_mb: float = Field(default=0.0, ge=0)  # all parts together; the oldest are dropped, 0: none

    @model_validator(mode="after")
    def _consistent(self) -> RecordSink:
        if self.quota_mb and not self.part_mb:
            raise ValueError("quota_mb drops whole parts: set part_mb, too")
        if self.quota_mb and self.quota_mb < 2 * self.part_mb:
            raise ValueError("quota_mb should be at least twice part_mb: the part being written counts")
        return self


class ShadowSink(Section):
    """A second bundle that judges the line's pictures and decides nothing; what it is too slow for, it leaves out."""

    durable: ClassVar[bool] = False
    kind: Literal["shadow"]
    name: Name = "shadow"
    bundle: Path
    device: str = Field(default="cpu", pattern=r"^(auto|cpu|cuda(:\d+)?)$")  # not the workers' GPU, unless told to
    runtime: Literal["auto", "torch", "openvino"] = "auto"
    threads: PositiveInt = 1
    give_way: bool = True  # runs only when nobody else wants the processor; on a host that is always busy, never
    quota_mb: PositiveFloat = 256.0  # pictures of disagreements; the oldest are dropped beyond this


class Served(Section):
    """What we serve over HTTP, for this host; off loopback only with a token and TLS."""

    host: str = Field(default="127.0.0.1", pattern=r"^[A-Za-z0-9][A-Za-z0-9.-]*$")
    token_file: Path | None = None  # what whoever comes must know; mode 0400
    certificate: Path | None = None  # with its key: TLS
    private_key: Path | None = None

    @model_validator(mode="after")
    def _private(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("certificate and private_key go together")
        if not is_loopback(self.host) and (self.token_file is None or self.certificate is None):
            raise ValueError(
                f"host = {self.host!r}: other hosts can reach it, which needs token_file, certificate and private_key"
            )
        return self


class LiveSink(Served):
    """The page to look at. `serve` adds one by itself."""

    durable: ClassVar[bool] = False
    kind: Literal["live"]
    name: Name = "live"
    port: Port = 8642
    quota_mb: PositiveFloat = 256.0  # pictures of rejects; the oldest are dropped beyond this


class HttpSink(Served):
    """Clients post that a part has come, and get its verdict in the answer."""

    durable: ClassVar[bool] = False
    kind: Literal["http"]
    name: Name = "http"
    port: Port = 8643


Sink = Annotated[
    PlcSink
    | S7Sink
    | OpcUaSink
    | OpcUaClientSink
    | EtherNetIpSink
    | GpioSink
    | MqttSink
    | SparkplugSink
    | NatsSink
    | KafkaSink
    | WebhookSink
    | StoreSink
    | LogSink
    | RecordSink
    | ShadowSink
    | LiveSink
    | HttpSink,
    Field(discriminator="kind"),
]
SINKS: dict[str, type[Section]] = (
    PLCS
    | BROKERS
    | {
        "webhook": WebhookSink,
        "store": StoreSink,
        "log": LogSink,
        "record": RecordSink,
        "shadow": ShadowSink,
        "live": LiveSink,
        "http": HttpSink,
    }
)
