"""Who may see the page: on loopback everybody on this host; with a token, whoever has given it once in this browser.

The cookie is made from the token, so it outlives restarts and ends when the token is changed. A wrong token is answered
late: guessing takes a connection and a second each time.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from http import HTTPStatus
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
LATE = 2  # wrong tokens that are answered late at once: each keeps one of the server's few places
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
        self._late: list[float] = []  # when wrong tokens came that are not answered yet
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
        now = time.monotonic()
        self._late = [at for at in self._late if now - at < LATE_S]
        if asked.at not in self._late and now - asked.at < LATE_S:
            if len(self._late) >= LATE:
                return refused(HTTPStatus.TOO_MANY_REQUESTS, "others try to log in; try again in a second")
            self._late.append(asked.at)
        if now - asked.at < LATE_S:
            return None
        log.warning("somebody gave a wrong token to the page")
        return _go("/login")

    def _origin(self, host: str) -> str:
        return f"{self._scheme}://{host}"

    def _known(self, asked: Request) -> bool:
        # by hand: the standard library's parser gives up all when another service's cookie, on any port, is no good
        pairs = (pair.strip().partition("=") for pair in asked.headers.get("cookie", "").split(";"))
        given = [value for name, _, value in pairs if name == COOKIE]
        return any(hmac.compare_digest(value.encode(), self._cookie.encode()) for value in given)


def _token(path: Path) -> bytes:
    token = read_secret(path, "the page", "token")
    if len(token) < SHORTEST:
        raise SinkError(f"the page: {path}, its token, is shorter than {SHORTEST} characters, so nothing is served")
    return token


def _go(where: str, *headers: tuple[str, str]) -> Answer:
    return Answer(HTTPStatus.SEE_OTHER, b"", headers=(("Location", where), *headers))
