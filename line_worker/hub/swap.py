"""A change of bundle under load, worker by worker, so that parts never wait for a bundle to load.

    PREPARING  one worker after the other loads the new bundle beside the old one and reproduces its golden images; all
               at once they would take the processors from those who judge
    MOVING     one worker after the other is given nothing more, answers what it holds, and adopts the new bundle
    DONE       nobody judges with the old one any more
    FAILED     a worker could not prepare, or took too long: all keep the old bundle, and drop the new one

From PREPARING to MOVING there is no way back, and none is needed: every worker has shown that it can. Each worker has
one bundle at any time, so no batch is mixed. Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum

from line_worker.hub.dispatch import Seat

PREPARE_S = 300.0  # for one worker; loading a bundle on a busy machine takes a minute at most


class Phase(Enum):
    """How far a change of bundle is; see the module's text."""

    PREPARING = "preparing"
    MOVING = "moving"
    DONE = "done"
    FAILED = "failed"


class Swap:
    """The change from bundle `old` to `new` (sha256 of each), which lies at `path`."""

    def __init__(self, old: str, new: str, path: str, now: float) -> None:
        self.old, self.new, self.path = old, new, path
        self.phase, self.detail = Phase.PREPARING, ""
        self._since, self._counted = now, 0  # when the last of so many workers was ready
        self._asked: set[int] = set()
        self._ready: set[int] = set()

    @property
    def running(self) -> bool:
        """Whether it has not come to an end."""
        return self.phase in (Phase.PREPARING, Phase.MOVING)

    def allows(self, bundle: str) -> bool:
        """Return whether a worker with `bundle` may judge."""
        return bundle == self.new if self.phase is Phase.DONE else bundle in self._both()

    def _both(self) -> tuple[str, ...]:
        return (self.old, self.new) if self.phase is Phase.MOVING else (self.old,)

    def to_prepare(self, seats: Collection[Seat]) -> Seat | None:
        """Return the worker that is to load the new bundle next; None while another one does, or when all were told."""
        old = [seat for seat in seats if self.running and seat.bundle == self.old]
        if any(seat.session in self._asked - self._ready for seat in old):
            return None
        found = next((seat for seat in old if seat.session not in self._asked), None)
        self._asked.update({found.session} if found else ())
        return found

    def prepared(self, session: int, why_not: str) -> None:
        """The worker of `session` can judge with the new bundle, or says why not."""
        if session not in self._asked:
            return
        if not why_not:
            self._ready.add(session)
        elif self.phase is Phase.PREPARING:
            self.fail(why_not)

    def fail(self, why: str) -> None:
        """End it: all keep the old bundle."""
        self.phase, self.detail = Phase.FAILED, why

    def turn(self, seats: Collection[Seat], now: float) -> None:
        """Go on to the next phase where that is due."""
        old = [seat.session for seat in seats if seat.bundle == self.old]
        if len(self._ready) > self._counted:
            self._counted, self._since = len(self._ready), now
        if self.phase is Phase.PREPARING and old and self._ready.issuperset(old):
            self.phase = Phase.MOVING
        elif self.phase is Phase.PREPARING and now - self._since > PREPARE_S:
            self.fail(f"{len(self._ready)} of {len(old)} workers have loaded it, and no other in {PREPARE_S:.0f} s")
        elif self.phase is Phase.MOVING and not old and any(seat.bundle == self.new for seat in seats):
            self.phase = Phase.DONE

    def mover(self, seats: Collection[Seat]) -> Seat | None:
        """Return the worker whose turn it is to adopt the new bundle: it gets nothing more. None when nobody's."""
        if self.phase is not Phase.MOVING:
            return None
        return next((seat for seat in seats if seat.bundle == self.old and seat.session in self._ready), None)
