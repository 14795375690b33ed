"""The Kafka sink: outcomes as JSON into one topic.

    key        ResultId: a compacted topic keeps one message of each
    headers    line, camera

Durable: an outcome is acknowledged to the hub when all replicas that are in sync have it, never before. The producer is
idempotent, so that what it repeats by itself is stored once. While the brokers are away everything stays in the
journal; what was sent before and not confirmed is sent again by another producer: ResultId tells, it never changes.
Order holds within a partition; MeasId counts a camera's parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from line_worker.errors import SinkError
from line_worker.sink import QuietSink
from line_worker.sink.messages import Messages
from line_worker.sink.recent import RecentKeys

if TYPE_CHECKING:
    from line_worker.config import Config, KafkaSink
    from line_worker.sink.kafka.topic import Topic
    from line_worker.wire.messages import FrameKey, Outcome


class Kafka(QuietSink):
    """The sink for one topic."""

    def __init__(self, sink: KafkaSink, config: Config) -> None:
        self._sink, self._client_id = sink, f"line-worker-{config.line.name}-{sink.name}"
        self._messages = Messages(config)
        self._topic: Topic | None = None
        self._waiting: list[FrameKey] = []
        self._stored = RecentKeys()
        self.duplicates = 0

    def open(self) -> None:
        """Connect.

        Raises:
            SinkError: confluent-kafka is missing, the password cannot be read, or no broker can be reached.
        """
        try:
            from line_worker.sink.kafka.topic import Topic
        except ImportError as error:
            raise SinkError(
                f"sink {self._sink.name}: confluent-kafka is not installed ({error}); outcomes stay with the hub; "
                "pip install line-worker[kafka]"
            ) from error
        self._topic = Topic(self._sink, self._client_id)
        self._topic.connect()

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Send `outcome` off; `settle` says whether it has arrived.

        Raises:
            SinkError: no broker can be reached.
        """
        if outcome.key in self._stored:
            self.duplicates += 1
            return True
        assert self._topic is not None, "deliver before open"
        if not self._topic.connected:
            self._topic.connect()
        headers = {"line": outcome.key.line, "camera": outcome.key.camera}
        self._topic.send(str(outcome.key), self._messages.of(outcome), headers)
        self._waiting.append(outcome.key)
        return True

    def settle(self) -> None:
        """Wait until everything that was delivered is stored.

        Raises:
            SinkError: it is not, within a bounded time; what is stored is not sent again.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        assert self._topic is not None
        stored, trouble = self._topic.confirm()
        for key in waiting:
            if str(key) in stored:
                self._stored.add(key)
        if trouble is not None:
            raise trouble

    def reachable(self) -> tuple[bool, str]:
        """Whether a broker was there when we last looked, and why not."""
        if self._topic is not None and self._topic.connected:
            return True, ""
        return False, self._topic.trouble if self._topic is not None else "not open"

    def close(self) -> None:
        """Leave, in bounded time."""
        if self._topic is not None:
            self._topic.close()
            self._topic = None
