"""The ends of links: send without blocking, receive decoded messages, close in bounded time.

A message that does not decode reaches the caller as a `DecodeError` value beside its peer, so that the hub can count
strikes. A binding end with keys checks every message. A connecting end over TCP that has lost its connection, or was
refused, gets a new socket and with it a new identity: the other side may still hold the old connection, and ignores a
second one of the same identity.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog
import zmq

from line_worker.errors import DecodeError, WireError
from line_worker.wire.curve import REFUSED, Gate, Monitor
from line_worker.wire.folding import fold, unfold
from line_worker.wire.hosts import is_here
from line_worker.wire.links import SLACK_BYTES, Link
from line_worker.wire.messages import Frame, Message, damaged_frame, from_parts, to_parts

log = structlog.get_logger()

RENEW_S = 0.5  # a lost or refused connection is made anew at most this often
TOLD_S = 10.0
REMEMBERED = 1024  # identities whose key is known, or that are muted
SOME_BYTES = 16_000_000  # one call of `receive` ends after so many: a flood of pictures must not hold up the rest


@dataclass(frozen=True, slots=True)
class Received:
    """A message, or why it could not be decoded, and the peer it came from (empty on connecting ends).

    `away`: it came from another host. `damaged`: what is left of an announcement that could not be decoded.
    """

    peer: bytes
    message: Message | DecodeError
    away: bool = False
    damaged: Frame | None = None


class Channel:
    """One end of a link. `send` never blocks; `receive` yields what has arrived, at most `limit` messages."""

    def __init__(self, link: Link, socket: zmq.Socket[bytes], routed: bool) -> None:
        self.link, self.socket, self._routed = link, socket, routed
        self._folded = not (routed or link.lossy)  # what the binding end of a link sends back
        self._muted: dict[bytes, None] = {}

    def send(self, message: Message, to: bytes = b"") -> bool:
        """Queue `message` (for peer `to` on a binding end); False when the peer is gone or its queue is full."""
        parts = to_parts(message)
        return self.send_parts([to, fold(parts)] if self._routed else parts)

    def wait_to_send(self, timeout_ms: int) -> bool:
        """Wait until something may be sent, that is until the other side is there."""
        return bool(self.socket.poll(timeout_ms, zmq.POLLOUT))

    def send_parts(self, parts: list[bytes]) -> bool:
        """Queue `parts` as they are: only drills and fuzzing send what is no message."""
        try:
            self.socket.send_multipart(parts, zmq.NOBLOCK, copy=len(parts[-1]) < SLACK_BYTES)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise WireError(f"link {self.link.name}: cannot send: {error}") from error
        return True

    def receive(self, limit: int = 256) -> Iterator[Received]:
        """Yield messages that are already here."""
        left = SOME_BYTES
        for _ in range(limit):
            try:
                peer, body, away = self._read()
            except zmq.Again:
                return
            left -= sum(map(len, body))
            if body and peer not in self._muted:
                try:
                    yield Received(peer, from_parts(unfold(body[0]) if self._folded else body), away)
                except DecodeError as error:
                    yield Received(peer, error, away, damaged_frame(body))
            if left < 0:
                return

    def mute(self, peer: bytes) -> None:
        """Drop unread whatever `peer` sends from now on; an identity lasts as long as its connection."""
        self._muted[peer] = None
        while len(self._muted) > REMEMBERED:
            del self._muted[next(iter(self._muted))]

    def turn(self) -> None:
        """See to the connection; called by `Wire.wait`, and by whoever never waits."""

    def close(self, flush_s: float = 0.0) -> None:
        """Close; queued messages get at most `flush_s` seconds to leave."""
        self.socket.close(linger=int(flush_s * 1000))

    def _read(self) -> tuple[bytes, list[bytes], bool]:
        """Return peer, parts and whether they came from another host; no parts: the message does not count."""
        parts = self.socket.recv_multipart(zmq.NOBLOCK)
        return (parts[0], parts[1:], False) if self._routed else (b"", parts, False)


class FileChannel(Channel):
    """A binding end at a socket file, which ZeroMQ leaves behind."""

    def __init__(self, link: Link, socket: zmq.Socket[bytes], routed: bool, file: Path) -> None:
        super().__init__(link, socket, routed)
        self._file = file

    def close(self, flush_s: float = 0.0) -> None:
        """Close, and remove the file."""
        super().close(flush_s)
        self._file.unlink(missing_ok=True)


class GuardedChannel(Channel):
    """A binding end with keys: every message is checked against the allow-list, in both directions."""

    def __init__(self, link: Link, socket: zmq.Socket[bytes], routed: bool, gate: Gate) -> None:
        super().__init__(link, socket, routed)
        self._gate = gate
        self._users: dict[bytes, str] = {}  # who has last spoken under an identity

    def send(self, message: Message, to: bytes = b"") -> bool:
        """Queue `message` for peer `to`, unless its key has been revoked since."""
        if not self._gate.allowed.may(self._users.get(to, ""), self.link.many):
            return False
        return super().send(message, to)

    def _read(self) -> tuple[bytes, list[bytes], bool]:
        frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
        peer = frames.pop(0).bytes if self._routed else b""
        user = str(frames[-1].get("User-Id"))
        if not self._gate.may(user, self.link.many, self.link.name):
            return peer, [], False
        self._remember(peer, user)
        away = not is_here(str(frames[-1].get("Peer-Address")))
        return peer, [frame.bytes for frame in frames], away

    def _remember(self, peer: bytes, user: str) -> None:
        self._users.pop(peer, None)
        self._users[peer] = user
        while len(self._users) > REMEMBERED:  # those that have been silent longest
            del self._users[next(iter(self._users))]


class TcpChannel(Channel):
    """A connecting end over TCP: `open_socket` makes its socket, again whenever the connection is lost or refused."""

    def __init__(self, link: Link, open_socket: Callable[[], zmq.Socket[bytes]], poller: zmq.Poller) -> None:
        self._open, self._poller = open_socket, poller
        super().__init__(link, open_socket(), routed=False)
        self._renewed_at, self._told_at, self._lost = float("-inf"), float("-inf"), False
        self._watch()

    def send(self, message: Message, to: bytes = b"") -> bool:
        """Queue `message`; False while there is no connection."""
        self.turn()
        return super().send(message, to)

    def turn(self) -> None:
        """Replace the socket when its connection is gone."""
        events = self._monitor.seen()
        now = time.monotonic()
        self._lost = self._lost or bool(events)
        if any(event & REFUSED for event in events) and now - self._told_at >= TOLD_S:
            self._told_at = now
            log.error("refused: its key is not on the allow-list there, or ours for it is wrong", link=self.link.name)
        if self._lost and now - self._renewed_at >= RENEW_S:
            log.info("connection is made anew", link=self.link.name)
            self.close()
            self.socket, self._renewed_at, self._lost = self._open(), now, False
            self._watch()

    def close(self, flush_s: float = 0.0) -> None:
        """Close; queued messages get at most `flush_s` seconds to leave."""
        self._monitor.close()
        if self.socket in self._poller:
            self._poller.unregister(self.socket)
        super().close(flush_s)

    def _watch(self) -> None:
        self._monitor = Monitor(self.socket, REFUSED | zmq.EVENT_DISCONNECTED)
        if self.socket.type != zmq.PUSH:
            self._poller.register(self.socket, zmq.POLLIN)
