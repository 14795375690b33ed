"""What an operator can ask of the running hub, or have it do, through its control socket.

A command is a method of `Commands`, entered in `table`: keyword arguments in, the fields of a JSON object out. It runs
in the hub's loop, so whatever takes time is begun here and reported by `status`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from line_worker.errors import ConfigError
from line_worker.hub.control import Command
from line_worker.verdicts import Verdict

if TYPE_CHECKING:
    from line_worker.hub.run import Hub


class Commands:
    """The commands of one hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @property
    def table(self) -> dict[str, Command]:
        """Every command by its name on the socket."""
        return {"status": self.status, "acknowledge": self.acknowledge}

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
            "bundle": hub.workers.bundle,
            "workers": len(hub.workers),
            "cameras": {name: source.ready for name, source in hub.sources.present.items()},
            "sinks": {view.name: view.reachable for view in hub.outbox.views()},
            "open_parts": hub.ledger.open_parts,
            "counts": {str(verdict): hub.ledger.counts[verdict] for verdict in Verdict},
        }

    def acknowledge(self, cause: str = "") -> dict[str, Any]:
        """Take away the alarms of `cause`, or all: the line may run again. Returns what was cleared."""
        if not isinstance(cause, str):
            raise ConfigError("cause", ["should be a word"])
        cleared = self._hub.guard.acknowledge(cause.upper())
        return {"cleared": [str(alarm) for alarm in cleared]}
