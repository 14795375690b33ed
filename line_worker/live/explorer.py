"""What another limit would have done, and having the hub take it, through its control socket: on its host alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from line_worker.errors import ConfigError, SinkError, WireError
from line_worker.live.records import Records, words
from line_worker.live.scores import PARTS, Scores
from line_worker.wire.control import ask

ANSWER_S = 2.0  # the hub answers within a beat; meanwhile no browser is answered


class Explorer:
    """The page's side of limits. `runtime`: the hub's folder, None where the hub runs on another host.

    `changed` is called after a change.
    """

    def __init__(self, scores: Scores, records: Records, runtime: Path | None, changed: Callable[[], None]) -> None:
        self._scores, self._records, self._runtime, self._changed = scores, records, runtime, changed

    def remember(self, cameras: Mapping[str, Any]) -> None:
        """Take over what the store has from before the start."""
        for camera in cameras:
            with suppress(SinkError):  # a store that cannot be read says so where it is searched
                for outcome in reversed(self._records.outcomes(camera, PARTS)):
                    self._scores.take(outcome)

    def view(self, asked: Mapping[str, str]) -> dict[str, Any]:
        """Return the last scores of a `camera`.

        Raises:
            ConfigError: there is no such camera.
            SinkError: what was judged cannot be read.
        """
        try:
            return self._scores.view(asked.get("camera", ""), self._records.judgements.newest())
        except KeyError:
            raise ConfigError("camera", [f"{asked.get('camera', '')!r} is not one of this line's"]) from None

    def change(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Have the hub hold the scores of `camera` against `at` (null: the bundle's own limit) because `who` wants it.

        Raises:
            ConfigError: nobody wants it.
            SinkError: the hub cannot be reached from here, or refuses.
        """
        who = words(asked.get("who"))
        if not who:
            raise ConfigError("who", ["who: a change needs a name"])
        if "at" not in asked:
            raise ConfigError("at", ["at: a limit, or null for the bundle's own"])
        if self._runtime is None:
            raise SinkError("this page is not on the hub's host, where `line-worker threshold` changes limits")
        wanted = {name: asked.get(name) for name in ("camera", "at")}
        less = asked.get("less_sensitive") is True
        try:
            return ask(self._runtime, "threshold", ANSWER_S, who=who, less_sensitive=less, **wanted)
        except WireError as error:
            raise SinkError(str(error)) from error
        finally:
            self._changed()
