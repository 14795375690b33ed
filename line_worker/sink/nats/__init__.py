"""The NATS sink: outcomes as JSON into a JetStream stream.

    PREFIX.LINE.CAMERA       every outcome; dots in the names of line and camera become underscores
    Nats-Msg-Id: RESULT-ID   the stream itself drops what it has already, within its window for duplicates

Durable: an outcome is acknowledged to the hub when the stream has stored it (PubAck), never before. While the server is
away everything stays in the journal. One whose answer was lost is sent again, later than the window if it must:
ResultId in the message never changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from line_worker.errors import SinkError
from line_worker.sink import QuietSink
from line_worker.sink.again import Again
from line_worker.sink.messages import Messages
from line_worker.sink.recent import RecentKeys

if TYPE_CHECKING:
    from line_worker.config import Config, NatsSink
    from line_worker.sink.nats.stream import Publication, Stream
    from line_worker.wire.messages import FrameKey, Outcome


class Nats(QuietSink):
    """The sink for one stream."""

    def __init__(self, sink: NatsSink, config: Config) -> None:
        self._sink, self._line = sink, config.line.name
        self._messages = Messages(config)
        self._stream: Stream | None = None
        self._waiting: list[tuple[FrameKey, Publication]] = []
        self._stored = RecentKeys()
        self._again = Again("NATS")
        self.duplicates = 0

    def open(self) -> None:
        """Connect, and make the stream where it is missing.

        Raises:
            SinkError: nats-py is missing, the password cannot be read, or the server cannot be used.
        """
        try:
            from line_worker.sink.nats.stream import Stream
        except ImportError as error:
            raise SinkError(
                f"sink {self._sink.name}: nats-py is not installed ({error}); outcomes stay with the hub; "
                "pip install line-worker[nats]"
            ) from error
        self.close()  # an earlier attempt's, with its thread
        self._stream = Stream(self._sink, f"line-worker {self._line}")
        self._stream.connect()

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Put `outcome` to those that `settle` publishes.

        Raises:
            SinkError: the server cannot be reached.
        """
        if outcome.key in self._stored:
            self.duplicates += 1
            return True
        assert self._stream is not None, "deliver before open"
        if not self._stream.connected:
            self._stream.connect()
        words = (self._sink.prefix, self._line.replace(".", "_"), outcome.key.camera.replace(".", "_"))
        self._waiting.append((outcome.key, (".".join(words), str(outcome.key), self._messages.of(outcome))))
        return True

    def settle(self) -> None:
        """Publish what was delivered, and wait until the stream has stored it.

        Raises:
            SinkError: it has not stored all of it in time; what it has is not sent again.
        """
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        assert self._stream is not None
        stored, trouble = self._stream.publish([publication for _, publication in waiting])
        for (key, _), done in zip(waiting, stored, strict=True):
            if done:
                self._stored.add(key)
        if trouble is not None:
            raise trouble

    def poll(self, now: float) -> None:
        """Look for a server that is away."""
        if self._stream is not None and not self._stream.connected and self._again.due(now):
            self._again.attempt(self._stream.connect, now)

    def reachable(self) -> tuple[bool, str]:
        """Whether the server is there, and why not."""
        if self._stream is None:
            return False, "not open"
        return (True, "") if self._stream.connected else (False, self._stream.trouble or "the connection was lost")

    def close(self) -> None:
        """Leave, in bounded time."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
