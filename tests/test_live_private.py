"""The page off loopback: a token and TLS, or nothing."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from line_worker.errors import SinkError
from line_worker.live.door import LATE
from live_bench import Bench, named, until

# ---- with a token and TLS --------------------------------------------------------------------------------------------

TOKEN = "a token that nobody guesses"


class Private(Bench):
    """A page with a token and TLS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        secret(folder / "token", TOKEN + "\n")
        certify(folder)
        super().__init__(
            folder,
            token_file=str(folder / "token"),
            certificate=str(folder / "c.pem"),
            private_key=str(folder / "k.pem"),
        )
        self.trusted = ssl.create_default_context(cafile=str(folder / "c.pem"))

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.trusted)

    def log_in(self, token: str) -> tuple[str, str]:
        """Return where it leads, and the cookie."""
        connection = self.connection()
        try:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/login", urlencode({"token": token}), form)
            answer = connection.getresponse()
            assert answer.status == 303
            return answer.getheader("Location", ""), answer.getheader("Set-Cookie", "")
        finally:
            connection.close()


def secret(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o400)


def certify(folder: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing: apt-get install openssl")
    what = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=page -keyout {folder}/k.pem"
    names = ["-out", f"{folder}/c.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *what.split(), *names], check=True, capture_output=True)
    (folder / "k.pem").chmod(0o400)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Private]:
    found = Private(tmp_path)
    yield found
    found.close()


def test_without_the_token_nobody_sees_anything(private: Private) -> None:
    private.part(0)
    assert private.get("/")[0] == 303
    for path in ("/next", "/rejects", f"/part?{urlencode(named(0))}", "/history", "/page.js"):
        assert private.get(path)[0] == 401
    assert private.get("/next", Cookie="line-worker=" + "0" * 64)[0] == 401
    assert private.get("/next", Cookie="line-worker=\xfc; ;=")[0] == 401
    assert private.post("/judge", **named(0), judgement="good", who="Ada")[0] == 401
    assert private.get("/scores?camera=top")[0] == 401
    assert private.post("/threshold", camera="top", at=0.5, who="Ada")[0] == 401
    assert b"Token" in private.get("/login")[1]


def test_with_the_token_once_the_browser_is_known(private: Private) -> None:
    private.part(0)
    where, cookie = private.log_in(TOKEN)
    assert where == "/"
    assert {"HttpOnly", "SameSite=Strict", "Secure"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    known = {"Cookie": cookie.partition(";")[0]}
    until(lambda: b'"part"' in private.get("/next?seen=", **known)[1])
    body = json.dumps(named(0) | {"judgement": "good", "who": "Ada"}).encode()
    json_ = {"Content-Type": "application/json", **known}
    assert private.get("/judge", body=body, **json_, Origin="https://evil.example")[0] == 403
    assert private.get("/judge", body=body, **json_, Origin=f"https://127.0.0.1:{private.port}")[0] == 200


def test_a_wrong_token_is_answered_late(private: Private) -> None:
    start = time.monotonic()
    assert private.log_in(TOKEN + "?") == ("/login", "")
    assert time.monotonic() - start > 0.9


def test_many_who_guess_keep_nobody_out(private: Private) -> None:
    known = {"Cookie": private.log_in(TOKEN)[1].partition(";")[0]}
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    def guess(number: int) -> int:
        connection = private.connection()
        try:
            connection.request("POST", "/login", urlencode({"token": f"guess {number}"}), form)
            return connection.getresponse().status
        finally:
            connection.close()

    with ThreadPoolExecutor(24) as guessing:
        guesses = [guessing.submit(guess, number) for number in range(24)]
        assert [private.get("/rejects", **known)[0] for _ in range(10)] == [200] * 10
        found = Counter(one.result() for one in guesses)
    assert set(found) == {303, 429}
    assert found[303] <= 2 * LATE, "a wrong token is still answered late"


def test_cookies_of_other_services_on_this_host_lock_nobody_out(private: Private) -> None:
    cookie = private.log_in(TOKEN)[1].partition(";")[0]
    assert private.get("/rejects", Cookie=f'prefs={{"a":1}}; {cookie}; x=y')[0] == 200
    assert private.get("/rejects", Cookie=f"not-{cookie}")[0] == 401


def test_peers_that_do_not_speak_tls_hold_nobody(private: Private) -> None:
    rude = [socket.create_connection(("127.0.0.1", private.port)) for _ in range(10)]
    for n, one in enumerate(rude):
        one.sendall((b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00")[n % 3])
    assert private.get("/login")[0] == 200
    for one in rude:
        one.close()


def test_large_answers_come_whole_through_tls(private: Private) -> None:
    known = {"Cookie": private.log_in(TOKEN)[1].partition(";")[0]}
    folder = private.config.live_path(private.config.sinks[0]) / "top" / "7"  # type: ignore[arg-type]
    folder.mkdir(parents=True)
    (folder / "1-original.png").write_bytes(b"x" * 9_000_000)
    assert len(private.get("/picture?camera=top&epoch=7&seq=1&name=original", **known)[1]) == 9_000_000


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "token").chmod(0o444), "open to others"),
        (lambda folder: (folder / "k.pem").chmod(0o444), "open to others"),
        (lambda folder: (folder / "token").unlink(), "cannot be read"),
        (lambda folder: [(folder / "token").unlink(), secret(folder / "token", "short")], "shorter than 16"),
        (lambda folder: (folder / "c.pem").write_text("no certificate"), "cannot be used for TLS"),
    ],
)
def test_secrets_that_cannot_be_used_serve_nothing(private: Private, spoil: Callable[[Path], Any], why: str) -> None:
    private.live.close()
    spoil(private.folder)
    with pytest.raises(SinkError, match=why):
        private.live.open()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", private.port))
