"""`/metrics` and `/health` of a running hub, from a thread of its own.

The hub's loop publishes an immutable snapshot four times a second; the thread reads the latest one and nothing else,
so that a slow or hostile scraper cannot hold a decision. A text is made at most four times a second, however many ask.
A port that is taken costs the metrics, never the line: it is logged.
"""

from __future__ import annotations

import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import structlog

from line_worker.errors import WireError
from line_worker.hub import snapshot
from line_worker.hub.observed import Observed
from line_worker.hub.snapshot import Snapshot
from line_worker.wire.http import JSON, Answer, HttpServer, Request
from line_worker.wire.messages import Outcome

if TYPE_CHECKING:
    from line_worker.hub.run import Hub

log = structlog.get_logger()

PUBLISH_S = 0.25
FRESH_S = 0.25  # how old a text may be that is given again


class Monitor:
    """Serves at `address` ("127.0.0.1:9464") until `close`; "" serves nothing and costs nothing."""

    def __init__(self, address: str) -> None:
        self._observed = Observed()
        self._seen: Snapshot | None = None
        self._published_at = -PUBLISH_S
        self._text, self._text_at = b"", -FRESH_S
        self._server = self._serve(address) if address else None

    def _serve(self, address: str) -> HttpServer | None:
        import line_worker.hub.exposition  # noqa: F401 - now, not while parts are being decided

        host, port = address.rsplit(":", 1)
        try:
            server = HttpServer((host, int(port)), {"/metrics": self._metrics, "/health": self._health})
        except WireError as error:
            log.error("no metrics are served", error=str(error))  # noqa: TRY400 - said to the user, in words
            return None
        server.start()
        return server

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.close()

    # ---- the hub's side -----------------------------------------------------------------------------------------

    def take(self, outcome: Outcome, now: float) -> None:
        """Count a released outcome."""
        if self._server is not None:
            self._observed.take(outcome, now)

    def publish(self, hub: Hub, now: float) -> None:
        """Show the hub as it is now, unless that was done a moment ago."""
        if self._server is not None and now - self._published_at >= PUBLISH_S:
            self._published_at = now
            self._seen = snapshot.take(hub, self._observed, now)

    # ---- the thread's side --------------------------------------------------------------------------------------

    def _metrics(self, asked: Request) -> Answer:
        from line_worker.hub.exposition import CONTENT_TYPE, Exposition

        seen, now = self._seen, time.monotonic()
        if seen is None:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, b"the hub's loop has not turned yet\n")
        if now - self._text_at >= FRESH_S:
            self._text, self._text_at = Exposition(seen, now).text(), now
        return Answer(HTTPStatus.OK, self._text, CONTENT_TYPE)

    def _health(self, asked: Request) -> Answer:
        told = snapshot.health(self._seen, time.monotonic())
        status = HTTPStatus.OK if told["status"] == "ok" else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(status, json.dumps(told).encode() + b"\n", JSON)
