"""What is served where.

    GET  /                          the page; its style and script beside it
    GET  /next?seen=N&camera=C&longest=P&board=0    the next part after number N: a line of JSON, then a JPEG. With no
                                    newer part it waits, half a second at most, and tells the station's state alone.
                                    Asking for the next one says that the one before has been drawn. The picture is as
                                    large as the largest that is asked for: P is how many pixels its longer side is
                                    shown in. The station's state is left out with board=0.
    GET  /rejects                   the last rejects
    GET  /part?camera=C&epoch=E&seq=N                   one part, with the names of its pictures and the judgement on it
    GET  /picture?camera=C&epoch=E&seq=N&name=NAME      one of them, as PNG
    GET  /history?since=&before=&part=&camera=&verdict=&reason=&behind=  parts from the store, the newest first
    GET  /scores?camera=C           the last scores of a camera, and those of judged parts
    POST /keep  {camera, epoch, seq}                    keep the pictures of a part that was shown lately, then as /part
    POST /judge {camera, epoch, seq, judgement, who}    write what somebody says of it, then as /part
    POST /threshold {camera, at, who, less_sensitive}   another limit for a camera; at null: the bundle's own
    GET, POST /login                where the line has a token

Requests come from a browser that shows this page, or are refused (see `door`): another site's page in the same browser
could otherwise send them, under a name of its own that leads here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Any

from line_worker.errors import ConfigError, SinkError
from line_worker.live.door import Door
from line_worker.live.explorer import Explorer
from line_worker.live.painter import ORIGINAL, Painter, Shown
from line_worker.live.pictures import SHOWN
from line_worker.live.records import Records
from line_worker.live.searching import Searcher
from line_worker.wire.http import JSON, Answer, Page, Request, refused

WAIT_S = 0.5
KEEP_S = 2.0  # until the pictures of a part have been written
KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
STATIC = ("page.css", "page.js", "tools.js", "newest.js", "rejects.js", "closer.js", "history.js", "limit.js")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (("Content-Security-Policy", POLICY), ("Referrer-Policy", "same-origin"))


class Site:
    """The pages of one line. `board` is what is known beside the pictures."""

    def __init__(self, painter: Painter, records: Records, explorer: Explorer, searcher: Searcher, door: Door) -> None:
        self.board: dict[str, Any] = {}
        self._searcher = searcher
        self._painter, self._records, self._explorer, self._door = painter, records, explorer, door
        posts: dict[str, Page] = {"/keep": self._keep, "/judge": self._judge, "/threshold": self._threshold}
        pages: dict[str, Page] = {
            "/next": self._next,
            "/rejects": self._rejects,
            "/part": self._part,
            "/picture": self._picture,
            "/history": self._history,
            "/scores": self._scores,
            "/": _static("index.html"),
            **{f"/{name}": _static(name) for name in STATIC},
        }
        self.pages = {path: self._guarded(page) for path, page in pages.items()}
        self.pages |= {path: self._guarded(page, json_only=True) for path, page in posts.items()}
        self.pages |= {"/login": self._login, "/page.css": pages["/page.css"]}
        self.posts = frozenset({"/login", *posts})

    def _guarded(self, page: Page, *, json_only: bool = False) -> Page:
        def guarded(asked: Request) -> Answer | None:
            if (no := self._door.refuse(asked)) is not None:
                return no
            if json_only and not _is_json(asked):
                return refused(HTTPStatus.FORBIDDEN, "only this page may send that")
            try:
                return page(asked)
            except (ConfigError, SinkError) as error:
                bad = isinstance(error, ConfigError)
                return refused(HTTPStatus.BAD_REQUEST if bad else HTTPStatus.SERVICE_UNAVAILABLE, _words(error))

        return guarded

    # ---- pages --------------------------------------------------------------------------------------------------

    def _next(self, asked: Request) -> Answer | None:
        now = time.monotonic()
        self._painter.watch(now, _longest(asked.query.get("longest", "")))
        shown = self._newest(asked.query.get("camera", ""))
        if shown is not None and str(shown.number) == asked.query.get("seen", ""):
            shown = None
        if shown is None and now - asked.at < WAIT_S:
            return None
        told: dict[str, Any] = {"rejects": self._painter.rejects_number}
        if asked.query.get("board") != "0" or shown is None:
            told["board"] = self.board
        if shown is not None:
            told |= {"number": shown.number, "part": shown.part}
        return Answer(HTTPStatus.OK, json.dumps(told).encode() + b"\n" + (shown.jpeg if shown else b""), _BYTES)

    def _newest(self, camera: str) -> Shown | None:
        newest = self._painter.newest.copy()
        if camera:
            return newest.get(camera)
        return max(newest.values(), key=lambda shown: shown.number, default=None)

    def _rejects(self, asked: Request) -> Answer:
        painter = self._painter
        return _json({"number": painter.rejects_number, "rejects": painter.rejects})

    def _picture(self, asked: Request) -> Answer:
        path = self._records.picture(self._records.key(asked.query), asked.query.get("name", ""))
        try:
            return _GONE if path is None else Answer(HTTPStatus.OK, path.read_bytes(), "image/png", HEADERS)
        except OSError:  # it has been dropped just now
            return _GONE

    def _part(self, asked: Request) -> Answer:
        part = self._records.part(self._records.key(asked.query))
        return refused(HTTPStatus.NOT_FOUND, "this part is not known here (any more)") if part is None else _json(part)

    def _keep(self, asked: Request) -> Answer | None:
        key = self._records.key(_body(asked))
        if self._records.picture(key, ORIGINAL) is None:
            self._painter.keep(key)
            if time.monotonic() - asked.at < KEEP_S:
                return None
        return self._part(asked._replace(query={"camera": key.camera, "epoch": str(key.epoch), "seq": str(key.seq)}))

    def _judge(self, asked: Request) -> Answer:
        return _json(self._records.judge(_body(asked)))

    def _scores(self, asked: Request) -> Answer:
        return _json(self._explorer.view(asked.query))

    def _threshold(self, asked: Request) -> Answer:
        return _json(self._explorer.change(_body(asked)))

    def _login(self, asked: Request) -> Answer | None:
        return self._door.log_in(asked) if asked.method == "POST" else _LOGIN(asked)

    def _history(self, asked: Request) -> Answer | None:
        def search() -> dict[str, Any]:
            return self._records.history(asked.query, lambda: self._searcher.stopping)

        found = self._searcher.answer((asked.at, *sorted(asked.query.items())), search, time.monotonic())
        return None if found is None else _json(found)


_BYTES = "application/octet-stream"


_GONE = refused(HTTPStatus.NOT_FOUND, "this picture is not kept (any more)")


def _longest(asked: str) -> int:
    return int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 6 else SHOWN


def _is_json(asked: Request) -> bool:
    """Whether a request says that it is JSON: a form on another site cannot."""
    return asked.method == "POST" and asked.headers.get("content-type", "").startswith(JSON)


def _body(asked: Request) -> dict[str, Any]:
    try:
        found = json.loads(asked.body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError("request", ["should be a JSON object"])
    return found


def _words(error: ConfigError | SinkError) -> str:
    return "; ".join(error.problems) if isinstance(error, ConfigError) else str(error)


def _json(found: Any) -> Answer:
    return Answer(HTTPStatus.OK, json.dumps(found).encode(), JSON, HEADERS)


def _static(name: str) -> Callable[[Request], Answer]:
    data = files("line_worker.live").joinpath("static", name).read_bytes()
    kind = KINDS[name.rpartition(".")[2]]
    return lambda asked: Answer(HTTPStatus.OK, data, kind, HEADERS)


_LOGIN = _static("login.html")
