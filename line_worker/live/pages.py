"""What is served where.

    GET  /                          the page; its style and script beside it
    GET  /next?seen=N&camera=C      the next part after number N: a line of JSON, then a JPEG. With no newer part it
                                    waits, half a second at most, and tells the station's state alone. Asking for the
                                    next one says that the one before has been drawn.
    GET  /rejects                   the last rejects, as JSON
    GET  /picture?camera=C&epoch=E&seq=N&name=NAME      one picture of a part, as PNG

Requests come from a browser that shows this page, or are refused: another site's page (in the same browser) could
otherwise send them, under a name of its own that leads here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

from line_worker.live.painter import Painter, Shown
from line_worker.wire.http import JSON, Answer, Page, Request, refused

WAIT_S = 0.5
KINDS = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}
STATIC = ("page.css", "page.js", "tools.js", "newest.js", "rejects.js")
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (("Content-Security-Policy", POLICY), ("Referrer-Policy", "no-referrer"))
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # names become paths: none may leave the folder
_LOOPBACK = ("127.0.0.1", "localhost")


class Site:
    """The pages of one line. `board` is what is known beside the pictures; `folders` is where pictures of parts lie."""

    def __init__(self, painter: Painter, folders: tuple[Path, ...], address: tuple[str, int]) -> None:
        self.board: dict[str, Any] = {}
        self._painter, self._folders = painter, folders
        self._hosts = {f"{host}:{address[1]}" for host in (address[0], *_LOOPBACK)}
        guarded: dict[str, Page] = {
            "/next": self._next,
            "/rejects": self._rejects,
            "/picture": self._picture,
        }
        self.pages: dict[str, Page] = {
            **{path: self._guarded(page) for path, page in guarded.items()},
            "/": self._guarded(_static("index.html")),
            **{f"/{name}": self._guarded(_static(name)) for name in STATIC},
        }
        self.posts: frozenset[str] = frozenset()

    def _guarded(self, page: Page) -> Page:
        def guarded(asked: Request) -> Answer | None:
            if asked.headers.get("host", "") not in self._hosts:
                return refused(HTTPStatus.FORBIDDEN, "this page is not served under that name")
            return page(asked)

        return guarded

    # ---- pages --------------------------------------------------------------------------------------------------

    def _next(self, asked: Request) -> Answer | None:
        now = time.monotonic()
        self._painter.watched_at = now
        shown = self._newest(asked.query.get("camera", ""))
        if shown is not None and str(shown.number) == asked.query.get("seen", ""):
            shown = None
        if shown is None and now - asked.at < WAIT_S:
            return None
        told = {"board": self.board, "rejects": self._painter.rejects_number, "wall": time.time()}
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
        camera, epoch, seq, name = (asked.query.get(key, "") for key in ("camera", "epoch", "seq", "name"))
        if not all(_NAME.fullmatch(one) for one in (camera, epoch, seq, name)):
            return refused(HTTPStatus.BAD_REQUEST, "a picture has camera, epoch, seq and name")
        for folder in self._folders:
            try:
                data = (folder / camera / epoch / f"{seq}-{name}.png").read_bytes()
            except OSError:
                continue
            return Answer(HTTPStatus.OK, data, "image/png", HEADERS)
        return refused(HTTPStatus.NOT_FOUND, "this picture is not kept (any more)")


_BYTES = "application/octet-stream"


def _json(found: Any) -> Answer:
    return Answer(HTTPStatus.OK, json.dumps(found).encode(), JSON, HEADERS)


def _static(name: str) -> Callable[[Request], Answer]:
    data = files("line_worker.live").joinpath("static", name).read_bytes()
    kind = KINDS[name.rpartition(".")[2]]
    return lambda asked: Answer(HTTPStatus.OK, data, kind, HEADERS)
