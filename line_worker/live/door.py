"""Who may see the page: on loopback everybody on this host; with a token, whoever has given it once in this browser.

The cookie is made from the token, so it outlives restarts and ends when the token is changed. A wrong token is answered
late: guessing takes a connection and a second each time.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import structlog

from line_worker.errors import SinkError
from line_worker.sink.secret import read_secret
from line_worker.sink.served import is_named
from line_worker.wire.http import Answer, Request, refused

if TYPE_CHECKING:
    from pathlib import Path

    from line_worker.config import LiveSink

log = structlog.get_logger()

COOKIE = "line-worker"
KEPT_S = 30 * 24 * 3600
LATE_S = 1.0
SHORTEST = 16  # characters of a token


class Door:
    """Opens for requests that may come in. `token` is empty where none is needed.

    Raises:
        SinkError: the token cannot be read, or is too short.
    """

    def __init__(self, sink: LiveSink) -> None:
        self._host, self._port = sink.host, sink.port
        self._scheme = "https" if sink.certificate else "http"
        self._token = _token(sink.token_file) if sink.token_file else b""
        self._cookie = hmac.new(self._token, b"line-worker page", hashlib.sha256).hexdigest()

    def refuse(self, asked: Request) -> Answer | None:
        """Return the answer to a request that may not come in, None to one that may."""
        host = asked.headers.get("host", "")
        if not self._token and not is_named(asked, self._host, self._port):
            return refused(HTTPStatus.FORBIDDEN, "this page is not served under that name")
        if asked.method == "POST" and asked.headers.get("origin", self._origin(host)) != self._origin(host):
            return refused(HTTPStatus.FORBIDDEN, "only this page may send that")
        if self._token and not self._known(asked):
            return _go("/login") if asked.path == "/" else refused(HTTPStatus.UNAUTHORIZED, "log in first")
        return None

    def log_in(self, asked: Request) -> Answer | None:
        """Let in who sends the token; None: not yet."""
        given = parse_qs(asked.body.decode("latin-1")).get("token", [""])[0]
        if hmac.compare_digest(given.encode(), self._token) and self._token:
            secure = "; Secure" if self._scheme == "https" else ""
            cookie = f"{COOKIE}={self._cookie}; Path=/; Max-Age={KEPT_S}; HttpOnly; SameSite=Strict{secure}"
            return _go("/", ("Set-Cookie", cookie))
        if time.monotonic() - asked.at < LATE_S:
            return None
        log.warning("somebody gave a wrong token to the page")
        return _go("/login")

    def _origin(self, host: str) -> str:
        return f"{self._scheme}://{host}"

    def _known(self, asked: Request) -> bool:
        try:
            found = SimpleCookie(asked.headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return found is not None and hmac.compare_digest(found.value.encode(), self._cookie.encode())


def _token(path: Path) -> bytes:
    token = read_secret(path, "the page", "token")
    if len(token) < SHORTEST:
        raise SinkError(f"the page: {path}, its token, is shorter than {SHORTEST} characters, so nothing is served")
    return token


def _go(where: str, *headers: tuple[str, str]) -> Answer:
    return Answer(HTTPStatus.SEE_OTHER, b"", headers=(("Location", where), *headers))
