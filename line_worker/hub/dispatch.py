"""Which worker gets which part: earliest deadline first, to the worker with the most free credits.

A part that was in flight when a worker died is a suspect: it is leased alone, to a worker that holds nothing else, so
that a second loss names it. A worker that reports no progress for its stall time is expelled; on a machine that has
become slow it gets more time, as its own last batches were slow: one that is expelled while it computes costs its parts
their verdict, and the others their share of its work. Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from line_worker.hub.ledger import Ledger
from line_worker.hub.part import Part

SLOWER = 3.0  # times the longest of its last waits a worker may be silent,
MOST = 3.0  # but not longer than so many stall times
FORGET = 0.9  # of that longest wait is left after the next sign of life


@dataclass(slots=True)
class Seat:
    """One warm worker and what it holds. `peer` is its address on the work link."""

    peer: bytes
    worker: str
    session: int
    credits: int
    stall_s: float
    device: str
    progress_at: float
    slowest_s: float = 0.0  # between two signs of life, lately
    holds: dict[int, Part] = field(default_factory=dict)  # by lease number
    alone: bool = False  # it holds a suspect and gets nothing else
    bundle: str = ""  # the sha256 of what it judges with
    leaving: bool = False  # it is to change its bundle, or to end, and gets nothing more
    told: bool = False  # that it is to do so now
    grown: str = ""  # by what it has grown too far, in words
    grown_at: float = 0.0

    @property
    def free(self) -> int:
        """Parts it may still be given."""
        return 0 if self.alone or self.leaving else self.credits - len(self.holds)

    @property
    def patience_s(self) -> float:
        """How long it may be silent before it counts as hung."""
        return max(self.stall_s, min(SLOWER * self.slowest_s, MOST * self.stall_s))

    def progress(self, now: float) -> None:
        """It has given a sign of life."""
        self.slowest_s = max(now - self.progress_at, FORGET * self.slowest_s)
        self.progress_at = now

    def answered(self, lease: int) -> None:
        """The worker has answered a lease, whatever became of the part."""
        self.holds.pop(lease, None)
        if not self.holds:
            self.alone = False


class Dispatcher:
    """The workers of one line."""

    def __init__(self) -> None:
        self.seats: dict[int, Seat] = {}

    def join(self, seat: Seat) -> None:
        """A worker is warm and wants parts."""
        self.seats[seat.session] = seat

    def leave(self, session: int) -> Seat | None:
        """Forget a worker; the caller gives its parts back to the ledger."""
        return self.seats.pop(session, None)

    def progress(self, peer: bytes, session: int, now: float) -> Seat | None:
        """The worker's compute loop has turned; None when it is not known (expelled, or of another hub)."""
        seat = self.seats.get(session)
        if seat is None or seat.peer != peer:
            return None
        seat.progress(now)
        return seat

    def stalled(self, now: float) -> list[Seat]:
        """Return workers without progress for longer than they may be."""
        return [seat for seat in self.seats.values() if now - seat.progress_at > seat.patience_s]

    def assign(self, ledger: Ledger) -> Iterator[tuple[Seat, Part, int]]:
        """Lease waiting parts while credits last; yields (worker, part, lease number)."""
        while (part := ledger.waiting()) is not None:
            seat = self._seat_for(part)
            if seat is None:
                return
            lease = ledger.lease(part, seat.session)
            seat.holds[lease] = part
            seat.alone = part.lost > 0
            yield seat, part, lease

    def _seat_for(self, part: Part) -> Seat | None:
        seats = [s for s in self.seats.values() if s.free > 0 and not (part.lost and s.holds)]
        return max(seats, key=lambda s: s.free, default=None)
