"""The webhook sink: outcomes as JSON to a web server of the plant, signed.

    POST URL                           {"Results": [...]}, in the words of OPC 40100; what waits goes together
    X-Line-Worker-Timestamp: T         Unix time in seconds
    X-Line-Worker-Signature: sha256=S  HMAC-SHA256 of "T.BODY" with the secret, in hexadecimal digits

Durable: outcomes are acknowledged to the hub once the server has answered 2xx; anything else, and nothing at all, is
tried again, for as long as it takes. A result whose answer was lost is sent again: ResultId tells, it never changes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING

from line_worker.errors import SinkError
from line_worker.sink import QuietSink
from line_worker.sink.machine_vision import jsonable, result_of, simulated_cameras
from line_worker.sink.recent import RecentKeys
from line_worker.sink.secret import read_secret
from line_worker.sink.webhook.post import Poster

if TYPE_CHECKING:
    from line_worker.config import Config, WebhookSink
    from line_worker.wire.messages import FrameKey, Outcome

BUSY_S = 5.0  # then the runner gets its turn: it has others to hear


def signature(secret: bytes, timestamp: int, body: bytes) -> str:
    """Return what stands in X-Line-Worker-Signature for a `body` that is sent at `timestamp`."""
    return "sha256=" + hmac.new(secret, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()


class Webhook(QuietSink):
    """The sink for one web server."""

    def __init__(self, sink: WebhookSink, config: Config) -> None:
        self._sink = sink
        self._simulated = simulated_cameras(config)
        self._secret = b""
        self._poster: Poster | None = None
        self._waiting: list[tuple[FrameKey, bytes]] = []
        self._arrived = RecentKeys()
        self._trouble = ""
        self.duplicates = 0

    def open(self) -> None:
        """Read the secret; whether the server is there shows with the first outcome.

        Raises:
            SinkError: the secret or the certificates cannot be read.
        """
        self._secret = read_secret(self._sink.secret_file, f"sink {self._sink.name}", "secret")
        self._poster = Poster(self._sink.url, self._sink.timeout_s, self._sink.ca)

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Put `outcome` to those that `settle` sends."""
        if outcome.key in self._arrived:
            self.duplicates += 1
            return True
        result = jsonable(result_of(outcome, simulated=outcome.key.camera in self._simulated))
        encoded = json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode()
        self._waiting.append((outcome.key, encoded))
        return True

    def settle(self) -> None:
        """Send what was delivered, at most `batch` results at once, for a bounded time.

        Raises:
            SinkError: the server has not taken all of it; what it has taken is not sent again.
        """
        waiting, self._waiting = self._waiting, []
        until = time.monotonic() + BUSY_S
        for first in range(0, len(waiting), self._sink.batch):
            if time.monotonic() > until:
                left = len(waiting) - first
                raise SinkError(f"sink {self._sink.name}: the server is slow, {left} results wait; set a larger batch")
            together = waiting[first : first + self._sink.batch]
            self._send(b'{"Results":[' + b",".join(encoded for _, encoded in together) + b"]}")
            for key, _ in together:
                self._arrived.add(key)

    def _send(self, body: bytes) -> None:
        assert self._poster is not None, "settle before open"
        sent = int(time.time())
        signed = {"X-Line-Worker-Timestamp": str(sent), "X-Line-Worker-Signature": signature(self._secret, sent, body)}
        try:
            self._poster.post(body, {"Content-Type": "application/json"} | signed)
        except SinkError as error:
            self._trouble = str(error)
            raise
        self._trouble = ""

    def reachable(self) -> tuple[bool, str]:
        """Whether the server took what it got last, and why not."""
        return not self._trouble, self._trouble

    def close(self) -> None:
        """Close the connection."""
        if self._poster is not None:
            self._poster.close()
            self._poster = None
