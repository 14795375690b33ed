"""The webhook sink against a real web server (http.server) that refuses, hangs, drips, lies and restarts."""

from __future__ import annotations

import hashlib
import hmac
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from line_worker.config import Config, parse
from line_worker.errors import SinkError
from line_worker.sink.webhook import Webhook
from line_worker.wire.messages import FrameKey, Outcome

HOST = "127.0.0.1"
SECRET = b"not for others"


def outcome(seq: int, *, reason: int = 0) -> Outcome:
    verdict = {0: "PASS", 1: "FAIL"}.get(reason, "NO_DECISION")
    return Outcome(
        *(seq + 1, FrameKey("line-1", "top", 7, seq), verdict, reason, 0.5, 1.0, (), "beef" * 16, "w", 1),
        *(f"part-{seq}", seq, 10.0, 400.0, 1.7e9 + seq, {"score": 3.0}),
    )


class Peer:
    """A web server that does what `behave` says with every request, and remembers what it has taken."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.accepted: set[int] = set()  # numbers of results in requests that were answered 2xx
        self.behave: Callable[[BaseHTTPRequestHandler], None] = answer(204)
        self.connections, self.sockets = 0, list[socket.socket]()
        self.release = threading.Event()  # what hangs ends
        peer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                peer.connections += 1
                peer.sockets.append(self.request)
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                peer.requests.append((dict(self.headers), body))
                self.numbers = [int(one["MeasId"]["Id"]) for one in json.loads(body)["Results"]]
                with suppress(OSError):  # the client has gone
                    peer.behave(self)

            def send_response(self, code: int, message: str | None = None) -> None:
                super().send_response(code, message)
                if code in (200, 204):
                    peer.accepted.update(self.numbers)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer((HOST, port), Handler)
        self._server.daemon_threads = True
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def take(self) -> list[int]:
        """Return the numbers of the results in all requests, in order of arrival."""
        return [int(one["MeasId"]["Id"]) for _, body in self.requests for one in json.loads(body)["Results"]]

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.socket.close()
        for one in self.sockets:  # as when the process ends
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._thread.join()


def answer(status: int, body: bytes = b"", **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    return behave


@pytest.fixture
def peer() -> Iterator[Peer]:
    running = Peer()
    yield running
    running.close()


def line(folder: Path, url: str, **sink: Any) -> Config:
    secret = folder / "secret"
    if not secret.exists():
        secret.write_bytes(SECRET + b"\n")
        secret.chmod(0o400)
    return parse(
        {
            "line": {"name": "line-1", "runtime": "run", "data": "data"},
            "cameras": [{"name": "top", "deadline_ms": 500, "source": {"kind": "synthetic"}}],
            "workers": {"bundle": "some.bundle"},
            "sinks": [{"kind": "webhook", "url": url, "secret_file": str(secret), "timeout_s": 0.5} | sink],
        }
    )


def sink_of(folder: Path, url: str, **sink: Any) -> Webhook:
    config = line(folder, url, **sink)
    found = Webhook(config.sinks[0], config)  # type: ignore[arg-type]
    found.open()
    return found


@pytest.fixture
def sink(peer: Peer, tmp_path: Path) -> Iterator[Webhook]:
    found = sink_of(tmp_path, f"http://{HOST}:{peer.port}/results?token=geheim")
    yield found
    found.close()


def send(sink: Webhook, *outcomes: Outcome) -> None:
    for one in outcomes:
        assert sink.deliver(one, 0.0)
    sink.settle()


# ---- what arrives ----------------------------------------------------------------------------------------------------


def test_the_body_is_signed_so_that_a_few_lines_can_check_it(peer: Peer, sink: Webhook) -> None:
    send(sink, outcome(3, reason=1))
    [(headers, body)] = peer.requests
    stamp = headers["X-Line-Worker-Timestamp"]
    expected = hmac.new(SECRET, stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
    assert headers["X-Line-Worker-Signature"] == f"sha256={expected}"
    assert abs(int(stamp) - time.time()) < 60
    assert headers["Content-Type"] == "application/json"
    [found] = json.loads(body)["Results"]
    assert found["ResultId"] == {"Id": "line-1/top/7/3"}
    assert (found["PartId"], found["IsSimulated"], found["ResultState"]) == ({"Id": "part-3"}, True, 1)
    assert found["ResultContent"][0]["Verdict"] == "FAIL"


def test_what_waits_goes_together_over_one_connection(peer: Peer, tmp_path: Path) -> None:
    found = sink_of(tmp_path, f"http://{HOST}:{peer.port}", batch=10)
    send(found, *(outcome(seq) for seq in range(25)))
    send(found, outcome(25))
    assert peer.take() == list(range(26))
    assert [len(json.loads(body)["Results"]) for _, body in peer.requests] == [10, 10, 5, 1]
    assert peer.connections == 1
    found.close()


def test_a_connection_that_the_server_has_closed_meanwhile_is_no_failure(peer: Peer, sink: Webhook) -> None:
    peer.behave = answer(204, Connection="close")
    for seq in range(3):
        send(sink, outcome(seq))

    def close_silently(handler: BaseHTTPRequestHandler) -> None:
        answer(204)(handler)
        handler.close_connection = True

    peer.behave = close_silently
    for seq in range(3, 6):
        send(sink, outcome(seq))
    assert peer.take() == list(range(6))


# ---- servers that misbehave ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behave", "says"),
    [
        (answer(500), "answers 500 Internal Server Error; look into its log"),
        (answer(401), "answers 401 Unauthorized; look into its log, and check url and secret_file"),
        (answer(302, Location="http://127.0.0.1:1/"), "answers 302 Found: redirects are not followed"),
        (answer(100), "web server"),
        (lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n"), "web server"),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf"), "web server"),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 100_000), "web server"),
    ],
    ids=["500", "401", "redirect", "100", "another protocol", "half an answer", "endless header"],
)
def test_whatever_is_not_a_plain_yes_keeps_the_outcome(
    peer: Peer, sink: Webhook, behave: Callable[[BaseHTTPRequestHandler], None], says: str
) -> None:
    def once(handler: BaseHTTPRequestHandler) -> None:
        behave(handler)
        handler.close_connection = True

    peer.behave = once
    with pytest.raises(SinkError, match=says) as told:
        send(sink, outcome(0))
    assert "outcomes stay with the hub" in str(told.value)
    assert "geheim" not in str(told.value)
    assert sink.reachable() == (False, str(told.value))
    peer.behave = answer(200, b"thank you")
    send(sink, outcome(0), outcome(1))
    assert sink.reachable() == (True, "")
    assert peer.take()[-2:] == [0, 1]


def hang(peer: Peer) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: bool(peer.release.wait(30)) and None


def drip(peer: Peer) -> Callable[[BaseHTTPRequestHandler], None]:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while not peer.release.wait(0.1):
            handler.wfile.write(b"X: y\r\n")

    return behave


@pytest.mark.parametrize("how", [hang, drip])
def test_a_server_that_hangs_or_drips_is_given_up_in_bounded_time(
    peer: Peer, sink: Webhook, how: Callable[[Peer], Callable[[BaseHTTPRequestHandler], None]]
) -> None:
    peer.behave = how(peer)
    start = time.monotonic()
    with pytest.raises(SinkError, match=r"does not answer within 0\.5 s"):
        send(sink, outcome(0))
    assert time.monotonic() - start < 2
    peer.behave = answer(204)
    send(sink, outcome(0))
    assert peer.take() == [0, 0]


def test_an_endless_answer_costs_no_memory_and_counts(peer: Peer, sink: Webhook) -> None:
    peer.behave = answer(200, b"x" * 10_000_000)
    send(sink, outcome(0))
    peer.behave = answer(204)
    send(sink, outcome(1))
    assert peer.take() == [0, 1]


def test_of_a_batch_that_was_taken_in_part_only_the_rest_goes_out_again(peer: Peer, tmp_path: Path) -> None:
    found = sink_of(tmp_path, f"http://{HOST}:{peer.port}", batch=2)

    def second_fails(handler: BaseHTTPRequestHandler) -> None:
        answer(503 if len(peer.requests) == 2 else 204)(handler)

    peer.behave = second_fails
    with pytest.raises(SinkError, match="503"):
        send(found, *(outcome(seq) for seq in range(4)))
    send(found, *(outcome(seq) for seq in range(4)))
    assert peer.take() == [0, 1, 2, 3, 2, 3]
    found.close()


def test_a_slow_server_does_not_keep_the_runner_for_ever(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("line_worker.sink.webhook.BUSY_S", 0.3)
    found = sink_of(tmp_path, f"http://{HOST}:{peer.port}", batch=1)

    def slowly(handler: BaseHTTPRequestHandler) -> None:
        time.sleep(0.1)
        answer(204)(handler)

    peer.behave = slowly
    with pytest.raises(SinkError, match=r"the server is slow, .* results wait; set a larger batch"):
        send(found, *(outcome(seq) for seq in range(10)))
    taken = peer.take()
    assert 1 <= len(taken) < 8
    peer.behave = answer(204)
    send(found, *(outcome(seq) for seq in range(10)))
    assert peer.take() == list(range(10))
    found.close()


def test_a_server_that_is_away_and_comes_back(tmp_path: Path) -> None:
    first = Peer()
    found = sink_of(tmp_path, f"http://{HOST}:{first.port}")
    send(found, outcome(0))
    first.close()
    for _ in range(2):
        with pytest.raises(SinkError, match=rf"web server {HOST}:{first.port}: (cannot be reached|does not answer)"):
            send(found, outcome(1))
    again = Peer(first.port)
    send(found, outcome(1))
    assert again.take() == [1]
    again.close()
    found.close()


# ---- who it is -------------------------------------------------------------------------------------------------------


def certificate(folder: Path) -> ssl.SSLContext:
    """Make a certificate for `localhost` in `folder`."""
    missing = "asyncua is missing: pip install 'line-worker[opcua]'"
    cert_gen = pytest.importorskip("asyncua.crypto.cert_gen", reason=missing)
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = cert_gen.generate_private_key()
    made = cert_gen.generate_self_signed_app_certificate(
        key, "localhost", {}, [x509.DNSName("localhost")], [ExtendedKeyUsageOID.SERVER_AUTH]
    )
    (folder / "key.pem").write_bytes(cert_gen.dump_private_key_as_pem(key))
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def test_over_tls_only_to_the_name_in_the_certificate(tmp_path: Path) -> None:
    peer = Peer(context=certificate(tmp_path))
    try:
        ca = str(tmp_path / "cert.pem")
        found = sink_of(tmp_path, f"https://localhost:{peer.port}", ca=ca)
        send(found, outcome(0))
        found.close()
        for url, more, says in (
            (f"https://{HOST}:{peer.port}", {"ca": ca}, "certificate is not accepted: IP address mismatch"),
            (f"https://localhost:{peer.port}", {}, "certificate is not accepted: self-signed certificate"),
        ):
            found = sink_of(tmp_path, url, **more)
            with pytest.raises(SinkError, match=says):
                send(found, outcome(1))
            found.close()
        assert peer.take() == [0]
    finally:
        peer.close()


def test_a_secret_that_others_can_read_is_not_used(peer: Peer, tmp_path: Path) -> None:
    line(tmp_path, f"http://{HOST}:{peer.port}")
    (tmp_path / "secret").chmod(0o444)
    with pytest.raises(SinkError, match=r"its secret, is open to others, so it is not used; chmod 400"):
        sink_of(tmp_path, f"http://{HOST}:{peer.port}")


# ---- a whole line ----------------------------------------------------------------------------------------------------

LINE_TOML = """
[line]
name = "line-1"
runtime = "{folder}/run"
data = "{folder}/data"
[[cameras]]
name = "top"
deadline_ms = 2000
source = {{ kind = "synthetic", part = "noise", parts = 250, rate = 50, width = 64, height = 64 }}
canary_every_s = 0
[workers]
bundle = "stub"
[[sinks]]
kind = "webhook"
url = "http://127.0.0.1:{port}/results"
secret_file = "{folder}/secret"
timeout_s = 1
"""


@pytest.mark.long
def test_a_line_whose_server_fails_hangs_and_restarts_loses_nothing(short_path: Path) -> None:
    first = Peer()
    (short_path / "secret").write_bytes(SECRET)
    (short_path / "secret").chmod(0o400)
    (short_path / "line.toml").write_text(LINE_TOML.format(folder=short_path, port=first.port))
    process = subprocess.Popen(
        [sys.executable, "-m", "line_worker.cli", "serve", str(short_path / "line.toml")], stderr=subprocess.PIPE
    )
    try:
        _until(lambda: len(first.take()) > 40, 60)
        first.behave = answer(503)
        time.sleep(0.5)
        first.behave = hang(first)
        time.sleep(0.5)
        first.close()
        time.sleep(1.0)
        again = Peer(first.port)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told[-2000:]
        assert first.accepted | again.accepted == set(range(250))
        again.close()
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()


def _until(condition: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_a_peer_that_listens_and_never_accepts_is_given_up(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as mute:
        found = sink_of(tmp_path, f"http://{HOST}:{mute.getsockname()[1]}")
        with pytest.raises(SinkError, match=r"does not answer within 0\.5 s"):
            send(found, outcome(0))
        found.close()


def test_a_server_that_drips_while_it_greets_is_given_up_in_bounded_time(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as listener:
        ended = threading.Event()

        def greet() -> None:
            with suppress(OSError), listener.accept()[0] as peer:
                peer.sendall(b"\x16\x03\x03\x10\x00\x02\x00\x0f\xfc")  # a TLS record of 4 KB begins, slower than slowly
                while not ended.wait(0.1):
                    peer.sendall(b"\x03")

        server = threading.Thread(target=greet)
        server.start()
        found = sink_of(tmp_path, f"https://{HOST}:{listener.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(SinkError, match=r"does not answer within 0\.5 s"):
            send(found, outcome(0))
        assert time.monotonic() - start < 3
        found.close()
        ended.set()
        server.join()
