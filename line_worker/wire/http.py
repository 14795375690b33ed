"""A small HTTP server for pages that people and monitors poll: everything bounded, one thread for all.

Connections, bytes of a request and seconds of a connection are limited; when all places are taken the oldest one is
given up, so that a peer that says nothing cannot keep others out. What a page costs is up to `Page`, which runs in this
thread: it must only read what cannot change under it. A page that has nothing yet returns None and is asked again, so
that a browser can wait for the next part; a path takes POST only if it is named in `posts`.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote

import structlog

from line_worker.errors import WireError

log = structlog.get_logger()

CONNECTIONS = 16
REQUEST_BYTES = 4096
PATIENCE_S = 2.0  # of a connection, from its start, and from whenever something of the answer has gone out
SENT_AHEAD = 128 << 10  # bytes that the kernel takes of an answer: with more, a slow peer's progress is seen too late
MOST_S = 60.0  # that sending an answer may take
TURN_S = 0.2
HELD_S = 0.01  # between two looks at pages that have nothing yet
PAUSE_S = 0.004  # after every turn: however many ask, this thread leaves the processor to the others
NOT_YET = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
JSON, TEXT = "application/json", "text/plain; charset=utf-8"


class Request(NamedTuple):
    """What is asked for; names of headers are in lower case. `at`: when it was whole, by `time.monotonic`."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    at: float = 0.0


class Answer(NamedTuple):
    """What a request gets."""

    status: HTTPStatus
    body: bytes
    content_type: str = TEXT
    headers: tuple[tuple[str, str], ...] = ()


Page = Callable[[Request], Answer | None]  # None: nothing yet
Pages = Mapping[str, Page]


def parse_request(got: bytes, posts: Container[str] = ()) -> Request | Answer | None:
    """Return a whole GET, or POST to one of `posts`; the answer that refuses anything else; None: more must come."""
    end = got.find(b"\r\n\r\n")
    if end < 0 and len(got) < REQUEST_BYTES:
        return None
    if end < 0 or end > REQUEST_BYTES:
        return refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    first, *lines = got[:end].decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1.") or not words[1].startswith("/"):
        return refused(HTTPStatus.BAD_REQUEST)
    method, (path, _, query) = words[0], words[1].partition("?")
    path = unquote(path)
    if method != "GET" and (method != "POST" or path not in posts):
        return refused(HTTPStatus.METHOD_NOT_ALLOWED)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if "transfer-encoding" in headers:
        return refused(HTTPStatus.LENGTH_REQUIRED)
    body = got[end + 4 :] if method == "POST" else b""
    size = headers.get("content-length", "0") if method == "POST" else "0"
    if not size.isascii() or not size.isdigit() or len(size) > 9 or int(size) > REQUEST_BYTES:
        return refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    if len(body) < int(size):
        return None
    return Request(method, path, dict(parse_qsl(query)), headers, body[: int(size)])


def refused(status: HTTPStatus, why: str = "") -> Answer:
    """Return the answer that says no, with the reason `why` for people."""
    allow = (("Allow", "GET"),) if status is HTTPStatus.METHOD_NOT_ALLOWED else ()
    return Answer(status, f"{why or f'{status.value} {status.phrase}'}\n".encode(), headers=allow)


def to_bytes(answer: Answer) -> bytes:
    """Return the whole response."""
    status, body, content_type, headers = answer
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in headers),
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _answer_of(page: Page, asked: Request) -> Answer | None:
    """Return what a page says; a mistake in it costs this request alone, and not this thread."""
    try:
        return page(asked)
    except Exception:
        log.exception("a request that cannot be answered", path=asked.path)
        return refused(HTTPStatus.INTERNAL_SERVER_ERROR, "this cannot be answered; the station's log says why")


@dataclass(slots=True)
class Peer:
    """One connection: what has come, what is still to be sent; `answered` once its response is made.

    `held` is a request whose page has nothing yet. It has time `until`, which is more while what is sent arrives, but
    never longer than `last`.
    """

    socket: socket.socket
    until: float
    last: float = float("inf")
    got: bytearray = field(default_factory=bytearray)
    rest: memoryview = field(default_factory=lambda: memoryview(b""))
    held: Request | None = None
    answered: bool = False
    greeted: bool = True  # False until a TLS handshake is over


