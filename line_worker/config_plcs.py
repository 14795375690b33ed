"""What of line.toml says how a PLC gets the verdicts, a table for each kind of sink. None of them is durable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, model_validator

from line_worker.config_section import Name, Section
from line_worker.wire.hosts import is_loopback

Port = Annotated[int, Field(ge=1, le=65535)]
Queue = Annotated[int, Field(ge=1, le=64)]
Poll = Annotated[float, Field(ge=1, le=100)]
Tag = Annotated[str, Field(pattern=r"^(Program:[A-Za-z_]\w{0,39}\.)?[A-Za-z_]\w{0,39}$")]
Slot = Annotated[int, Field(ge=0, le=31)] | Literal["none"]
Line = Annotated[int, Field(ge=0, le=1023)] | Annotated[str, Field(min_length=1, max_length=31)]


class PlcSink(Section):
    """Modbus TCP: as `server` the PLC polls us, as `client` we write to the PLC at `host`."""

    durable: ClassVar[bool] = False
    kind: Literal["plc"]
    name: Name = "plc"
    mode: Literal["server", "client"] = "server"
    host: str = "127.0.0.1"
    port: Port = 5020
    unit: int = Field(default=1, ge=0, le=247)
    base: int = Field(default=0, ge=0, le=65000)  # address of the first register
    plc_heartbeat_ms: PositiveFloat = 1000.0  # an older heartbeat of the PLC is stale: nothing passes
    queue: Queue = 8  # results that may wait for acknowledgement; one more is a fault
    simulate: bool = False  # start the simulated PLC beside the line


class S7Sink(Section):
    """A Siemens PLC: over S7 (PUT/GET) we keep the register table in data block `db` of the CPU at `host`."""

    durable: ClassVar[bool] = False
    kind: Literal["s7"]
    name: Name = "s7"
    host: str = Field(min_length=1)
    port: Port = 102
    rack: int = Field(default=0, ge=0, le=7)
    slot: int = Field(default=1, ge=0, le=31)  # of the CPU: 1 in an S7-1200 or -1500, 2 in an S7-300
    db: int = Field(ge=1, le=65535)
    base: int = Field(default=0, ge=0, le=65360, multiple_of=2)  # the table's first byte; words begin at even ones
    poll_ms: Poll = 5.0  # between two looks while a result waits for acknowledgement
    plc_heartbeat_ms: PositiveFloat = 1000.0  # as for Modbus
    queue: Queue = 8


class OpcUaSink(Section):
    """An OPC UA server: OPC 40100 results for the plant and, with a handshake, the register table for one PLC."""

    durable: ClassVar[bool] = False
    kind: Literal["opcua"]
    name: Name = "opcua"
    host: str = "127.0.0.1"
    port: Port = 4840
    handshake: bool = True  # a PLC decides by it: the line does not run until that PLC has synchronised
    plc_heartbeat_ms: PositiveFloat = 1000.0
    queue: Queue = 8
    certificate: Path | None = None  # with it everything is encrypted; without it nothing is
    private_key: Path | None = None
    trusted: Path | None = None  # folder: certificates of the clients that may come in

    @model_validator(mode="after")
    def _complete(self) -> OpcUaSink:
        given = [name for name in ("certificate", "private_key", "trusted") if getattr(self, name) is not None]
        if len(given) in (1, 2):
            raise ValueError(f"certificate, private_key and trusted go together; given: {', '.join(given)}")
        return self


class OpcUaClientSink(Section):
    """A PLC with an OPC UA server of its own: we write the register table into its variables, one for each row."""

    durable: ClassVar[bool] = False
    kind: Literal["opcua-client"]
    name: Name = "opcua-client"
    url: str = Field(pattern=r"^opc\.tcp://[A-Za-z0-9.-]+(:\d{1,5})?(/[!-~]*)?$")
    nodes: str = Field(pattern=r"^[^{}]*\{name\}[^{}]*$")  # a row's variable: 'ns=3;s="LineWorker"."{name}"'
    poll_ms: Poll = 5.0
    plc_heartbeat_ms: PositiveFloat = 1000.0
    queue: Queue = 8
    username: str = ""
    password_file: Path | None = None  # mode 0400
    policy: Literal["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"] = "Basic256Sha256"
    certificate: Path | None = None  # our own; with it everything is signed and encrypted, without it nothing is
    private_key: Path | None = None
    server_certificate: Path | None = None  # the PLC's: no other server is spoken to

    @property
    def host(self) -> str:
        """The PLC's name or address."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        """The PLC's port."""
        return urlsplit(self.url).port or 4840

    @model_validator(mode="after")
    def _consistent(self) -> OpcUaClientSink:
        files = ("certificate", "private_key", "server_certificate")
        given = [name for name in files if getattr(self, name) is not None]
        if len(given) in (1, 2):
            raise ValueError(f"certificate, private_key and server_certificate go together; given: {', '.join(given)}")
        if self.password_file and not self.username:
            raise ValueError("password_file is of no use without username")
        if self.password_file and not given and not is_loopback(self.host):
            raise ValueError("the password would cross the network in the clear; set certificate and its companions")
        return self


class EtherNetIpSink(Section):
    """A Logix PLC: over EtherNet/IP (CIP) we keep the register table in two arrays of the controller at `host`."""

    durable: ClassVar[bool] = False
    kind: Literal["ethernet-ip"]
    name: Name = "ethernet-ip"
    host: str = Field(min_length=1)
    port: Port = 44818
    slot: Slot = 0  # of the processor; "none" where there is no backplane
    to_plc: Tag = "FromStation"  # INT[51]
    from_plc: Tag = "ToStation"  # INT[24]
    poll_ms: Poll = 5.0
    plc_heartbeat_ms: PositiveFloat = 1000.0
    queue: Queue = 8


class GpioSink(Section):
    """Digital outputs of this host: lines of a Linux GPIO chip. Whatever goes wrong, they reject."""

    durable: ClassVar[bool] = False
    kind: Literal["gpio"]
    name: Name = "gpio"
    chip: Path = Path("/dev/gpiochip0")
    pass_line: Line | None = None  # number or name; on for `pass_ms` after a PASS
    reject_line: Line | None = None  # on while nothing passes or, with `reject_ms`, for so long after a reject
    heartbeat_line: Line | None = None  # changes as long as the station decides
    stop_line: Line | None = None  # on while the line should stand still, and while the station does not run
    pass_ms: float = Field(default=50.0, ge=5, le=10_000)
    reject_ms: float = Field(default=0.0, ge=0, le=10_000)
    gap_ms: float = Field(default=10.0, ge=1, le=10_000)  # between two pulses on one line
    heartbeat_ms: float = Field(default=100.0, ge=20, le=1000)  # between two changes
    active_low: tuple[Literal["pass", "reject", "heartbeat", "stop"], ...] = ("reject", "stop")  # on is 0 V
    camera: str = ""  # whose parts; may be left out where there is one camera only

    @property
    def lines(self) -> dict[str, int | str]:
        """The lines that are wired, by what they say."""
        wired = {name: getattr(self, f"{name}_line") for name in ("pass", "reject", "heartbeat", "stop")}
        return {name: line for name, line in wired.items() if line is not None}

    @model_validator(mode="after")
    def _consistent(self) -> GpioSink:
        if self.pass_line is None and self.reject_line is None:
            raise ValueError("give pass_line or reject_line: without them nobody learns of a verdict")
        if len(set(self.lines.values())) < len(self.lines):
            raise ValueError("two of its lines are the same")
        return self


PLCS: dict[str, type[Section]] = {
    "plc": PlcSink,
    "s7": S7Sink,
    "opcua": OpcUaSink,
    "opcua-client": OpcUaClientSink,
    "ethernet-ip": EtherNetIpSink,
    "gpio": GpioSink,
}
WrittenPlc = S7Sink | OpcUaClientSink | EtherNetIpSink  # whose memory we write
