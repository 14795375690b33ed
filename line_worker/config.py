"""line.toml -> frozen, checked configuration.

The file is checked whole: every problem is reported at once, each with its key, its value, what is allowed, and a near
name for a mistyped key. Relative paths are relative to the file's folder.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, Field, PositiveInt

from line_worker.config_problems import across, explain
from line_worker.config_problems import without_credentials as without_credentials
from line_worker.config_rules import Checks, LineRules
from line_worker.config_section import PORTS as PORTS
from line_worker.config_section import Loopback, Name, Tcp
from line_worker.config_section import Section as Section
from line_worker.config_sinks import SINKS
from line_worker.config_sinks import Broker as Broker
from line_worker.config_sinks import EtherNetIpSink as EtherNetIpSink
from line_worker.config_sinks import GpioSink as GpioSink
from line_worker.config_sinks import HttpSink as HttpSink
from line_worker.config_sinks import KafkaSink as KafkaSink
from line_worker.config_sinks import LiveSink as LiveSink
from line_worker.config_sinks import LogSink as LogSink
from line_worker.config_sinks import MqttBroker as MqttBroker
from line_worker.config_sinks import MqttSink as MqttSink
from line_worker.config_sinks import NatsSink as NatsSink
from line_worker.config_sinks import OpcUaClientSink as OpcUaClientSink
from line_worker.config_sinks import OpcUaSink as OpcUaSink
from line_worker.config_sinks import PlcSink as PlcSink
from line_worker.config_sinks import RecordSink as RecordSink
from line_worker.config_sinks import S7Sink as S7Sink
from line_worker.config_sinks import ShadowSink as ShadowSink
from line_worker.config_sinks import Sink as Sink
from line_worker.config_sinks import SparkplugSink as SparkplugSink
from line_worker.config_sinks import StoreSink as StoreSink
from line_worker.config_sinks import WebhookSink as WebhookSink
from line_worker.config_sinks import WrittenPlc as WrittenPlc
from line_worker.config_sources import BaslerSource as BaslerSource
from line_worker.config_sources import CameraSource as CameraSource
from line_worker.config_sources import FolderSource as FolderSource
from line_worker.config_sources import GenicamSource as GenicamSource
from line_worker.config_sources import GigeSource as GigeSource
from line_worker.config_sources import ReplaySource as ReplaySource
from line_worker.config_sources import Source as Source
from line_worker.config_sources import SyntheticSource as SyntheticSource
from line_worker.config_sources import VideoSource as VideoSource
from line_worker.config_triggers import FreeTrigger as FreeTrigger
from line_worker.config_triggers import HardwareTrigger as HardwareTrigger
from line_worker.config_triggers import IntervalTrigger as IntervalTrigger
from line_worker.config_triggers import Parts as Parts
from line_worker.config_triggers import Recipe as Recipe
from line_worker.config_triggers import SinkTrigger as SinkTrigger
from line_worker.config_triggers import Trigger
from line_worker.errors import ConfigError

STUB = Path("stub")
STUB_LIMIT = 1.0  # what a stub would fail parts above, if it scored any


class Camera(Checks):
    """One camera: its source, and by when each of its parts must have an answer."""

    name: Name
    deadline_ms: float = Field(gt=0, le=600_000)
    window: int = Field(default=16, ge=1, le=256)
    max_frame_mb: float = Field(default=4.0, gt=0, le=256)
    transport: Literal["ring", "inline"] = "ring"
    frozen: Literal["refuse", "allow"] = "refuse"  # the same bytes as the picture before
    source: Source
    trigger: Trigger = FreeTrigger()

    @property
    def ring_slots(self) -> int:
        """Slots of the shared-memory ring: the window, and as many again for readers that copy late (a recorder)."""
        return 2 * self.window + 2


# ---- workers ---------------------------------------------------------------------------------------------------------


class Workers(Section):
    """How many workers, with which bundle, on which device. `bundle = "stub"` measures the line alone."""

    bundle: Path
    count: int = Field(default=1, ge=1, le=64)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    runtime: Literal["auto", "torch", "openvino"] = "auto"  # auto: openvino on a CPU where it is installed
    batch: int = Field(default=4, ge=1, le=256)
    threads: PositiveInt | None = None
    growth_mb: float = Field(default=1024.0, ge=0)  # more than when it was warm, and it is replaced; 0: never
    growth_descriptors: int = Field(default=256, ge=0)  # likewise
    stub_blind: bool = False  # the stub passes canaries, too
    stub_ms: float = Field(default=0.0, ge=0)  # how long the stub pretends to compute for one frame

    @property
    def stub(self) -> bool:
        """Whether the workers carry no model."""
        return self.bundle == STUB


# ---- the whole -------------------------------------------------------------------------------------------------------


class Keys(Section):
    """Where this host's keys lie, and which of them each role uses."""

    dir: Path
    hub: Name = "hub"
    source: Name = "source"
    worker: Name = "worker"
    sink: Name = "sink"


