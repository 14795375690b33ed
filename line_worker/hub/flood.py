"""How much one peer may send. Pure.

A bucket of messages fills at `RATE` and holds `BURST`: more than any correct peer needs, also one that sends its whole
window again. What comes on top is dropped; a peer that goes on is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

RATE = 5_000.0  # messages a second
BURST = 10_000.0
EXCESS = 1_000  # messages dropped before the peer is cut
OVER_WINDOW = 50.0  # what a picture costs that comes although the window is full: a correct source sends none


@dataclass(slots=True)
class Allowance:
    """What one peer has left at time `at` (seconds), and how many of its messages were dropped."""

    at: float
    left: float = BURST
    dropped: int = 0

    def take(self, now: float) -> bool:
        """Take one message; False when it is too many."""
        self.left = min(BURST, self.left + (now - self.at) * RATE)
        self.at = now
        if self.left < 1:
            self.dropped += 1
            return False
        self.left -= 1
        return True

    def charge(self, cost: float) -> None:
        """Take more for a message that should not have come."""
        self.left = max(0.0, self.left - cost)

    @property
    def used_up(self) -> bool:
        """Whether the peer floods."""
        return self.dropped >= EXCESS
