"""The limits that hold, kept in the journal: a change is on disk before it holds, and outlives the hub."""

from __future__ import annotations

import time
from typing import Any

import structlog

from line_worker.errors import ConfigError
from line_worker.hub.journal import Journal
from line_worker.hub.limits import Change, Limits, checked

log = structlog.get_logger()

KEPT = "limits"
SHOWN = 10  # changes that `status` tells


class LimitBook:
    """The limits of `cameras`, judged with `bundle`, whose own limit is `own` (0: it cannot be read)."""

    def __init__(self, journal: Journal, cameras: tuple[str, ...], bundle: str, own: float) -> None:
        self._journal, self._cameras = journal, cameras
        self._limits = Limits.load(journal.kept(KEPT))
        self.follow(bundle, own)

    def of(self, camera: str, bundle: str) -> float | None:
        """Return what the scores of `bundle` are held against at `camera`, None: its own limit."""
        return self._limits.of(camera, bundle)

    def change(self, camera: str, at: float | None, who: str, *, less_sensitive: bool) -> Change:
        """Set the camera's limit, None: back to the bundle's own. It holds for what is leased from now on.

        Raises:
            ConfigError: it may not be set.
            JournalError: it cannot be written down; nothing has changed.
        """
        if not self.own:
            raise ConfigError(f"threshold of camera {camera}", ["no bundle judges here, so there is nothing to change"])
        before = self.of(camera, self.bundle)
        asked = Change(camera, self.bundle, self.own, before or self.own, at, who, time.time())
        change = checked(asked, less_sensitive=less_sensitive)
        changed = self._limits.changed(change)
        self._journal.keep(KEPT, changed.dump())
        self._limits = changed
        log.warning("threshold changed", camera=camera, old=change.before, new=at or self.own, own=self.own, who=who)
        return change

    def follow(self, bundle: str, own: float) -> None:
        """`bundle` judges from now on, with the limits that were set for it."""
        self.bundle, self.own = bundle, own
        for camera in self._cameras:
            at = self.of(camera, bundle)
            if at is not None:
                log.warning("another limit than the bundle's own holds", camera=camera, at=at, own=own)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should know of them."""
        return self._limits.warnings(self.bundle)

    def status(self) -> dict[str, Any]:
        """Return each camera's limit, and the last changes, the newest first."""
        return {
            "thresholds": {camera: self._told(camera) for camera in self._cameras},
            "threshold_changes": [
                {"camera": one.camera, "from": one.before, "to": one.after or one.own, "who": one.who, "wall": one.wall}
                for one in reversed(self._limits.changes[-SHOWN:])
            ],
        }

    def _told(self, camera: str) -> dict[str, Any]:
        last = self._limits.last(camera, self.bundle)
        at = self.own if last is None or last.after is None else last.after
        return {"at": at, "own": self.own, "less_sensitive": at > self.own}
