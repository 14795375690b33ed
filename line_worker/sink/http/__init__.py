"""The http sink: whoever has a part asks for its verdict, and gets it in the answer.

    POST /parts            {"part_id": "A-17"}, or {}: 202 and the part's number, at once
    POST /parts?wait=1     the same; the answer comes with the verdict, by the part's deadline: 200
    GET  /parts?trigger=N  what is known of part N
    GET  /state            the station's state and why

The cameras whose trigger names this sink take the picture. A part is good only if `verdict` is "PASS" in an answer of
status 200 that came in time; everything else, and no answer, rejects. A client that repeats a request gives both the
same `Idempotency-Key`: it is one part. On loopback everybody may come in; with a token, whoever sends it as
`Authorization: Bearer TOKEN`. A request of a browser's foreign page cannot be `application/json`, so that is asked for.
"""

from __future__ import annotations

import hmac
import json
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

from line_worker.errors import SinkError, WireError
from line_worker.sink import Ask, QuietSink
from line_worker.sink.http.visits import Visits
from line_worker.sink.secret import read_secret
from line_worker.sink.served import encryption, is_named
from line_worker.wire.http import JSON, Answer, HttpServer, Request, refused

if TYPE_CHECKING:
    from line_worker.config import Config, HttpSink
    from line_worker.wire.messages import HubState, Outcome

log = structlog.get_logger()

PAUSE_S, HELD_S = 0.001, 0.002
SHORTEST = 16  # characters of a token
LONGEST = 200  # of a part id or a key


class Http(QuietSink):
    """The sink for clients over HTTP. Real-time: an answer counts until its part's deadline."""

    durable = False

    def __init__(self, sink: HttpSink, config: Config) -> None:
        self._sink = sink
        cameras = [c.name for c in config.cameras if getattr(c.trigger, "sink", None) == sink.name]
        groups = [parts.name for parts in config.parts if {*parts.cameras} & {*cameras}]
        self.names = [*groups, *(name for name in cameras if name not in config.views())]
        deadline_s = max((config.deadline_ms(name) for name in self.names), default=0.0) / 1000
        self._lock = threading.Lock()  # the visits are used by the runner's thread and by the server's
        self._visits = Visits(self.names, deadline_s, time.time_ns() // 1_000_000)
        self._server: HttpServer | None = None
        self._token = b""

    def open(self) -> None:
        """Begin to serve.

        Raises:
            SinkError: the port is taken, or the token or the certificate cannot be used.
        """
        self.close()
        if self._sink.token_file is not None:
            self._token = read_token(self._sink)
        pages = {"/parts": self._parts, "/state": self._state}
        address, tls = (self._sink.host, self._sink.port), encryption(self._sink, f"sink {self._sink.name}")
        try:
            self._server = HttpServer(address, pages, ("/parts",), tls, pause_s=PAUSE_S, held_s=HELD_S)
        except WireError as error:
            raise SinkError(f"sink {self._sink.name}: {error}; no part can be announced") from error
        self._server.start()

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Have `outcome` for whoever asks."""
        with self._lock:
            self._visits.take(outcome, now)
        return True

    def beat(self, state: HubState, now: float) -> None:
        """Take the hub's state."""
        with self._lock:
            self._visits.beat(state, now)

    def asks(self) -> list[Ask]:
        """Return the parts that were announced."""
        with self._lock:
            return list(self._visits.take_asks())

    def poll(self, now: float) -> None:
        """See that somebody serves.

        Raises:
            SinkError: the thread that does has ended; the process ends with it, and is started again.
        """
        if self._server is not None and not self._server.is_alive():
            self.close()
            raise SinkError(f"sink {self._sink.name}: its server has ended; no part can be announced")

    def reachable(self) -> tuple[bool, str]:
        """Whether clients are served."""
        return (True, "") if self._server is not None and self._server.is_alive() else (False, "nobody is served")

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()
            self._server = None

    # ---- pages ----------------------------------------------------------------------------------------------------

    def _parts(self, asked: Request) -> Answer | None:
        denied = self._denied(asked)
        if denied is not None:
            return denied
        now = time.monotonic()
        with self._lock:
            if asked.method == "GET":
                number = asked.query.get("trigger", "")
                visit = self._visits.find(int(number)) if number.isdecimal() else None
                if visit is None:
                    return refused(HTTPStatus.NOT_FOUND, "no part of that number is remembered; give trigger=NUMBER")
                return _json(HTTPStatus.OK, self._visits.answer(visit, now))
            part_id = _part_id(asked)
            if isinstance(part_id, Answer):
                return part_id
            key = asked.headers.get("idempotency-key", "")
            if len(key) > LONGEST:
                return refused(HTTPStatus.BAD_REQUEST, f"an Idempotency-Key has up to {LONGEST} characters")
            visit = self._visits.announce(
                part_id, key or f"at {asked.at}", asked.at
            )  # it is asked again while it waits
            if visit is None:
                return refused(HTTPStatus.UNPROCESSABLE_ENTITY, "this Idempotency-Key belongs to another part_id")
            if asked.query.get("wait") != "1":
                return _json(HTTPStatus.ACCEPTED, {"trigger": visit.number, "part_id": visit.part_id})
            if not self._visits.is_over(visit, now):
                return None
            return _json(HTTPStatus.OK, self._visits.answer(visit, now))

    def _state(self, asked: Request) -> Answer:
        denied = self._denied(asked)
        if denied is not None:
            return denied
        with self._lock:
            return _json(HTTPStatus.OK, self._visits.station(time.monotonic()))

    def _denied(self, asked: Request) -> Answer | None:
        """Return the answer to a request that may not come in."""
        if not self._token and not is_named(asked, self._sink.host, self._sink.port):
            return refused(HTTPStatus.FORBIDDEN, "this is not served under that name")
        given = asked.headers.get("authorization", "").encode()
        if self._token and not hmac.compare_digest(given, b"Bearer " + self._token):
            log.warning("a request without the token", path=asked.path)
            return refused(HTTPStatus.UNAUTHORIZED, "send Authorization: Bearer TOKEN")
        if asked.method == "POST" and asked.headers.get("content-type", "").split(";")[0].strip() != JSON:
            return refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"send Content-Type: {JSON}")
        return None


def read_token(sink: HttpSink) -> bytes:
    """Return what clients must know.

    Raises:
        SinkError: it cannot be read, or is too short.
    """
    assert sink.token_file is not None
    token = read_secret(sink.token_file, f"sink {sink.name}", "token")
    if len(token) < SHORTEST:
        raise SinkError(f"sink {sink.name}: {sink.token_file} is shorter than {SHORTEST} characters; nobody is served")
    return token


def _part_id(asked: Request) -> str | Answer:
    try:
        body = json.loads(asked.body or b"{}")
    except (ValueError, RecursionError):
        return refused(HTTPStatus.BAD_REQUEST, "the body is no JSON; no part was announced")
    part_id = body.get("part_id", "") if isinstance(body, dict) and body.keys() <= {"part_id"} else None
    if not isinstance(part_id, str) or len(part_id) > LONGEST or not part_id.isprintable():
        what = f'{{"part_id": "up to {LONGEST} printable characters"}} or {{}}'
        return refused(HTTPStatus.BAD_REQUEST, f"send {what}; no part was announced")
    return part_id


def _json(status: HTTPStatus, body: object) -> Answer:
    return Answer(status, json.dumps(body).encode() + b"\n", JSON)