class LineSection(Section):
    """What the line is called and where its sockets and its books live."""

    name: Name
    runtime: Path
    data: Path
    tcp: Tcp = ""  # where the hub is, for every host the same
    keys: Keys | None = None
    metrics: Loopback = ""  # where /metrics and /health are served; loopback only, they ask nobody who they are
    live: bool = True  # `serve` shows the page, where no sink of kind "live" says otherwise
    stop_s: float = Field(default=5.0, ge=0, le=60)  # how long an orderly stop may take
    ballast_mb: float = Field(default=16.0, ge=0, le=10_000)  # given back when the journal's disk is full; 0: none


class Config(Section):
    """One line: cameras, the parts that several of them look at, workers, recipes, sinks."""

    line: LineSection
    cameras: tuple[Camera, ...] = Field(min_length=1)
    parts: tuple[Parts, ...] = ()
    workers: Workers
    recipes: tuple[Recipe, ...] = ()
    sinks: tuple[Sink, ...] = ()

    def deadline_ms(self, name: str) -> float:
        """Milliseconds that a part of the camera, or of the parts, called `name` may take."""
        known = {camera.name: camera.deadline_ms for camera in self.cameras}
        longest = {p.name: p.deadline_ms or max(known[camera] for camera in p.cameras) for p in self.parts}
        return (known | longest)[name]

    def views(self) -> set[str]:
        """Return the cameras whose pictures count only together with others'."""
        return {camera for parts in self.parts for camera in parts.cameras}

    def fires(self, sink: str) -> bool:
        """Whether a camera waits for what the other side of `sink` says."""
        return any(isinstance(c.trigger, SinkTrigger) and c.trigger.sink == sink for c in self.cameras)

    @property
    def store_path(self) -> Path:
        """Folder of the store sink."""
        store = next((s for s in self.sinks if isinstance(s, StoreSink)), None)
        return (store.path if store and store.path else None) or self.line.data / "store"

    def shadow_path(self, sink: ShadowSink) -> Path:
        """Folder of a shadow's pictures; its book lies beside, with the suffix .sqlite."""
        return self.line.data / f"shadow-{sink.name}"

    def live_path(self, sink: LiveSink) -> Path:
        """Folder of the pictures that a page keeps."""
        return self.line.data / f"{sink.name}-pictures"

    @property
    def journal_path(self) -> Path:
        """The hub's journal."""
        return self.line.data / "journal.sqlite"

    def public_json(self) -> str:
        """Return the configuration as JSON, without the user names and passwords in URLs of cameras."""
        return without_credentials(self.model_dump_json())

    @property
    def frame_bytes(self) -> int:
        """Bytes of the largest frame any camera may send."""
        return int(max(c.max_frame_mb for c in self.cameras) * 1e6)


Check = Callable[[dict[str, Any], Path], list[str]]  # what was read, and its folder -> problems


def load(path: Path, *also: Check) -> Config:
    """Read and check the configuration file at `path` (TOML; JSON is what `serve` leaves for its children).

    `also` are checks beyond what each reader of it needs.

    Raises:
        ConfigError: listing every problem of the file.
    """
    try:
        text = path.read_text("utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), [f"cannot be read: {error}; give the path of a line.toml"]) from error
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(str(path), [f"is not {path.suffix.lstrip('.').upper() or 'TOML'}: {error}"]) from error
    if not isinstance(raw, dict):
        raise ConfigError(str(path), ["holds no tables; start from the annotated line.toml in systemd/"])
    return parse(raw, str(path), path.resolve().parent, *also)


def parse(raw: dict[str, Any], where: str = "configuration", base: Path | None = None, *also: Check) -> Config:
    """Check `raw`; relative paths are taken from `base`.

    Raises:
        ConfigError: listing every problem.
    """
    base = base or Path.cwd()
    problems = [problem for check in (across, *also) for problem in check(raw, base)]
    try:
        # JSON, in which lists are tuples and texts paths, can be strict all the same: "300" is no number
        config = Config.model_validate_json(json.dumps(raw, default=str), strict=True)
    except pydantic.ValidationError as error:
        raise ConfigError(where, [*explain(error, _SECTIONS), *problems]) from None
    if problems:
        raise ConfigError(where, problems)
    return _absolute(config, base)


def _absolute(config: Config, base: Path) -> Config:
    def walk(value: Any) -> Any:
        if isinstance(value, Path):
            return base / value.expanduser()
        if isinstance(value, BaseModel):
            return value.model_copy(update={name: walk(getattr(value, name)) for name in type(value).model_fields})
        return tuple(walk(item) for item in value) if isinstance(value, tuple) else value

    result = walk(config)
    assert isinstance(result, Config)
    if config.workers.stub:
        result = result.model_copy(update={"workers": result.workers.model_copy(update={"bundle": STUB})})
    return result


_SECTIONS: dict[str, type[Section]] = {
    "": Config,
    "line": LineSection,
    "keys": Keys,
    "workers": Workers,
    "cameras": Camera,
    "parts": Parts,
    "recipes": Recipe,
    "free": FreeTrigger,
    "hardware": HardwareTrigger,
    "interval": IntervalTrigger,
    "sink": SinkTrigger,
    "rules": LineRules,
    "folder": FolderSource,
    "video": VideoSource,
    "camera": CameraSource,
    "genicam": GenicamSource,
    "gige": GigeSource,
    "basler": BaslerSource,
    "synthetic": SyntheticSource,
    "replay": ReplaySource,
    **SINKS,
}
