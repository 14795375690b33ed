"""Which leases were given: tells a result that comes too late from one that nobody asked for. Pure."""

from __future__ import annotations

from line_worker.wire.messages import FrameKey, Result

REMEMBERED = 4096  # leases; older ones count as late
SESSIONS = 256


class Leases:
    """The leases of one hub, numbered from 1."""

    def __init__(self) -> None:
        self._newest = 0
        self._given: dict[int, tuple[FrameKey, int]] = {}
        self._sessions: dict[int, None] = {}

    def give(self, key: FrameKey, session: int) -> int:
        """Return the number of a new lease."""
        self._newest += 1
        self._given[self._newest] = key, session
        self._given.pop(self._newest - REMEMBERED, None)
        self._sessions[session] = None
        if len(self._sessions) > SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        return self._newest

    def mistaken(self, result: Result) -> bool:
        """Whether a worker of ours answers a lease that was never given, or with another part's key.

        A session that has had no lease belongs to an earlier hub, whose numbers are not ours.
        """
        if result.session not in self._sessions or 0 < result.lease <= self._newest - REMEMBERED:
            return False
        return self._given.get(result.lease) != (result.key, result.session)
