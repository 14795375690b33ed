"""How much one peer may send. Pure.

A bucket of messages fills at `RATE` and holds `BURST`: more than any correct peer needs, also one that sends its whole
window again. What comes on top is dropped; a peer that goes on is cut.
"""

from __future__ import annotations

from dataclasses import dataclass

from line_worker.hub.ledger import MAX_GAP, Ledger
from line_worker.wire.messages import FrameKey

RATE = 5_000.0  # messages a second
BURST = 10_000.0
EXCESS = 1_000  # messages dropped before the peer is cut
MAX_UNRELEASED = 2 * MAX_GAP  # parts of one epoch; a source keeps 1,000 at most, and gaps may lie between them
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


def is_full(ledger: Ledger, key: FrameKey) -> bool:
    """Whether the window is full before this new part."""
    known = ledger.epochs.get((key.camera, key.epoch))
    if known is None or key.seq < known.next_seq:
        return False
    return known.open_parts >= ledger.cameras[key.camera].window


def is_crowded(ledger: Ledger, key: FrameKey) -> bool:
    """Whether more parts wait for their release than a correct source announces: a new one is not even booked."""
    known = ledger.epochs.get((key.camera, key.epoch))
    return known is not None and key.seq >= known.next_seq and len(known.parts) >= MAX_UNRELEASED
