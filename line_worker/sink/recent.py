"""Keys seen lately, in bounded memory: how a sink recognises an outcome that the hub has sent twice."""

from __future__ import annotations

from line_worker.wire.messages import FrameKey


class RecentKeys:
    """Remembers the newest `size` keys. The hub sends again only what is in flight, so a bound is enough."""

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._keys: dict[FrameKey, None] = {}  # a dict keeps the order of insertion

    def __contains__(self, key: FrameKey) -> bool:
        return key in self._keys

    def add(self, key: FrameKey) -> None:
        """Remember `key`, and forget the oldest one when there are too many."""
        self._keys[key] = None
        if len(self._keys) > self._size:
            del self._keys[next(iter(self._keys))]
