"""POST to one address over one connection that is kept; every failure is one SinkError, in bounded time.

A socket's own time-out begins anew with every byte, so a server that drips could hold us for ever: a timer cuts the
connection. Redirects are not followed and nothing of the answer is used but its status.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from line_worker import __version__
from line_worker.errors import SinkError

ANSWER = 1 << 16  # bytes of the answer that are read, so that the connection can be used again
_KEEP = "outcomes stay with the hub, it is tried again"


class Poster:
    """Posts to `url`, each time within `timeout_s`; `ca` signs the server's certificate, None: whom this host trusts.

    Raises:
        SinkError: `ca` cannot be read.
    """

    def __init__(self, url: str, timeout_s: float, ca: Path | None) -> None:
        where = urlsplit(url)
        self._host, self._timeout_s = where.hostname or "", timeout_s
        self._path = (where.path or "/") + (f"?{where.query}" if where.query else "")
        self._port = where.port or (443 if where.scheme == "https" else 80)
        self._context = self._trust(ca) if where.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None

    @property
    def _place(self) -> str:
        """Who it is about; the path stays out of logs, for with many services it is a secret."""
        return f"web server {self._host}:{self._port}"

    def _trust(self, ca: Path | None) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=ca)
        except OSError as error:
            raise SinkError(
                f"{self._place}: {ca} holds no certificates ({error}); nothing is sent; check ca"
            ) from error

    def post(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Post `body`.

        Raises:
            SinkError: the server cannot be reached, does not answer in time, or answers anything but 2xx.
        """
        kept = self._connection is not None
        try:
            self._exchange(body, headers)
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            self.close()
            if not kept:
                raise self._failed(f"cannot be reached ({_words(error)})") from error
            self._again(body, headers)  # it has closed the connection that we had kept, as servers do

    def _again(self, body: bytes, headers: Mapping[str, str]) -> None:
        try:
            self._exchange(body, headers)
        except (http.client.RemoteDisconnected, ConnectionError) as error:
            self.close()
            raise self._failed(f"cannot be reached ({_words(error)})") from error

    def _exchange(self, body: bytes, headers: Mapping[str, str]) -> None:
        connection = self._connection or self._new()
        self._connection = connection
        named = {"User-Agent": f"line-worker/{__version__}"} | dict(headers)
        cut = threading.Event()
        try:
            with _within(connection, self._timeout_s, cut):
                connection.request("POST", self._path, body, named)
                answer = connection.getresponse()
                whole = answer.read(ANSWER)
            if cut.is_set():  # what was cut off reads like the end of an answer
                raise TimeoutError
            if answer.length and len(whole) < ANSWER:
                raise http.client.IncompleteRead(whole, answer.length)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise self._failed(f"its certificate is not accepted: {error.verify_message}; check url and ca") from error
        except (http.client.HTTPException, OSError) as error:
            if cut.is_set() or isinstance(error, TimeoutError):
                self.close()
                raise self._failed(f"does not answer within {self._timeout_s:g} s") from error
            if isinstance(error, (http.client.RemoteDisconnected, ConnectionError)):
                raise
            self.close()
            raise self._failed(f"cannot be used ({_words(error)})") from error
        if not answer.isclosed():
            self.close()  # more than we care to read
        self._judge(answer)

    def _judge(self, answer: http.client.HTTPResponse) -> None:
        if 200 <= answer.status < 300:
            return
        status = f"{answer.status} {answer.reason}".strip()[:80]
        if 300 <= answer.status < 400:
            raise self._failed(f"answers {status}: redirects are not followed; set url to where it points")
        raise self._failed(f"answers {status}; look into its log, and check url and secret_file")

    def _new(self) -> http.client.HTTPConnection:
        if self._context is None:
            return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._context)

    def _failed(self, why: str) -> SinkError:
        return SinkError(f"{self._place}: {why}; {_KEEP}")

    def close(self) -> None:
        """Close the connection; the next post opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@contextmanager
def _within(connection: http.client.HTTPConnection, seconds: float, cut: threading.Event) -> Iterator[None]:
    """Cut `connection` after `seconds`."""

    def stop() -> None:
        cut.set()
        if connection.sock is not None:
            with suppress(OSError):  # it is gone already
                connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _words(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)) or type(error).__name__
