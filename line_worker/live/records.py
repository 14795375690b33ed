"""What is known of single parts: from memory while they are new, from the store afterwards; and judgements on them."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from line_worker.errors import ConfigError, SinkError
from line_worker.live.board import part_of
from line_worker.live.judgements import ALLOWED, MAX_NOTE, MAX_WHO, Judged, Judgement, Judgements
from line_worker.live.painter import ORIGINAL, REJECTS, SMALLER, Painter, Part
from line_worker.sink.store import FILE, Found, Wanted, find_outcomes
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.messages import FrameKey, Outcome

if TYPE_CHECKING:
    from line_worker.config import Config, LiveSink

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # names become paths: none may leave the folder
NUMBER = re.compile(r"[0-9]{1,19}")
HISTORY = 50  # parts at once
SEARCH_S, SOON_S = 10.0, 0.5  # that a search may take, and each look at the store before the page is served
DRAWN = ("overlay", "map", "zones")  # by workers, of anomalies
REJECTING = (Verdict.FAIL, Verdict.NO_DECISION)


def words(said: Any) -> str:
    """Return what somebody has typed without needless space, "" for what is no text that can be shown."""
    found = " ".join(said.split()) if isinstance(said, str) else ""
    return found if found.isprintable() else ""


class Records:
    """Parts of the line that `config` describes, whose page keeps pictures where `sink` says."""

    def __init__(self, painter: Painter, config: Config, sink: LiveSink) -> None:
        self._painter, self._line = painter, config.line.name
        names = [*(camera.name for camera in config.cameras), *(parts.name for parts in config.parts)]
        self._deadlines = {name: config.deadline_ms(name) for name in names}
        self._store = config.store_path
        self._folders = (config.live_path(sink), config.store_path / "crops")
        self.judgements = Judgements(config.store_path)

    def key(self, asked: Mapping[str, Any]) -> FrameKey:
        """Return the key that `camera`, `epoch` and `seq` (as text) name.

        Raises:
            ConfigError: they do not.
        """
        camera, epoch, seq = (str(asked.get(name, "")) for name in ("camera", "epoch", "seq"))
        try:
            if not (NAME.fullmatch(camera) and NUMBER.fullmatch(epoch) and NUMBER.fullmatch(seq)):
                raise ValueError
            return FrameKey(self._line, camera, int(epoch), int(seq))
        except ValueError:
            raise ConfigError("part", ["a part is named by camera, epoch and seq"]) from None

    def _named(self, text: str) -> FrameKey:
        camera, epoch, seq = text.split("/")
        return self.key({"camera": camera, "epoch": epoch, "seq": seq})

    def picture(self, key: FrameKey, name: str) -> Path | None:
        """Return the file of a part's picture, None when it is not kept (any more)."""
        if not NAME.fullmatch(name):
            return None
        paths = (folder / key.camera / str(key.epoch) / f"{key.seq}-{name}.png" for folder in self._folders)
        judged = (self.judgements.picture(key),) if name == ORIGINAL else ()
        return next((path for path in (*paths, *judged) if path.exists()), None)

    def part(self, key: FrameKey) -> Part | None:
        """Return a part with the names of its pictures and the judgement on it."""
        found = self._painter.part(key) or self._stored(key)
        if found is None:
            return None
        names = [name for name in (ORIGINAL, *DRAWN) if self.picture(key, name)]
        return found | {"pictures": names, **self._judged(key)}

    def _judged(self, key: FrameKey) -> Part:
        judged = self.judgements.of(key)
        return {} if judged is None else {"judgement": judged.judgement, "who": judged.who, "judged": judged.wall}

    def _stored(self, key: FrameKey) -> Part | None:
        found = self._parts(self._find(Wanted(key=key), 1, SEARCH_S))
        return found[0] if found else None

    def _find(self, wanted: Wanted, limit: int, seconds: float, stopping: Callable[[], bool] = lambda: False) -> Found:
        if not (self._store / FILE).exists():
            return Found([], whole=True)
        until = time.monotonic() + seconds
        return find_outcomes(self._store, wanted, limit, lambda: stopping() or time.monotonic() > until)

    def _parts(self, found: Found) -> list[Part]:
        return [part_of(one, self._deadlines.get(one.key.camera)) for one in found.outcomes]

    def outcomes(self, camera: str, limit: int) -> list[Outcome]:
        """Return the camera's last outcomes in the store as far as they are found soon, the newest first."""
        return self._find(Wanted(camera=camera), limit, SOON_S).outcomes

    def rejects(self) -> list[Part]:
        """Return the last rejects in the store as far as they are found soon, the newest first."""
        wanted = (Wanted(verdict=verdict) for verdict in REJECTING)
        found = [part for one in wanted for part in self._parts(self._find(one, REJECTS, SOON_S))]
        found.sort(key=lambda part: float(part["wall"]), reverse=True)
        return [part | self._pictured(part) for part in found[:REJECTS]]

    def _pictured(self, part: Part) -> Part:
        small = self.picture(self.key(part), SMALLER)
        return {"pictured": True} if small is not None else {}

    # ---- judging ------------------------------------------------------------------------------------------------

    def judge(self, asked: Mapping[str, Any]) -> Part:
        """Write what somebody says of a part; returns the part.

        Raises:
            ConfigError: nobody says it, the part is not known, or the judgement does not go with its verdict.
            SinkError: it cannot be written.
        """
        key = self.key(asked)
        who, note = (words(asked.get(name)) for name in ("who", "note"))
        if not 0 < len(who) <= MAX_WHO or len(note) > MAX_NOTE:
            raise ConfigError("who", [f"who: a judgement needs a name of at most {MAX_WHO} printable letters"])
        part = self._painter.part(key) or self._stored(key)
        if part is None:
            raise ConfigError("part", [f"{key} is not known here"])
        allowed = ALLOWED[Verdict(part["verdict"])]
        if asked.get("judgement") not in list(allowed):
            raise ConfigError("judgement", [f"judgement: on a {part['verdict']} it is one of: {', '.join(allowed)}"])
        named = {name: part[name] for name in ("part_id", "verdict", "reason", "score", "threshold", "bundle")}
        judged = Judged(key, **named, judgement=Judgement(asked["judgement"]), who=who, note=note, wall=time.time())
        self.judgements.add(judged, self.picture(key, ORIGINAL))
        found = self.part(key)
        assert found is not None
        return found

    # ---- history ------------------------------------------------------------------------------------------------

    def history(self, asked: Mapping[str, str], stopping: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """Return the newest parts that `since`, `before` (Unix times), `part`, `camera`, `verdict`, `reason` select.

        `behind` (camera/epoch/seq) is the last one of the page before, and then `before` its time: several may have it.
        `whole` is false when there was no time to look at all that is in the store; `stopping` ends the search at once.

        Raises:
            ConfigError: one of them is no such thing.
            SinkError: there is no store.
        """
        if not (self._store / FILE).exists():
            raise SinkError('there is no history: this line has no sink of kind "store"')
        try:
            reason = asked.get("reason", "")
            wanted = Wanted(
                since=float(asked.get("since") or "-inf"),
                before=float(asked.get("before") or "inf"),
                part_id=asked.get("part", "").strip(),
                camera=asked.get("camera", ""),
                verdict=Verdict(asked["verdict"]) if asked.get("verdict") else "",
                reason=Reason[reason] if reason else None,
                behind=self._named(asked["behind"]) if asked.get("behind") else None,
            )
        except (ValueError, KeyError) as error:
            raise ConfigError("history", [f"{error} is nothing to look for"]) from None
        found = self._find(wanted, HISTORY + 1, SEARCH_S, stopping)
        parts = [part | self._judged(self.key(part)) for part in self._parts(found)[:HISTORY]]
        return {"parts": parts, "more": len(found.outcomes) > HISTORY, "whole": found.whole}
