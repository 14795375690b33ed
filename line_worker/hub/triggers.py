"""Passes on that a part has come: from the sink whose other side has said so to the cameras that wait for it."""

from __future__ import annotations

from collections import Counter

import structlog

from line_worker.config import Config, SinkTrigger
from line_worker.hub.sources import Sources
from line_worker.hub.views import Views
from line_worker.wire.messages import Fire, Trigger

log = structlog.get_logger()


class Triggers:
    """Which cameras wait for which sink. `counts` counts as "lost_trigger" what no source was there to hear."""

    def __init__(self, config: Config, sources: Sources, views: Views, counts: Counter[str]) -> None:
        self._sources, self._views, self._counts = sources, views, counts
        self._cameras: dict[str, list[str]] = {}
        for camera in config.cameras:
            if isinstance(camera.trigger, SinkTrigger):
                self._cameras.setdefault(camera.trigger.sink, []).append(camera.name)

    @property
    def missing(self) -> tuple[str, ...]:
        """Name the cameras that wait for a sink and have no source: a part that came now would be seen by nobody."""
        cameras = (camera for cameras in self._cameras.values() for camera in cameras)
        return tuple(f"camera {name}: is not connected" for name in cameras if name not in self._sources.present)

    def fire(self, trigger: Trigger, now: float, heard: float) -> None:
        """Tell the cameras; the part is owed an answer where several of them give one together.

        `heard`: when the trigger can have arrived at the earliest.
        """
        cameras = self._cameras.get(trigger.sink, [])
        t0 = heard - max(0.0, trigger.age_ms) / 1000
        self._views.fired(cameras, trigger.part_id, trigger.number, t0, now, missed=trigger.missed)
        fire = Fire(trigger.number, trigger.part_id, (now - t0) * 1000, trigger.missed)
        for camera in cameras:
            if not self._sources.fire(camera, fire, t0):
                self._counts["lost_trigger"] += 1
                log.warning("trigger without a camera", camera=camera, trigger=trigger.number, part_id=trigger.part_id)
