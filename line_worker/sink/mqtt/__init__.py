"""The MQTT sink: outcomes and the station's state as JSON in the words of OPC 40100.

    PREFIX/LINE/CAMERA/result    every outcome, QoS 1, not retained
    PREFIX/LINE/state            the station's state and its cause, retained; Error once the hub is silent
    PREFIX/LINE/online           {"Online": true} or false, retained; the broker itself says false when we vanish

Durable: an outcome is acknowledged to the hub when the broker has confirmed it (PUBACK), never before; one that speaks
MQTT 5 tells there whether its rules allow it. Outcomes go out without waiting for one another; `settle` waits for all
of them. While the broker is away, or forbids it, everything stays in the journal. An outcome whose confirmation was
lost is sent again: ResultId tells, it never changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from line_worker.errors import SinkError
from line_worker.sink import QuietSink
from line_worker.sink.again import Again
from line_worker.sink.machine_vision import result_of, silent_state, simulated_cameras, state_of
from line_worker.sink.messages import encoded
from line_worker.sink.mqtt.message import Message
from line_worker.sink.recent import RecentKeys

if TYPE_CHECKING:
    from line_worker.config import Config, MqttSink
    from line_worker.sink.mqtt.broker import Broker, Receipt
    from line_worker.wire.messages import FrameKey, HubState, Outcome

HUB_SILENT_S = 1.0


class Mqtt(QuietSink):
    """The sink for one broker."""

    def __init__(self, sink: MqttSink, config: Config) -> None:
        self._sink, self._base = sink, f"{sink.prefix}/{config.line.name}"
        self._client_id = f"line-worker-{config.line.name}-{sink.name}"
        self._simulated = simulated_cameras(config)
        self._broker: Broker | None = None
        self._waiting: list[tuple[FrameKey, Receipt]] = []
        self._confirmed = RecentKeys()
        self._state: dict[str, Any] = {}
        self._told: dict[str, Any] = {}
        self._hub_at = float("inf")
        self._again = Again("broker")
        self.duplicates = 0

    def open(self) -> None:
        """Connect.

        Raises:
            SinkError: paho-mqtt is missing, the password cannot be read, or the broker cannot be reached.
        """
        try:
            from line_worker.sink.mqtt.broker import Broker
        except ImportError as error:
            raise SinkError(
                f"sink {self._sink.name}: paho-mqtt is not installed ({error}); outcomes stay with the hub; "
                "pip install line-worker[mqtt]"
            ) from error
        self._broker = Broker(self._sink, self._client_id)
        self._connect()

    def _connect(self) -> None:
        assert self._broker is not None, "deliver before open"
        self._told = {}
        self._broker.connect(self._presence(False))
        self._broker.publish(self._presence(True))
        self._tell()

    def _presence(self, there: bool) -> Message:
        return Message(f"{self._base}/online", encoded({"Online": there}), retain=True)

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Send `outcome` off; `settle` says whether it has arrived.

        Raises:
            SinkError: the broker cannot be reached, or has gone since the last `settle`.
        """
        if outcome.key in self._confirmed:
            self.duplicates += 1
            return True
        assert self._broker is not None, "deliver before open"
        if not self._broker.connected:
            if self._waiting:  # of what went over the old connection, only the old one's answers tell
                raise self._broker.lost()
            self._connect()
        result = result_of(outcome, simulated=outcome.key.camera in self._simulated)
        receipt = self._broker.publish(Message(f"{self._base}/{outcome.key.camera}/result", encoded(result)))
        self._waiting.append((outcome.key, receipt))
        return True

    def settle(self) -> None:
        """Wait until the broker has confirmed everything that was delivered.

        Raises:
            SinkError: it has not in time, or its rules forbid some of it; what it has is not sent again.
        """
        waiting, self._waiting = self._waiting, []
        if waiting:
            assert self._broker is not None
            try:
                self._broker.confirm([receipt for _, receipt in waiting])
            finally:
                for key, receipt in waiting:
                    if self._broker.has(receipt):
                        self._confirmed.add(key)

    def beat(self, state: HubState, now: float) -> None:
        """Take the hub's state; it is published when it changes."""
        self._state, self._hub_at = state_of(state), now

    def poll(self, now: float) -> None:
        """Publish a state that has changed; look for a broker that is away."""
        if now - self._hub_at > HUB_SILENT_S:
            self._state = silent_state(self._state)
        if self._broker is None:
            return
        if self._broker.connected:
            self._again.attempt(self._tell, now)
        elif self._again.due(now):
            self._again.attempt(self._connect, now)

    def _tell(self) -> None:
        assert self._broker is not None
        if self._state != self._told:
            self._broker.publish(Message(f"{self._base}/state", encoded(self._state), retain=True))
            self._told = self._state

    def reachable(self) -> tuple[bool, str]:
        """Whether the broker is there, and why not."""
        if self._broker is not None and self._broker.connected:
            return True, ""
        return False, self._again.trouble or (self._broker.trouble if self._broker is not None else "not open")

    def close(self) -> None:
        """Say that we are offline, and leave."""
        if self._broker is not None:
            self._broker.close(self._presence(False))
            self._broker = None
