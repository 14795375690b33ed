"""The only importer of zmq: open a link's end, send without blocking, receive decoded messages, close in bounded time.

Rules from SEMANTICS: ROUTER_MANDATORY on, ROUTER_HANDOVER off, IMMEDIATE on connectors, message sizes and queues
bounded, LINGER 0 except a bounded flush on an orderly stop. A message that does not decode reaches the caller as a
`DecodeError` value beside its peer, so that the hub can count strikes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zmq

from line_worker.errors import AlreadyRunning, DecodeError, WireError
from line_worker.wire.links import SLACK_BYTES, Link, endpoint
from line_worker.wire.messages import Message, from_parts, to_parts


@dataclass(frozen=True, slots=True)
class Received:
    """A message, or why it could not be decoded, and the peer it came from (empty on connecting ends)."""

    peer: bytes
    message: Message | DecodeError


class Channel:
    """One end of a link. `send` never blocks; `receive` yields what has arrived, at most `limit` messages."""

    def __init__(self, link: Link, socket: zmq.Socket[bytes], routed: bool, file: Path | None = None) -> None:
        self.link, self.socket, self._routed, self._file = link, socket, routed, file

    def send(self, message: Message, to: bytes = b"") -> bool:
        """Queue `message` (for peer `to` on a binding end); False when the peer is gone or its queue is full."""
        parts = [to, *to_parts(message)] if self._routed else to_parts(message)
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK, copy=len(parts[-1]) < SLACK_BYTES)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise WireError(f"link {self.link.name}: cannot send: {error}") from error
        return True

    def receive(self, limit: int = 256) -> Iterator[Received]:
        """Yield messages that are already here."""
        for _ in range(limit):
            try:
                parts = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            peer, body = (parts[0], parts[1:]) if self._routed else (b"", parts)
            try:
                yield Received(peer, from_parts(body))
            except DecodeError as error:
                yield Received(peer, error)

    def close(self, flush_s: float = 0.0) -> None:
        """Close; queued messages get at most `flush_s` seconds to leave."""
        self.socket.close(linger=int(flush_s * 1000))
        if self._file is not None:  # ZeroMQ leaves it behind
            self._file.unlink(missing_ok=True)


class Wire:
    """Opens the links of one line for one process.

    `runtime` is the folder (mode 0750) that holds the sockets; `tcp` ("127.0.0.1:5600") replaces them by ports.
    `frame_bytes` bounds the pixels of one message.
    """

    def __init__(self, runtime: Path, tcp: str = "", frame_bytes: int = 0) -> None:
        self._runtime, self._tcp, self._frame_bytes = runtime, tcp, frame_bytes
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._channels: list[Channel] = []

    def bind(self, link: Link) -> Channel:
        """Open the binding end of `link`; when that fails every channel is closed.

        Raises:
            AlreadyRunning: the endpoint is taken.
            WireError: it cannot be bound at all.
        """
        socket = self._context.socket(zmq.PULL if link.lossy else zmq.ROUTER)
        self._bound(socket, link)
        if not link.lossy:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        address = endpoint(link, self._runtime, self._tcp)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            self.close()
            raise _not_bound(address, error) from error
        file = None if self._tcp else self._runtime / link.name
        return self._keep(Channel(link, socket, routed=not link.lossy, file=file))

    def connect(self, link: Link, name: str) -> Channel:
        """Open a connecting end of `link`; it identifies itself as `name` plus something new at every call."""
        socket = self._context.socket(zmq.PUSH if link.lossy else zmq.DEALER)
        self._bound(socket, link)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        if not link.lossy:
            # a fresh identity: a restarted peer must not be mistaken for the old one, whose queue may still exist
            socket.setsockopt(zmq.IDENTITY, f"{name}-{os.urandom(6).hex()}".encode())
        socket.connect(endpoint(link, self._runtime, self._tcp))
        return self._keep(Channel(link, socket, routed=False))

    def wait(self, timeout_s: float) -> None:
        """Sleep until a message arrives on any channel, at most `timeout_s`."""
        self._poller.poll(max(0, math.ceil(timeout_s * 1000)))

    def close(self, flush_s: float = 0.0) -> None:
        """Close every channel; messages on their way out get at most `flush_s` seconds."""
        for channel in self._channels:
            channel.close(flush_s)
        self._context.term()

    def _bound(self, socket: zmq.Socket[bytes], link: Link) -> None:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, link.high_water)
        socket.setsockopt(zmq.RCVHWM, link.high_water)
        socket.setsockopt(zmq.MAXMSGSIZE, link.frames * self._frame_bytes + SLACK_BYTES)

    def _keep(self, channel: Channel) -> Channel:
        self._channels.append(channel)
        if channel.socket.type != zmq.PUSH:
            self._poller.register(channel.socket, zmq.POLLIN)
        return channel


def _not_bound(address: str, error: zmq.ZMQError) -> AlreadyRunning | WireError:
    if error.errno == zmq.EADDRINUSE:
        return AlreadyRunning(
            f"{address}: is taken by another process, so this one does not start; stop the other instance of this "
            "line, or give this one its own line.runtime or line.tcp"
        )
    return WireError(
        f"{address}: cannot be bound ({error}), so nothing can reach this process; check the folder and its permissions"
    )
