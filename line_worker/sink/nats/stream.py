"""One connection to NATS, and one stream of its JetStream. It repeats nothing by itself."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from line_worker.errors import SinkError
from line_worker.sink.looping import LoopThread
from line_worker.sink.secret import read_secret

if TYPE_CHECKING:
    from line_worker.config import NatsSink

CONNECT_S = 3.0
CONFIRM_S = 5.0
CLOSE_S = 0.5
PING_S = 2  # two that are not answered, and the server is gone
IN_FLIGHT = 256

Publication = tuple[str, str, bytes]  # subject, id, payload

logging.getLogger("nats").setLevel(logging.CRITICAL)  # its complaints come back to us as errors of our own


class Stream:
    """Publishes into the stream that `sink` names; `who` we are, for the server's own records."""

    def __init__(self, sink: NatsSink, who: str) -> None:
        self._sink, self._who = sink, who
        self._loop = LoopThread("nats")
        self._client: Any = None
        self.trouble, self._told = "the server has not been reached yet", ""

    @property
    def connected(self) -> bool:
        """Whether the server is there."""
        return self._client is not None and bool(self._client.is_connected)

    @property
    def _place(self) -> str:
        return f"NATS server {', '.join(self._sink.servers)}"

    def connect(self) -> None:
        """Connect, and make the stream where it is missing.

        Raises:
            SinkError: the server cannot be reached, is not who it should be, refuses us, or has no JetStream.
        """
        self._drop()
        self._told = ""
        named = self._named()
        try:
            self._client = self._loop.run(self._connect(named), CONNECT_S)
        except ssl.SSLCertVerificationError as error:
            remedy = "set servers to a name in the certificate, or ca to what has signed it"
            raise self._failed(f"its certificate is not accepted: {error.verify_message}", remedy) from error
        except TimeoutError as error:
            raise self._failed(f"does not answer within {CONNECT_S:g} s", _LOOK) from error
        except (OSError, NatsError) as error:
            raise self._failed(f"cannot be used ({self._told or _words(error)})", _LOOK) from error
        self.trouble = ""

    def _named(self) -> dict[str, Any]:
        """Return what a connection is opened with."""
        sink = self._sink
        scheme = "tls" if sink.tls else "nats"
        named: dict[str, Any] = {"servers": [f"{scheme}://{server}" for server in sink.servers], "name": self._who}
        named |= {"allow_reconnect": False, "connect_timeout": CONNECT_S, "ping_interval": PING_S}
        named |= {"max_reconnect_attempts": 1, "reconnect_time_wait": 0.1}
        if sink.username:
            named["user"] = sink.username
        if sink.password_file is not None:
            named["password"] = read_secret(sink.password_file, f"sink {sink.name}", "password").decode()
        if sink.tls:
            named["tls"] = self._context()
        return named

    def _context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._sink.ca)
            if self._sink.certificate is not None:
                context.load_cert_chain(self._sink.certificate, self._sink.private_key)
        except OSError as error:  # ssl's errors are some
            remedy = "check ca, certificate, private_key"
            raise self._failed(f"a certificate of ours cannot be used ({error})", remedy) from error
        return context

    async def _connect(self, named: dict[str, Any]) -> Any:
        async def told(error: Exception) -> None:
            self._told = _words(error)

        async def gone() -> None:
            self.trouble = f"{self._place}: the connection was lost"

        client = Client()
        try:
            await client.connect(**named, error_cb=told, disconnected_cb=gone, closed_cb=gone)
            await self._make_stream(client.jetstream())
        except BaseException:
            await _leave(client)
            raise
        return client

    async def _make_stream(self, stream: Any) -> None:
        try:
            await stream.stream_info(self._sink.stream)
        except NotFoundError:
            subjects = [f"{self._sink.prefix}.>"]
            wanted = StreamConfig(name=self._sink.stream, subjects=subjects, duplicate_window=self._sink.duplicates_s)
            await stream.add_stream(wanted)

    def publish(self, publications: Sequence[Publication]) -> tuple[list[bool], SinkError | None]:
        """Publish all of them; returns which the stream has stored, and what was in the way of the others."""
        if self._client is None:
            return [False] * len(publications), self._failed("is away", _LOOK)
        stored: list[bool] = []
        for first in range(0, len(publications), IN_FLIGHT):
            answers = self._loop.run(self._publish(publications[first : first + IN_FLIGHT]), CONFIRM_S + CONNECT_S)
            stored += [answer is None for answer in answers]
            if errors := [answer for answer in answers if answer is not None]:
                return stored + [False] * (len(publications) - len(stored)), self._lost(errors[0])
        return stored, None

    async def _publish(self, publications: Sequence[Publication]) -> list[Exception | None]:
        stream = self._client.jetstream()
        answers = await asyncio.gather(*(self._send(stream, one) for one in publications), return_exceptions=True)
        return [answer if isinstance(answer, Exception) else None for answer in answers]

    async def _send(self, stream: Any, publication: Publication) -> None:
        subject, identity, payload = publication
        headers = {"Nats-Msg-Id": identity}
        await stream.publish(subject, payload, timeout=CONFIRM_S, stream=self._sink.stream, headers=headers)

    def _lost(self, error: Exception) -> SinkError:
        if isinstance(error, TimeoutError | asyncio.TimeoutError):
            why = f"has not stored everything within {CONFIRM_S:g} s"
        else:
            why = f"has not stored everything ({_words(error)})"
        self._drop()
        return self._failed(why, f"check that stream {self._sink.stream} takes {self._sink.prefix}.>, and its limits")

    def _failed(self, why: str, remedy: str) -> SinkError:
        self.trouble = f"{self._place}: {why}; outcomes stay with the hub, it is tried again; {remedy}"
        return SinkError(self.trouble)

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(OSError, TimeoutError, NatsError):  # whatever is left of it ends with the loop
                self._loop.run(_leave(client), CONNECT_S)

    def close(self) -> None:
        """Close the connection, in bounded time."""
        self._drop()
        self._loop.close()


async def _leave(client: Client) -> None:
    """Close the connection in bounded time: after a TLS handshake that failed the library waits for ever."""
    with suppress(OSError, TimeoutError, NatsError):
        async with asyncio.timeout(CLOSE_S):
            await client.close()


def _words(error: Exception) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__


_LOOK = "check its power, network, servers, username, and that JetStream is on"
