"""What an operator can ask of the running hub, or have it do, through its control socket.

A command is a method of `Commands`, entered in `table`: keyword arguments in, the fields of a JSON object out. It runs
in the hub's loop, so whatever takes time is begun here and reported by `status`.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from line_worker.errors import ConfigError
from line_worker.hub.canary import Aviary
from line_worker.hub.control import Command
from line_worker.verdicts import Verdict

if TYPE_CHECKING:
    from line_worker.hub.outbox import SinkView
    from line_worker.hub.run import Hub

MAX_PARTS = 1000


class Commands:
    """The commands of one hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @property
    def table(self) -> dict[str, Command]:
        """Every command by its name on the socket."""
        return {
            "status": self.status,
            "acknowledge": self.acknowledge,
            "activate": self.activate,
            "challenge": self.challenge,
            "threshold": self.threshold,
        }

    def status(self) -> dict[str, Any]:
        """Return how the line is: its state, alarms that wait for acknowledgement, warnings, counts."""
        hub = self._hub
        return {
            "line": hub.ledger.line,
            "state": hub.station.state.name,
            "cause": hub.station.cause,
            "stop_line": hub.guard.alarms.stop_line.name,
            "alarms": [
                {"cause": alarm.cause.name, "camera": alarm.camera, "text": alarm.text, "wall": alarm.wall}
                for alarm in hub.guard.alarms
            ],
            "warnings": list(hub.warnings),
            "canaries": {name: _canaries(one) for name, one in hub.guard.canaries.cameras.items()},
            "challenges": {
                name: {"parts": one.parts, "left": one.left, "failed": one.failed, "result": one.result}
                for name, one in hub.guard.challenges.cameras.items()
            },
            **hub.limits.status(),
            "bundle": hub.workers.bundle,
            "bundle_change": hub.workers.changeover.status(),
            "workers": len(hub.workers),
            "cameras": hub.sources.well,
            "sinks": {view.name: view.reachable for view in hub.outbox.views()},
            "sink_troubles": {view.name: self._trouble(view) for view in hub.outbox.views() if not view.reachable},
            "open_parts": hub.ledger.open_parts,
            "counts": {str(verdict): hub.ledger.counts[verdict] for verdict in Verdict},
        }

    def _trouble(self, sink: SinkView) -> dict[str, Any]:
        """Say why the sink is not well, and how many outcomes wait for it; nothing waits for a real-time one."""
        waiting = self._hub.books.newest_row - sink.acked if sink.durable else 0
        return {"why": self._hub.outbox.trouble(sink.name), "waiting": waiting}

    def activate(self, bundle: str) -> dict[str, Any]:
        """Begin to change to the bundle at the path `bundle`, which all workers must reach; `status` tells the rest."""
        if not isinstance(bundle, str) or not Path(bundle).is_absolute():
            raise ConfigError("bundle", ["should be an absolute path"])
        return {"bundle": self._hub.workers.changeover.begin(Path(bundle), time.monotonic())}

    def acknowledge(self, cause: str = "") -> dict[str, Any]:
        """Take away the alarms of `cause`, or all: the line may run again. Returns what was cleared."""
        if not isinstance(cause, str):
            raise ConfigError("cause", ["should be a word"])
        cleared = self._hub.guard.acknowledge(cause.upper())
        self._hub.ledger.distrusted = self._hub.guard.distrusted
        return {"cleared": [str(alarm) for alarm in cleared]}

    def challenge(self, camera: str = "", parts: int = 0) -> dict[str, Any]:
        """Expect known-bad parts: the next `parts` of `camera` must FAIL (left out: the only one, its usual number)."""
        cameras = self._hub.challenge_parts
        camera = self._camera(camera)
        if not isinstance(parts, int) or not 0 <= parts <= MAX_PARTS:
            raise ConfigError("parts", [f"should be a number up to {MAX_PARTS}"])
        parts = parts or cameras[camera]
        self._hub.guard.challenge(camera, parts)
        self._hub.ledger.challenge(camera, parts)
        return {"camera": camera, "parts": parts}

    def threshold(
        self, camera: str = "", at: float | None = None, who: str = "", less_sensitive: bool = False
    ) -> dict[str, Any]:
        """Hold the camera's scores against `at` from now on, left out: the bundle's own limit; `who` wants it so.

        A limit above the bundle's own is refused unless `less_sensitive` says that this is what is wanted.
        """
        change = self._hub.limits.change(self._camera(camera), at, who, less_sensitive=less_sensitive)
        return asdict(change)

    def _camera(self, camera: str) -> str:
        """Return the camera's name; it may be left out where there is one only."""
        cameras = self._hub.challenge_parts
        camera = camera or (next(iter(cameras)) if len(cameras) == 1 else "")
        if not isinstance(camera, str) or camera not in cameras:
            raise ConfigError("camera", [f"{camera!r} is not one of this line's: {', '.join(cameras)}"])
        return camera


def _canaries(one: Aviary) -> dict[str, Any]:
    return {"failed": one.failed, "missed": one.missed, "score": one.score, "threshold": one.threshold}
