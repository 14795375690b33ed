"""The station's state, as a PLC and people see it. Pure: what is known goes in, the state and its cause come out.

    SELFTEST -> READY -> RUNNING -> DEGRADED / FAULT -> STOPPED      (OPC 40100: Preoperational, Ready,
                                                                     ContinuousExecution, Error, Halted)

Only RUNNING may pass parts. READY waits for a source, and for that of every camera for which a sink triggers; DEGRADED
has lost all workers, a real-time sink or the frames of all cameras a moment ago; it turns into FAULT after 5 s, and
heals by itself when they return. Parts that were photographed before the last camera went dark get a little time to be
decided. A frozen camera is a FAULT until it gives another picture: whatever it gave in between was refused part by
part.
"""

from __future__ import annotations

from dataclasses import dataclass

from line_worker.verdicts import StationState

FAULT_AFTER_S = 5.0
DARK_S = 0.8  # within a second of the last camera's failure the station is not ready any more


@dataclass(frozen=True, slots=True)
class Facts:
    """What the hub knows at one moment. `sinks` and `sources` name those that are missing or unwell, and why."""

    stopping: bool
    workers: int
    sources: int
    journal_error: str
    bad_sinks: tuple[str, ...]
    bad_sources: tuple[str, ...]
    frozen: tuple[str, ...] = ()  # the cameras that give the same picture over and over
    missing_sinks: tuple[str, ...] = ()  # of either kind; they matter until the station has run once
    missing_sources: tuple[str, ...] = ()  # of cameras for which a sink triggers; until the station has run once
    gone_sources: tuple[str, ...] = ()  # those that are not heard any more; `sources` does not count them


class Station:
    """Follows the facts; `state` and `cause` are current after each `update`."""

    def __init__(self) -> None:
        self.state, self.cause = StationState.SELFTEST, "starting"
        self._trouble_since: float | None = None
        self._dark_since: float | None = None

    @property
    def may_pass(self) -> bool:
        """Whether a part may pass now."""
        return self.state is StationState.RUNNING

    def update(self, facts: Facts, now: float) -> bool:
        """Take `facts`; True when the state has changed."""
        before = self.state, self.cause
        if facts.stopping:
            self.state, self.cause = StationState.STOPPED, "stopping"
        elif facts.journal_error:
            self.state, self.cause = StationState.FAULT, f"journal: {facts.journal_error}"
        elif facts.frozen:
            self.state, self.cause = StationState.FAULT, "; ".join(facts.frozen)
        elif trouble := self._trouble(facts) or self._dark(facts, now):
            self._in_trouble(trouble, now)
        else:
            self._well(facts)
        return before != (self.state, self.cause)

    def _trouble(self, facts: Facts) -> str:
        if not facts.workers:
            return "no worker is ready"
        if self.state is StationState.SELFTEST and facts.missing_sinks:
            return "; ".join(facts.missing_sinks)
        return "; ".join(facts.bad_sinks)

    def _dark(self, facts: Facts, now: float) -> str:
        """Return why no camera gives frames, once that has lasted."""
        if not facts.bad_sources or facts.sources > len(facts.bad_sources):
            self._dark_since = None
            return ""
        if self._dark_since is None:
            self._dark_since = now
        spared = self.state is StationState.RUNNING and now - self._dark_since < DARK_S
        return "" if spared else "; ".join(facts.bad_sources)

    def _in_trouble(self, trouble: str, now: float) -> None:
        self.cause = trouble
        if self.state in (StationState.SELFTEST, StationState.STOPPED):
            self.state = StationState.SELFTEST
            return
        if self._trouble_since is None:
            self._trouble_since = now
        late = now - self._trouble_since >= FAULT_AFTER_S
        self.state = StationState.FAULT if late else StationState.DEGRADED

    def _well(self, facts: Facts) -> None:
        self._trouble_since = None
        waiting = self.state in (StationState.SELFTEST, StationState.READY)
        if facts.missing_sources and waiting:
            self.state, self.cause = StationState.READY, "; ".join(facts.missing_sources)
        elif not facts.sources:
            why = "; ".join(facts.gone_sources) or "no source has announced itself"
            self.state, self.cause = StationState.READY, why
        else:  # a camera that gives no frames does not stop the others
            troubles = dict.fromkeys(facts.missing_sources + facts.bad_sources + facts.gone_sources)
            self.state, self.cause = StationState.RUNNING, "; ".join(troubles)
