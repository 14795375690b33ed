"""Alarms that stay until the operator acknowledges them. Pure; `dump` and `load` carry them over a restart.

Any alarm stops the line (the PLC's `stop_line`). Beyond that a missed canary means that nothing the station says is to
be trusted, and a journal that had to be set aside is a FAULT.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from line_worker.verdicts import StopCause


@dataclass(frozen=True, slots=True)
class Alarm:
    """One cause at one camera ("" where it is the whole line's), since Unix time `wall`."""

    cause: StopCause
    camera: str
    text: str
    wall: float

    def __str__(self) -> str:
        where = f"camera {self.camera}: " if self.camera else ""
        return f"{self.cause.name}: {where}{self.text}"


class Alarms:
    """The alarms of one line, oldest first; each cause stands once a camera."""

    def __init__(self, alarms: tuple[Alarm, ...] = ()) -> None:
        self._standing = {(alarm.cause, alarm.camera): alarm for alarm in alarms}

    def __iter__(self) -> Iterator[Alarm]:
        return iter(self._standing.values())

    def sound(self, alarm: Alarm) -> bool:
        """Let `alarm` stand; False when its cause stands there already."""
        return self._standing.setdefault((alarm.cause, alarm.camera), alarm) is alarm

    def acknowledge(self, cause: StopCause | None = None) -> list[Alarm]:
        """Take away and return the alarms of `cause`, or all of them."""
        cleared = [alarm for alarm in self._standing.values() if cause in (None, alarm.cause)]
        for alarm in cleared:
            del self._standing[alarm.cause, alarm.camera]
        return cleared

    @property
    def stop_line(self) -> StopCause:
        """The oldest alarm's cause, NONE without one."""
        return next((alarm.cause for alarm in self._standing.values()), StopCause.NONE)

    def standing(self, *causes: StopCause) -> tuple[Alarm, ...]:
        """Return the alarms of these causes."""
        return tuple(alarm for alarm in self._standing.values() if alarm.cause in causes)

    def dump(self) -> str:
        """Return the alarms as text for the journal."""
        return json.dumps([{**asdict(alarm), "cause": alarm.cause.name} for alarm in self._standing.values()])

    @classmethod
    def load(cls, text: str) -> Alarms:
        """Return the alarms in `text`, "" for none."""
        return cls(tuple(Alarm(**{**one, "cause": StopCause[one["cause"]]}) for one in json.loads(text or "[]")))
