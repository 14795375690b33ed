"""The Sparkplug B sink: the station as an edge node, its cameras as devices, over MQTT.

    spBv1.0/GROUP/NBIRTH|NDATA|NDEATH/NODE      the station's state and its cause; NDEATH is also the broker's to send
    spBv1.0/GROUP/DBIRTH|DDATA/NODE/CAMERA      every outcome, as metrics
    spBv1.0/GROUP/NCMD/NODE                     a host asks for a rebirth

Durable, though Sparkplug's data has QoS 0: after each batch the sink subscribes to its commands again, and a broker
that answers has taken all that came before on this connection. Results from before a birth are marked historical. A
result whose answer was lost is sent again: ResultId tells, it never changes.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import structlog

from line_worker.errors import SinkError
from line_worker.sink import QuietSink
from line_worker.sink.again import Again
from line_worker.sink.machine_vision import silent_state, simulated_cameras, state_of
from line_worker.sink.recent import RecentKeys

if TYPE_CHECKING:
    from line_worker.config import Config, SparkplugSink
    from line_worker.sink.mqtt.broker import Broker
    from line_worker.sink.sparkplug.node import EdgeNode
    from line_worker.wire.messages import FrameKey, HubState, Outcome

log = structlog.get_logger()

HUB_SILENT_S = 1.0


class Sparkplug(QuietSink):
    """The sink for one broker."""

    def __init__(self, sink: SparkplugSink, config: Config) -> None:
        self._sink, self._config = sink, config
        self._simulated = simulated_cameras(config)
        self._number = config.line.data / f"{sink.name}.bdseq"
        self._broker: Broker | None = None
        self._node: EdgeNode | None = None
        self._waiting: list[FrameKey] = []
        self._taken = RecentKeys()
        self._state: dict[str, Any] = {}
        self._hub_at = float("inf")
        self._again = Again("broker")
        self.duplicates = 0

    def open(self) -> None:
        """Connect, and make the station known.

        Raises:
            SinkError: paho-mqtt or protobuf is missing, the password cannot be read, or the broker cannot be reached.
        """
        try:
            from line_worker.sink.mqtt.broker import Broker
            from line_worker.sink.sparkplug.node import EdgeNode
        except ImportError as error:
            raise SinkError(
                f"sink {self._sink.name}: paho-mqtt or protobuf is not installed ({error}); outcomes stay with the "
                "hub; pip install line-worker[sparkplug]"
            ) from error
        name = self._sink.node or self._config.line.name
        devices = [camera.name for camera in self._config.cameras] + [parts.name for parts in self._config.parts]
        self._node = EdgeNode(self._sink.group, name, devices, self._last_number())
        self._broker = Broker(self._sink, f"line-worker-{self._config.line.name}-{self._sink.name}")
        self._connect()

    def _last_number(self) -> int:
        try:
            return int(self._number.read_text("ascii")) % 256
        except (OSError, ValueError):
            return -1  # the first one there is

    def _connect(self) -> None:
        assert self._broker is not None, "deliver before open"
        assert self._node is not None
        self._node.connects()
        with suppress(OSError):  # a number that is used twice confuses a host for one connection at most
            self._number.parent.mkdir(parents=True, exist_ok=True)
            self._number.write_text(str(self._node.bd_seq), "ascii")
        self._broker.connect(self._node.death(_now_ms()))
        self._broker.subscribe(self._node.commands)
        self._tell_births()

    def _tell_births(self) -> None:
        assert self._broker is not None
        assert self._node is not None
        for message in self._node.births(_now_ms()):
            self._broker.publish(message)

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Send `outcome` off; `settle` says whether it has arrived.

        Raises:
            SinkError: the broker cannot be reached, or has gone since the last `settle`.
        """
        if outcome.key in self._taken:
            self.duplicates += 1
            return True
        assert self._broker is not None, "deliver before open"
        assert self._node is not None
        if not self._broker.connected:
            if self._waiting:  # `settle` must not take a new connection's answer for what went over the old one
                raise self._broker.lost()
            self._connect()
        self._broker.publish(self._node.result(outcome, simulated=outcome.key.camera in self._simulated))
        self._waiting.append(outcome.key)
        return True

    def settle(self) -> None:
        """Wait until the broker has taken everything that was delivered.

        Raises:
            SinkError: it has not in time; none of it counts as delivered.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            assert self._broker is not None
            assert self._node is not None
            self._broker.subscribe(self._node.commands)
            for key in waiting:
                self._taken.add(key)

    def beat(self, state: HubState, now: float) -> None:
        """Take the hub's state; it is told when it changes."""
        self._state, self._hub_at = state_of(state), now

    def poll(self, now: float) -> None:
        """Tell a state that has changed, answer hosts, look for a broker that is away."""
        if now - self._hub_at > HUB_SILENT_S:
            self._state = silent_state(self._state)
        if self._broker is None:
            return
        if self._broker.connected:
            self._again.attempt(self._keep_up, now)
        elif self._again.due(now):
            self._again.attempt(self._connect, now)

    def _keep_up(self) -> None:
        self._answer()
        self._tell_state()

    def _answer(self) -> None:
        from line_worker.sink.sparkplug.node import REBIRTH
        from line_worker.sink.sparkplug.payload import commands

        assert self._broker is not None
        if any(commands(message.payload).get(REBIRTH) for message in self._broker.heard()):
            log.info("a host asks for a rebirth")
            self._tell_births()

    def _tell_state(self) -> None:
        assert self._broker is not None
        assert self._node is not None
        for message in self._node.state(self._state, _now_ms()):
            self._broker.publish(message)

    def reachable(self) -> tuple[bool, str]:
        """Whether the broker is there, and why not."""
        if self._broker is not None and self._broker.connected:
            return True, ""
        return False, self._again.trouble or (self._broker.trouble if self._broker is not None else "not open")

    def close(self) -> None:
        """Say that the station is gone, and leave."""
        if self._broker is not None:
            assert self._node is not None
            self._broker.close(self._node.death(_now_ms()))
            self._broker = None


def _now_ms() -> int:
    return int(time.time() * 1000)
