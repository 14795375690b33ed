"""One producer for one topic. After a failure it is thrown away, with all that it still wanted to repeat."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException, Producer

from line_worker.errors import SinkError
from line_worker.sink.secret import read_secret

if TYPE_CHECKING:
    from line_worker.config import KafkaSink

_QUIET = logging.getLogger("line_worker.kafka")
_QUIET.setLevel(logging.CRITICAL + 1)  # its complaints come back to us as errors of our own
CONNECT_S = 3.0
CONFIRM_S = 5.0


class Topic:
    """Sends to the topic of `sink`; `client_id` is for the brokers' own records."""

    def __init__(self, sink: KafkaSink, client_id: str) -> None:
        self._sink, self._client_id = sink, client_id
        self._producer: Producer | None = None
        self._stored: set[str] = set()
        self._errors: list[str] = []
        self._refusal = ""
        self.trouble = "no broker has been reached yet"

    @property
    def connected(self) -> bool:
        """Whether brokers could be reached, and all that was sent since then has arrived."""
        return self._producer is not None

    @property
    def _place(self) -> str:
        return f"Kafka {', '.join(self._sink.servers)}, topic {self._sink.topic}"

    def connect(self) -> None:
        """Reach the brokers and learn of the topic.

        Raises:
            SinkError: no broker can be reached, or it refuses us.
        """
        self._drop()
        self._refusal = ""
        try:
            producer = Producer(self._settings())
            found = producer.list_topics(self._sink.topic, timeout=CONNECT_S).topics[self._sink.topic]
        except KafkaException as error:
            why = self._refusal or error.args[0].str()
            raise self._failed(f"cannot be reached ({why})", "check servers, network, tls and username") from error
        if found.error is not None and not found.error.retriable():
            raise self._failed(f"refuses ({found.error.str()})", "check that the topic is there and may be written")
        self._producer, self.trouble = producer, ""

    def _settings(self) -> dict[str, Any]:
        sink = self._sink
        settings: dict[str, Any] = {
            "bootstrap.servers": ",".join(sink.servers),
            "client.id": self._client_id,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            "message.timeout.ms": int(CONFIRM_S * 1000),
            "socket.timeout.ms": int(CONFIRM_S * 1000),
            "reconnect.backoff.max.ms": 1000,
            "allow.auto.create.topics": True,
            "error_cb": self._told,
            "logger": _QUIET,
        }
        settings["security.protocol"] = ("SASL_" if sink.username else "") + ("SSL" if sink.tls else "PLAINTEXT")
        if sink.username:
            settings |= {"sasl.mechanism": sink.sasl, "sasl.username": sink.username, "sasl.password": ""}
        if sink.password_file is not None:
            settings["sasl.password"] = read_secret(sink.password_file, f"sink {sink.name}", "password").decode()
        files = {"ssl.ca": sink.ca, "ssl.certificate": sink.certificate, "ssl.key": sink.private_key}
        return settings | {f"{name}.location": str(path) for name, path in files.items() if path is not None}

    def _told(self, error: Any) -> None:
        self._refusal = error.str()

    def send(self, key: str, value: bytes, headers: Mapping[str, str]) -> None:
        """Send it off; `confirm` tells what became of it.

        Raises:
            SinkError: too much waits already, or the producer has failed.
        """
        assert self._producer is not None, "send before connect"
        try:
            self._producer.produce(
                self._sink.topic, value, key, headers=list(headers.items()), on_delivery=self._delivered
            )
        except (BufferError, KafkaException) as error:
            self._drop()
            raise self._failed(f"takes nothing ({error})", _LOOK) from error

    def _delivered(self, error: Any, message: Any) -> None:
        if error is None:
            self._stored.add(message.key().decode())
        else:
            self._errors.append(error.str())

    def confirm(self) -> tuple[set[str], SinkError | None]:
        """Wait for what was sent; returns the keys that are stored, and what was in the way of the others."""
        if self._producer is None:
            return set(), self._failed("is away", _LOOK)
        until = time.monotonic() + CONFIRM_S
        while self._producer.flush(0.1) and time.monotonic() < until:
            pass
        stored, self._stored = self._stored, set()
        errors, self._errors = self._errors, []
        left = len(self._producer)
        if not left and not errors:
            return stored, None
        self._drop()
        return stored, self._failed(f"has not stored everything ({errors[0] if errors else 'it is slow'})", _LOOK)

    def _failed(self, why: str, remedy: str) -> SinkError:
        self.trouble = f"{self._place}: {why}; outcomes stay with the hub, it is tried again; {remedy}"
        return SinkError(self.trouble)

    def _drop(self) -> None:
        """Let go of the producer, and of what it holds."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()
            producer.flush(0)
        self._stored, self._errors = set(), []  # what is said of what was thrown away is no news of what comes next

    def close(self) -> None:
        """Leave: everything that counts has been confirmed."""
        self._drop()


_LOOK = "check its power, network, replicas in sync, and that the topic may be written"
