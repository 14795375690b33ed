"""One connection to an MQTT broker. It repeats nothing by itself: what is to be repeated is the sink's.

MQTT 5, in which a broker says of each message whether its rules allow it; 3.1.1, in which it confirms what it throws
away, where the broker speaks nothing newer.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog
from paho.mqtt.client import Client, MQTTMessage, MQTTMessageInfo
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from line_worker.errors import SinkError
from line_worker.sink.mqtt.message import Message
from line_worker.sink.secret import read_secret

if TYPE_CHECKING:
    from line_worker.config import MqttBroker

log = structlog.get_logger()

CONNECT_S = 3.0
CONFIRM_S = 5.0
KEEPALIVE_S = 5  # a broker that answers nothing for so long is gone; it gives us one and a half times as long
IN_FLIGHT = 64  # or fewer, as the broker wishes
HEARD = 100  # messages that wait for `heard`
SOON_S = 0.002

Receipt = MQTTMessageInfo


class _ClosedOnFailure(ssl.SSLSocket):
    """paho leaves a connection open whose handshake has failed."""

    def do_handshake(self, block: bool = False) -> None:
        """Shake hands, or close."""
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


class Broker:
    """Publishes, and hears what is published to the topics that it subscribes to."""

    def __init__(self, sink: MqttBroker, client_id: str) -> None:
        self._sink, self._client_id = sink, client_id
        self._client: Client | None = None
        self._answered, self._refusal, self._is_older = threading.Event(), "", False
        self._told_older = False
        self._in_flight, self._flying = IN_FLIGHT, deque[Receipt]()
        self._denied: dict[int, str] = {}  # messages that the broker's rules forbid, and its reasons
        self.connected, self.trouble = False, "the broker has not been reached yet"
        self._heard: deque[Message] = deque(maxlen=HEARD)
        self._subscribed: dict[int, str] = {}  # requests that were answered: "", or why the broker refuses

    @property
    def _place(self) -> str:
        return f"MQTT broker {self._sink.host}:{self._sink.at_port}"

    def connect(self, will: Message) -> None:
        """Connect; the broker publishes `will` when we vanish.

        Raises:
            SinkError: the broker cannot be reached, is not who it should be, or refuses us.
        """
        self._is_older = False
        self._begin(will, MQTTProtocolVersion.MQTTv5)
        if self._is_older:
            self._begin(will, MQTTProtocolVersion.MQTTv311)
        if self._refusal:
            self._drop()
            raise self._failed(f"refuses us: {self._refusal}", _RULES)
        if self._client is None or not self._client.is_connected():
            self._drop()
            raise self._failed("closes the connection without an answer", "check port, tls, certificate and its log")
        self.connected, self.trouble = True, ""
        if self._is_older and not self._told_older:
            log.warning("the broker speaks MQTT 3.1.1: it confirms also what its rules forbid", broker=self._place)
            self._told_older = True

    def _begin(self, will: Message, version: MQTTProtocolVersion) -> None:
        """Connect, speaking `version`; what the broker says to that is in `_refusal` and `_is_older`."""
        self._drop()
        client = self._make(will, version)
        try:
            client.connect(self._sink.host, self._sink.at_port, KEEPALIVE_S)
        except ssl.SSLCertVerificationError as error:
            raise self._failed(
                f"its certificate is not accepted: {error.verify_message}",
                "set host to a name in the certificate, or ca to what has signed it",
            ) from error
        except OSError as error:
            raise self._failed(f"cannot be reached ({error.strerror or error})", _LOOK) from error
        self._client = client
        client.loop_start()
        if not self._answered.wait(CONNECT_S):
            self._drop()
            raise self._failed(f"does not answer within {CONNECT_S:g} s", _LOOK)

    def _make(self, will: Message, version: MQTTProtocolVersion) -> Client:
        # a session begins and ends with its connection, which is what paho does by itself in either version
        client = Client(CallbackAPIVersion.VERSION2, self._client_id, protocol=version, reconnect_on_failure=False)
        client.connect_timeout = CONNECT_S
        client.max_inflight_messages_set(IN_FLIGHT)
        client.will_set(will.topic, will.payload, will.qos, will.retain)
        if self._sink.username:
            password = None
            if self._sink.password_file is not None:
                password = read_secret(self._sink.password_file, f"sink {self._sink.name}", "password").decode()
            client.username_pw_set(self._sink.username, password)
        if self._sink.tls:
            client.tls_set_context(self._context())
        self._answered, self._refusal = threading.Event(), ""
        self._heard.clear()
        self._flying.clear()
        self._denied.clear()
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_message, client.on_subscribe = self._on_message, self._on_subscribe
        client.on_publish = self._on_publish
        return client

    def _context(self) -> ssl.SSLContext:
        ca, certificate, key = self._sink.ca, self._sink.certificate, self._sink.private_key
        try:
            context = ssl.create_default_context(cafile=ca)
            context.sslsocket_class = _ClosedOnFailure
            if certificate is not None:
                context.load_cert_chain(certificate, key)
        except OSError as error:  # ssl's errors are some
            raise self._failed(
                f"a certificate of ours cannot be used ({error})", "check ca, certificate, private_key"
            ) from error
        return context

    def _on_connect(self, client: Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        self._refusal = str(reason) if reason.is_failure else ""
        self._is_older |= reason == "Unsupported protocol version"
        self._in_flight = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        self._answered.set()

    def _on_disconnect(self, client: Client, data: Any, flags: Any, reason: Any, properties: Any) -> None:
        if client is self._client:
            self.connected = False
            self.trouble = f"{self._place}: the connection was lost ({reason})"
            if not self._answered.is_set():  # older ones should say that they are, and some hang up instead
                self._is_older = True
                self._answered.set()

    def _on_message(self, client: Client, data: Any, message: MQTTMessage) -> None:
        self._heard.append(Message(message.topic, bytes(message.payload)))

    def _on_publish(self, client: Client, data: Any, number: int, reason: Any, properties: Any) -> None:
        self._denied.pop(number, None)  # numbers are used again
        if reason.is_failure:
            self._denied[number] = str(reason)

    def _on_subscribe(self, client: Client, data: Any, number: int, reasons: Any, properties: Any) -> None:
        self._subscribed[number] = next((str(reason) for reason in reasons if reason.is_failure), "")

    def heard(self) -> list[Message]:
        """Return what was heard since the last call."""
        return [self._heard.popleft() for _ in range(len(self._heard))]

    def subscribe(self, topic: str) -> None:
        """Hear what is published to `topic`. Once the broker has answered, it has taken all that we sent before.

        Raises:
            SinkError: it has not answered, within a bounded time, or refuses; or the connection is lost.
        """
        if self._client is None:
            raise self.lost()
        self._subscribed.clear()
        code, number = self._client.subscribe(topic, qos=1)
        if code or number is None:
            raise self._lost(f"takes nothing ({code})")
        self._wait(lambda: number in self._subscribed, lambda: time.sleep(SOON_S))
        if why := self._subscribed[number]:
            self._drop()
            raise self._failed(f"does not let us subscribe to {topic} ({why})", _RULES)

    def publish(self, message: Message) -> Receipt:
        """Send `message`, and return what `confirm` waits for.

        Raises:
            SinkError: the connection is lost, or too much waits for the broker for too long.
        """
        assert self._client is not None, "publish before connect"
        self._make_room()
        receipt = self._client.publish(*message)
        if receipt.rc:
            raise self._lost(f"takes nothing ({receipt.rc})")
        if message.qos:
            self._flying.append(receipt)
        return receipt

    def _make_room(self) -> None:
        """Have fewer messages on their way than the broker takes at once: one too many ends the connection."""
        while len(self._flying) >= self._in_flight:
            self._await(self._flying.popleft())

    def confirm(self, receipts: Sequence[Receipt]) -> None:
        """Wait until the broker has confirmed all of them.

        Raises:
            SinkError: it has not, within a bounded time, or its rules forbid one of them.
        """
        until = time.monotonic() + CONFIRM_S
        for receipt in receipts:
            self._await(receipt, until)
        if denied := [self._denied[receipt.mid] for receipt in receipts if receipt.mid in self._denied]:
            raise self._failed(f"does not let us publish ({denied[0]})", _RULES)

    def has(self, receipt: Receipt) -> bool:
        """Whether the broker has confirmed this one, and kept it."""
        return receipt.is_published() and receipt.mid not in self._denied

    def _await(self, receipt: Receipt, until: float | None = None) -> None:
        self._wait(receipt.is_published, partial(receipt.wait_for_publish, 0.05), until)

    def _wait(self, done: Callable[[], bool], a_while: Callable[[], None], until: float | None = None) -> None:
        until = until or time.monotonic() + CONFIRM_S
        while not done():
            if not self.connected:
                raise self.lost()
            if time.monotonic() > until:
                raise self._lost(f"has not confirmed everything within {CONFIRM_S:g} s")
            a_while()

    def lost(self) -> SinkError:
        """Return the error of a connection whose end has come before the broker's answer."""
        return self._lost("went away before it had confirmed everything")

    def _lost(self, why: str) -> SinkError:
        self._drop()
        return self._failed(why, _LOOK)

    def _failed(self, why: str, remedy: str) -> SinkError:
        self.trouble = f"{self._place}: {why}; outcomes stay with the hub, it is tried again; {remedy}"
        return SinkError(self.trouble)

    def _drop(self) -> None:
        """Let go without a farewell, so that the broker tells the others that we are away."""
        client, self._client, self.connected = self._client, None, False
        if client is None:
            return
        connection = client.socket()
        if isinstance(connection, socket.socket):
            with suppress(OSError):  # it is gone already
                connection.shutdown(socket.SHUT_RDWR)
        client.loop_stop()

    def close(self, farewell: Message) -> None:
        """Say `farewell`, and leave; in bounded time."""
        if self._client is not None and self.connected:
            with suppress(SinkError):  # then the broker says it
                self.confirm([self.publish(farewell)])
        if self._client is not None and self.connected:
            self._client.disconnect()
            self._client.loop_stop()
            self._client, self.connected = None, False
        self._drop()


_LOOK = "check its power, network, host and port"
_RULES = "check username, password_file and the broker's rules"
