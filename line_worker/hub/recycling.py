"""A worker that has grown makes room for a fresh one, so that no leak ever ends in a killed process.

It asks to be replaced, and whoever started it starts another one beside it. Only when as many workers as the line
wants are there without it is it given nothing more, answers what it holds, and is let go; one after the other. Where
nobody starts another one, a worker that has not grown is enough after a while: a process that ends in good order is
started again sooner than one that the kernel kills. Pure: time is an argument.
"""

from __future__ import annotations

from collections.abc import Collection

from line_worker.hub.dispatch import Seat

PATIENCE_S = 300.0  # for a fresh worker to come; loading a bundle on a busy machine takes a minute at most

LONGEST = 200  # characters of its words that are shown


class Recycling:
    """Says which worker is to be let go, so that `wanted` stay."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._going = 0  # the session of the one that is to go
        self.recycled = 0

    def ask(self, seat: Seat, what: str, now: float) -> bool:
        """The worker asks to be replaced because of `what`; False when it has asked before."""
        if seat.grown:
            return False
        seat.grown, seat.grown_at = what[:LONGEST], now
        return True

    def turn(self, seats: Collection[Seat], now: float) -> Seat | None:
        """Return the worker that may be let go now: it holds nothing, and has not been told. None: nobody."""
        going = next((seat for seat in seats if seat.session == self._going), None) or self._next(seats, now)
        if going is None:
            return None
        self._going, going.leaving = going.session, True
        return going if not going.holds and not going.told else None

    def left(self, session: int) -> None:
        """A worker has gone."""
        self.recycled += session == self._going

    def _next(self, seats: Collection[Seat], now: float) -> Seat | None:
        if any(seat.leaving for seat in seats) or all(seat.grown for seat in seats):
            return None
        enough = len(seats) > self._wanted
        return next((seat for seat in seats if seat.grown and (enough or now - seat.grown_at > PATIENCE_S)), None)

    @staticmethod
    def warnings(seats: Collection[Seat]) -> tuple[str, ...]:
        """Name the workers that have grown."""
        return tuple(f"{seat.worker} has grown and is to be replaced: {seat.grown}" for seat in seats if seat.grown)