class HttpServer(threading.Thread):
    """Serves `pages` (path -> page) at `address` from `start` until `close`; `posts` are the paths that take POST.

    tls: encrypts every connection. pause_s, held_s: see the constants; a machine that waits wants them short.

    Raises:
        WireError: the address cannot be bound.
    """

    def __init__(
        self,
        address: tuple[str, int],
        pages: Pages,
        posts: Container[str] = (),
        tls: ssl.SSLContext | None = None,
        *,
        pause_s: float = PAUSE_S,
        held_s: float = HELD_S,
    ) -> None:
        super().__init__(name="http", daemon=True)
        self._pages, self._posts, self._tls = pages, posts, tls
        self._pause_s, self._held_s = pause_s, held_s
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
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SENT_AHEAD)
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
            held = [peer for peer in self._peers.values() if peer.held is not None]
            for key, events in self._selector.select(self._held_s if held else TURN_S):
                if key.fileobj is self._listener:
                    self._accept()
                elif (peer := self._peers.get(key.fd)) is not None:
                    self._serve(peer, events)
            for peer in held:
                self._ask_again(peer)
            now = time.monotonic()
            for peer in [peer for peer in self._peers.values() if peer.held is None and peer.until <= now]:
                self._drop(peer)
            time.sleep(self._pause_s)

    def _accept(self) -> None:
        with suppress(OSError):  # it has gone already, or no descriptor is left: the next turn tries again
            accepted, _ = self._listener.accept()
            accepted.setblocking(False)
            if self._tls is not None:
                accepted = self._tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
            if len(self._peers) >= CONNECTIONS:
                idle = (peer for peer in self._peers.values() if peer.held is None)  # those that wait have asked
                self._drop(next(idle, next(iter(self._peers.values()))))
            self._peers[accepted.fileno()] = Peer(accepted, time.monotonic() + PATIENCE_S, greeted=self._tls is None)
            self._selector.register(accepted, selectors.EVENT_READ)

    def _serve(self, peer: Peer, events: int) -> None:
        try:
            if not peer.greeted:
                self._greet(peer)
            elif events & selectors.EVENT_READ:
                self._read(peer)
            elif peer.rest:
                self._write(peer)
        except NOT_YET:
            pass
        except OSError:
            self._drop(peer)

    @staticmethod
    def _greet(peer: Peer) -> None:
        assert isinstance(peer.socket, ssl.SSLSocket)
        peer.socket.do_handshake()  # one whose peer does not even read our part of it runs out of time
        peer.greeted = True

    def _read(self, peer: Peer) -> None:
        data = peer.socket.recv(REQUEST_BYTES)
        while isinstance(peer.socket, ssl.SSLSocket) and peer.socket.pending():  # which no selector sees
            data += peer.socket.recv(REQUEST_BYTES)
        if not data:
            self._drop(peer)
        elif (
            not peer.answered and peer.held is None
        ):  # else the rest of a request, read so that no reset loses the answer
            peer.got += data
            self._answer(peer)

    def _answer(self, peer: Peer) -> None:
        asked = parse_request(bytes(peer.got), self._posts)
        if isinstance(asked, Request):
            peer.held = asked._replace(at=time.monotonic())
            self._ask_again(peer)
        elif asked is not None:
            self._send(peer, asked)

    def _ask_again(self, peer: Peer) -> None:
        """Answer what `peer` has asked for, if its page has something by now."""
        if peer.held is None or peer.socket.fileno() < 0:
            return
        page = self._pages.get(peer.held.path)
        answer = refused(HTTPStatus.NOT_FOUND) if page is None else _answer_of(page, peer.held)
        if answer is not None:
            peer.held, peer.until = None, time.monotonic() + PATIENCE_S
            try:
                self._send(peer, answer)
            except OSError:
                self._drop(peer)

    def _send(self, peer: Peer, answer: Answer) -> None:
        peer.answered, peer.rest = True, memoryview(to_bytes(answer))
        peer.last = time.monotonic() + MOST_S
        self._write(peer)

    def _write(self, peer: Peer) -> None:
        with suppress(*NOT_YET):
            peer.rest = peer.rest[peer.socket.send(peer.rest) :]
            peer.until = min(peer.last, time.monotonic() + PATIENCE_S)  # a large picture over a slow network takes long
        if peer.rest:
            self._selector.modify(peer.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
        else:
            peer.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(peer.socket, selectors.EVENT_READ)

    def _drop(self, peer: Peer) -> None:
        if self._peers.pop(peer.socket.fileno(), None) is not None:
            self._selector.unregister(peer.socket)
        peer.socket.close()
