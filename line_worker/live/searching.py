"""Searches in a thread of their own: one through millions of rows must not keep the newest part from other browsers.

A request is asked again and again until its answer is there (see `wire.http`). One that has not been asked again for
`KEPT_S` is forgotten: its browser has gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from line_worker.errors import LineWorkerError, SinkError

WAITING = 8  # searches at once
KEPT_S = 5.0

Search = Callable[[], dict[str, Any]]


class _Asked(NamedTuple):
    """A search, when it was asked for last, and what came of it: an answer, an error, or nothing yet."""

    search: Search
    at: float
    found: dict[str, Any] | LineWorkerError | None = None


class Searcher(threading.Thread):
    """Does one search after the other from `start` until `close`."""

    def __init__(self) -> None:
        super().__init__(name="search", daemon=True)
        self._asked: dict[Any, _Asked] = {}
        self._turn = threading.Condition()
        self.stopping = False

    def answer(self, key: Any, search: Search, now: float) -> dict[str, Any] | None:
        """Return what `search` has found, None while it has not; `key` tells this asking from all others.

        Raises:
            LineWorkerError: what the search has raised.
            SinkError: too many others wait.
        """
        with self._turn:
            self._asked = {one: asked for one, asked in self._asked.items() if now - asked.at < KEPT_S}
            asked = self._asked.pop(key, None)
            if asked is None and len(self._asked) >= WAITING:
                raise SinkError("too many others search just now; try again in a moment")
            found = asked.found if asked is not None else None
            if found is None:
                self._asked[key] = _Asked(search, now)
                self._turn.notify()
        if isinstance(found, LineWorkerError):
            raise found
        return found

    def run(self) -> None:
        """Search until `close`."""
        while (key := self._wait()) is not None:
            with self._turn:
                asked = self._asked.get(key)
            if asked is None:
                continue
            try:
                found: dict[str, Any] | LineWorkerError = asked.search()
            except LineWorkerError as error:
                found = error
            with self._turn:
                if key in self._asked:
                    self._asked[key] = self._asked[key]._replace(found=found)

    def _wait(self) -> Any:
        with self._turn:
            while not self.stopping:
                key = next((one for one, asked in self._asked.items() if asked.found is None), None)
                if key is not None:
                    return key
                self._turn.wait()
        return None

    def close(self) -> None:
        """Stop; a search under way is ended."""
        with self._turn:
            self.stopping = True
            self._turn.notify()
        if self.is_alive():
            self.join()
