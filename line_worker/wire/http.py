"""A small HTTP server for pages that people and monitors poll: GET only, everything bounded, one thread for all.

Connections, bytes of a request and seconds of a connection are limited; when all places are taken the oldest one is
given up, so that a peer that says nothing cannot keep others out. What a page costs is up to `Page`, which runs in this
thread: it must only read what cannot change under it.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple

from line_worker.errors import WireError

CONNECTIONS = 16
REQUEST_BYTES = 4096
PATIENCE_S = 2.0  # of a connection, from its start
TURN_S = 0.2
PAUSE_S = 0.01  # after every turn: however many ask, this thread leaves the processor to the others
JSON, TEXT = "application/json", "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """What a request gets."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT


Page = Callable[[], Answer]


def parse_request(got: bytes) -> str | Answer | None:
    """Return the path that a whole GET asks for, the answer that refuses anything else, None while more must come."""
    end = got.find(b"\r\n\r\n")
    if end < 0 and len(got) < REQUEST_BYTES:
        return None
    if end < 0 or end > REQUEST_BYTES:
        return _refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    words = got[: got.find(b"\r\n")].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not words[1].startswith(b"/"):
        return _refused(HTTPStatus.BAD_REQUEST)
    if words[0] != b"GET":
        return _refused(HTTPStatus.METHOD_NOT_ALLOWED)
    return words[1].decode("latin-1").partition("?")[0]


def _refused(status: HTTPStatus) -> Answer:
    return Answer(status, f"{status.value} {status.phrase}\n".encode())


def to_bytes(answer: Answer) -> bytes:
    """Return the whole response."""
    status, body, content_type = answer
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(["Allow: GET"] if status is HTTPStatus.METHOD_NOT_ALLOWED else []),
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(slots=True)
class Peer:
    """One connection: what has come, what is still to be sent; `answered` once its response is made."""

    socket: socket.socket
    until: float
    got: bytearray = field(default_factory=bytearray)
    rest: memoryview = field(default_factory=lambda: memoryview(b""))
    answered: bool = False


class HttpServer(threading.Thread):
    """Serves `pages` (path -> page) at `address` from `start` until `close`.

    Raises:
        WireError: the address cannot be bound.
    """

    def __init__(self, address: tuple[str, int], pages: dict[str, Page]) -> None:
        super().__init__(name="http", daemon=True)
        self._pages = pages
        self._peers: dict[int, Peer] = {}  # by file descriptor, the oldest first
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        try:
            self._listener = socket.create_server(address, backlog=CONNECTIONS)
        except OSError as error:
            self._selector.close()
            raise WireError(
                f"{address[0]}:{address[1]}: cannot be bound ({error.strerror}), so its pages are not served; "
                "stop what uses this port, or give another one"
            ) from error
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def close(self) -> None:
        """Stop, and close every connection."""
        self._stopping = True
        if self.is_alive():
            self.join()
        for peer in list(self._peers.values()):
            self._drop(peer)
        self._listener.close()
        self._selector.close()

    def run(self) -> None:
        """Serve until `close`."""
        while not self._stopping:
            for key, events in self._selector.select(TURN_S):
                if key.fileobj is self._listener:
                    self._accept()
                elif (peer := self._peers.get(key.fd)) is not None:
                    self._serve(peer, events)
            now = time.monotonic()
            for peer in [peer for peer in self._peers.values() if peer.until <= now]:
                self._drop(peer)
            time.sleep(PAUSE_S)

    def _accept(self) -> None:
        with suppress(OSError):  # it has gone already, or no descriptor is left: the next turn tries again
            accepted, _ = self._listener.accept()
            accepted.setblocking(False)
            if len(self._peers) >= CONNECTIONS:
                self._drop(next(iter(self._peers.values())))
            self._peers[accepted.fileno()] = Peer(accepted, time.monotonic() + PATIENCE_S)
            self._selector.register(accepted, selectors.EVENT_READ)

    def _serve(self, peer: Peer, events: int) -> None:
        try:
            if events & selectors.EVENT_READ:
                self._read(peer)
            elif peer.rest:
                self._write(peer)
        except OSError:
            self._drop(peer)

    def _read(self, peer: Peer) -> None:
        data = peer.socket.recv(REQUEST_BYTES)
        if not data:
            self._drop(peer)
        elif not peer.answered:  # else the rest of a refused request, read so that the answer is not lost in a reset
            peer.got += data
            self._answer(peer)

    def _answer(self, peer: Peer) -> None:
        asked = parse_request(bytes(peer.got))
        if asked is None:
            return
        if isinstance(asked, str):
            page = self._pages.get(asked)
            asked = _refused(HTTPStatus.NOT_FOUND) if page is None else page()
        peer.answered, peer.rest = True, memoryview(to_bytes(asked))
        self._write(peer)

    def _write(self, peer: Peer) -> None:
        with suppress(BlockingIOError):
            peer.rest = peer.rest[peer.socket.send(peer.rest) :]
        if peer.rest:
            self._selector.modify(peer.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
        else:
            peer.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(peer.socket, selectors.EVENT_READ)

    def _drop(self, peer: Peer) -> None:
        if self._peers.pop(peer.socket.fileno(), None) is not None:
            self._selector.unregister(peer.socket)
        peer.socket.close()
