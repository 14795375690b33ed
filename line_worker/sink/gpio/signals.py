"""What the lines say, from outcomes, the station's state and time. Pure; whatever is doubtful rejects.

    pass       on for `pass_s` after a PASS that came in time, while the station is trusted
    reject     without `reject_s` on whenever `pass` is not; with it for so long after everything else than a PASS,
               and as long as the station is not trusted
    heartbeat  changes at most every `heartbeat_s`, each time for another beat of the hub
    stop       on while the hub says so, and while the station is not trusted

Trusted is a station that is RUNNING and whose hub was heard within a second. The newest part owns the lines: its
verdict ends the pulse of the part before, and each pulse begins with an edge, after at least `gap_s` without. A PASS
that ends because the station is not trusted any more does not come back.
"""

from __future__ import annotations

from typing import NamedTuple

from line_worker.verdicts import StationState

HUB_SILENT_S = 1.0
NEVER = float("-inf")


class Levels(NamedTuple):
    """Which lines are on."""

    passed: bool
    reject: bool
    heartbeat: bool
    stop: bool


SAFE = Levels(passed=False, reject=True, heartbeat=False, stop=True)


class _Pulse(NamedTuple):
    passed: bool
    start: float
    end: float


class Signals:
    """See the module's text; times in seconds."""

    def __init__(self, pass_s: float, reject_s: float, gap_s: float, heartbeat_s: float) -> None:
        self._pass_s, self._reject_s, self._gap_s, self._heartbeat_s = pass_s, reject_s, gap_s, heartbeat_s
        self._pulse = _Pulse(False, NEVER, NEVER)
        self._hub: tuple[int, int] | None = None
        self._hub_at, self._running, self._stop = NEVER, False, False
        self._beaten = self._high = False  # whether a beat waits to be shown, and what the heartbeat line shows
        self._changed_at = NEVER

    def take(self, passed: bool, left_s: float, now: float) -> None:
        """A part has its verdict; a PASS is of use for another `left_s`."""
        self._withdraw(now)
        before, latest = self._pulse, now + left_s
        over = min(before.end, now) if before.start <= now and before.start < before.end else NEVER  # a line was on
        start = max(now, over + self._gap_s)
        good = passed and start <= latest and self._trusted(now)
        self._pulse = _Pulse(good, start, start + (self._pass_s if good else self._reject_s))

    def beat(self, instance: int, beat: int, state: int, stop_line: int, now: float) -> None:
        """The hub has told its state; the same one twice is no sign of life."""
        if (instance, beat) != self._hub:
            self._hub, self._hub_at, self._beaten = (instance, beat), now, True
            self._running, self._stop = state == StationState.RUNNING, stop_line != 0

    def levels(self, now: float) -> Levels:
        """Return which lines are on."""
        self._withdraw(now)
        if self._beaten and now - self._changed_at >= self._heartbeat_s:
            self._beaten, self._high, self._changed_at = False, not self._high, now
        on = self._pulse.start <= now < self._pulse.end
        passed, trusted = on and self._pulse.passed, self._trusted(now)
        pulsed = on and not self._pulse.passed if self._reject_s else not passed
        return Levels(passed, pulsed or not trusted, self._high, self._stop or not trusted)

    def next_at(self, now: float) -> float:
        """Return when the levels change if nothing comes; infinity if they do not."""
        times = [self._pulse.start, self._pulse.end, self._hub_at + HUB_SILENT_S]
        if self._beaten:
            times.append(self._changed_at + self._heartbeat_s)
        return min((at for at in times if at > now), default=float("inf"))

    def _trusted(self, now: float) -> bool:
        return self._running and now - self._hub_at < HUB_SILENT_S

    def _withdraw(self, now: float) -> None:
        """End a PASS that nobody may trust any more."""
        if self._pulse.passed and not self._trusted(now):
            self._pulse = _Pulse(False, NEVER, NEVER)
