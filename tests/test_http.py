"""The pages' server: GET only, everything bounded, and nobody who is slow or rude keeps others out."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.errors import WireError
from line_worker.wire import http as pages
from line_worker.wire.http import CONNECTIONS, REQUEST_BYTES, Answer, HttpServer, Request, parse_request

BIG = b"x" * 5_000_000


@pytest.fixture
def server() -> Iterator[HttpServer]:
    server = HttpServer(
        ("127.0.0.1", 0), {"/page": lambda _: Answer(HTTPStatus.OK, b"here"), "/big": big, "/broken": broken}
    )
    server.start()
    yield server
    server.close()
    assert not server.is_alive()


def big(asked: Request) -> Answer:
    return Answer(HTTPStatus.OK, BIG)


def broken(asked: Request) -> Answer:
    raise ZeroDivisionError


def port(server: HttpServer) -> int:
    return int(server._listener.getsockname()[1])


def ask(server: HttpServer, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, str | None]:
    connection = http.client.HTTPConnection("127.0.0.1", port(server), timeout=10)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read(), response.getheader("Allow")
    finally:
        connection.close()


def connect(server: HttpServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port(server)), timeout=10)


def test_pages_are_given_whole(server: HttpServer) -> None:
    assert ask(server, "GET", "/page") == (200, b"here", None)
    assert ask(server, "GET", "/page?since=1") == (200, b"here", None)
    assert ask(server, "GET", "/big")[1] == BIG


def test_a_mistake_in_a_page_costs_that_request_alone(server: HttpServer) -> None:
    assert ask(server, "GET", "/broken")[0] == 500
    assert ask(server, "GET", "/page")[0] == 200


def test_a_large_answer_over_a_slow_network_comes_whole(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PATIENCE_S", 0.3)
    monkeypatch.setattr(pages, "TURN_S", 0.02)
    with connect(server) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        slow.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        got, start = 0, time.monotonic()
        while data := slow.recv(65536):
            got += len(data)
            time.sleep(0.02)
    assert got > len(BIG)
    assert time.monotonic() - start > 2 * pages.PATIENCE_S


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "TRACE", "get"])
def test_anything_but_get_is_refused(server: HttpServer, method: str) -> None:
    status, _, allow = ask(server, method, "/page", b"x" * 50_000 if method in ("POST", "PUT") else None)
    assert (status, allow) == (405, "GET")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /other HTTP/1.1\r\n\r\n", 404),
        (b"GET /../page HTTP/1.1\r\n\r\n", 404),
        (b"GET /page\r\n\r\n", 400),
        (b"GET /page FTP/1.1\r\n\r\n", 400),
        (b"GET http://other/page HTTP/1.1\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /page HTTP/1.1\r\nX: " + b"x" * REQUEST_BYTES, 431),
    ],
)
def test_what_is_no_request_for_a_page_is_refused(server: HttpServer, request_: bytes, status: int) -> None:
    with connect(server) as peer:
        peer.sendall(request_)
        assert peer.makefile("rb").readline().split()[1] == str(status).encode()


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda noise: b"GET /" + noise + b"\r\n\r\n"))
def test_whatever_comes_has_an_answer_or_waits(noise: bytes) -> None:
    found = parse_request(noise)
    assert found is None or isinstance(found, Request) or found.status >= 400


def test_a_request_may_come_in_pieces(server: HttpServer) -> None:
    with connect(server) as peer:
        for piece in (b"GET /pa", b"ge HTTP/1.1\r", b"\nHost: x\r\n\r", b"\n"):
            peer.sendall(piece)
            time.sleep(0.02)
        assert peer.makefile("rb").read().endswith(b"\r\n\r\nhere")


def test_peers_that_say_nothing_keep_nobody_out(server: HttpServer) -> None:
    silent = [connect(server) for _ in range(3 * CONNECTIONS)]
    try:
        assert ask(server, "GET", "/page")[0] == 200
        assert len(server._peers) <= CONNECTIONS
        assert silent[0].recv(1) == b"", "the oldest was given up"
    finally:
        for peer in silent:
            peer.close()


def test_a_peer_has_only_so_much_time(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "PATIENCE_S", 0.1)
    with connect(server) as peer:
        peer.sendall(b"GET /page HTTP/1.1\r\n")
        assert peer.recv(100) == b""


def test_a_peer_that_does_not_read_holds_nobody(server: HttpServer) -> None:
    with connect(server) as slow:
        slow.sendall(b"GET /big HTTP/1.1\r\n\r\n")
        assert ask(server, "GET", "/page")[0] == 200


def test_many_at_once_are_served(server: HttpServer) -> None:
    got: list[int] = []
    threads = [
        threading.Thread(target=lambda: got.append(ask(server, "GET", "/page")[0])) for _ in range(CONNECTIONS // 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [200] * len(threads)


def test_a_peer_that_never_stops_asking_is_paced(server: HttpServer) -> None:
    end, count = time.monotonic() + 0.5, 0
    while time.monotonic() < end:
        assert ask(server, "GET", "/page")[0] == 200
        count += 1
    assert 0 < count <= 0.5 / pages.PAUSE_S + 1


def test_a_taken_port_says_so(server: HttpServer) -> None:
    with pytest.raises(WireError, match=r"cannot be bound.*give another one"):
        HttpServer(("127.0.0.1", port(server)), {})
