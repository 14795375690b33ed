"""Where outcomes go. A sink is opened, fed by `run`, and closed; each one is a process of its own.

The contract, obeyed by the PLC, the store, the log and the recorder alike and tested on each of them:
- `open` raises SinkError with what to do.
- `deliver` gets every outcome, in order per camera. True means "mine for good": the hub will not send it again.
  A durable sink that cannot take it now raises SinkError; the runner keeps it and tries again with backoff.
  One that sends without waiting for an answer says in `settle`, after each batch, whether all of it has arrived.
  A real-time sink takes it with `now + outcome.left_ms / 1000` as its latest moment, and drops it afterwards.
- `beat` gets the hub's state at least every 100 ms while decisions are made: heartbeats hang on it, nothing else.
- `poll` is called at most 20 ms apart, for handshakes and timers; `asks` then returns what the other side wants.
- `reachable` is (True, "") or (False, why), without blocking.
The shadow and the page take what they can and leave out the rest: the line owes them nothing and never waits for them.
Time (`now`, time.monotonic() seconds) is always an argument.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from line_worker.config import PlcSink, WrittenPlc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from line_worker.config import Config
    from line_worker.config import Sink as SinkConfig
    from line_worker.wire.messages import Crop, Frame, HubState, Outcome


class PartHere(NamedTuple):
    """A part has come, which triggers the cameras that wait for this sink: its count, its id, when it came (seconds).

    One that was `missed` has gone by: it gets an outcome and no picture.
    """

    number: int
    part_id: str
    at: float
    missed: bool = False


class RecipeWanted(NamedTuple):
    """The bundle of this number is to judge."""

    number: int


Ask = PartHere | RecipeWanted


class Sink(Protocol):
    """See the module's text."""

    durable: bool  # reads the outbox and acknowledges; otherwise real-time
    wants_frames: bool  # gets `tap` for every announced frame (recorder, shadow, page)
    wants_crops: bool  # gets `crop` (store)
    nice: int  # by how much its process gives way to the others; negative: it comes before them

    def open(self) -> None:
        """Make ready; SinkError when that is impossible now."""

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Take one outcome; see the module's text."""

    def settle(self) -> None:
        """Make sure of what was delivered since the last call; SinkError when none of it may be acknowledged."""

    def beat(self, state: HubState, now: float) -> None:
        """Take the hub's state."""

    def tap(self, frame: Frame, inline: bytes) -> None:
        """Take a copy of an announced frame: right before its outcome or, when that takes long, sooner."""

    def crop(self, crop: Crop) -> None:
        """Take a picture of an anomaly."""

    def poll(self, now: float) -> None:
        """Do what is due."""

    def asks(self) -> Sequence[Ask]:
        """Return what the other side has asked of the line since the last call."""

    def reachable(self) -> tuple[bool, str]:
        """Whether the other side can be reached, and why not."""

    def close(self) -> None:
        """Finish what is in hand and let go; may be called twice, and before `open`."""


class QuietSink:
    """What most sinks leave alone."""

    durable = True
    wants_frames = False
    wants_crops = False
    nice = 0

    def settle(self) -> None:
        """What was delivered is there."""

    def beat(self, state: HubState, now: float) -> None:
        """Ignore the hub's state."""

    def tap(self, frame: Frame, inline: bytes) -> None:
        """Ignore frames."""

    def crop(self, crop: Crop) -> None:
        """Ignore pictures."""

    def poll(self, now: float) -> None:
        """Nothing is ever due."""

    def asks(self) -> Sequence[Ask]:
        """Nothing is asked."""
        return ()

    def reachable(self) -> tuple[bool, str]:
        """Return that all is well."""
        return True, ""


def make_sink(sink: SinkConfig, config: Config) -> Sink:
    """Return the sink that `sink` names; nothing is opened yet."""
    if isinstance(sink, PlcSink | WrittenPlc):
        from line_worker.sink.plc import PlcOutput

        return PlcOutput(sink, config)
    if sink.kind == "gpio":
        from line_worker.sink.gpio import Gpio

        return Gpio(sink, config)
    if sink.kind == "opcua":
        from line_worker.sink.opcua import OpcUaOutput

        return OpcUaOutput(sink, config)
    if sink.kind == "mqtt":
        from line_worker.sink.mqtt import Mqtt

        return Mqtt(sink, config)
    if sink.kind == "sparkplug":
        from line_worker.sink.sparkplug import Sparkplug

        return Sparkplug(sink, config)
    if sink.kind == "nats":
        from line_worker.sink.nats import Nats

        return Nats(sink, config)
    if sink.kind == "kafka":
        from line_worker.sink.kafka import Kafka

        return Kafka(sink, config)
    if sink.kind == "webhook":
        from line_worker.sink.webhook import Webhook

        return Webhook(sink, config)
    if sink.kind == "store":
        from line_worker.sink.store import Store

        return Store(config.store_path, quota_bytes=int(sink.quota_mb * 1e6))
    if sink.kind == "record":
        from line_worker.sink.record import Recorder
        from line_worker.wire.recording_parts import Limits

        limits = Limits(sink.part_mb * 1e6, sink.part_minutes * 60, sink.quota_mb * 1e6)
        return Recorder(sink.path, config, sink.tolerance, limits, sink.compression)
    if sink.kind == "shadow":
        from line_worker.sink.shadow import Shadow

        return Shadow(sink, config)
    if sink.kind == "http":
        from line_worker.sink.http import Http

        return Http(sink, config)
    if sink.kind == "live":
        from line_worker.live import Live

        return Live(sink, config)
    from line_worker.sink.log import Log

    return Log(sink.path)
