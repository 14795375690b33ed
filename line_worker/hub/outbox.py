"""What the hub owes its sinks.

A durable sink reads the journal from its cursor, with at most `WINDOW` rows unacknowledged; it may be away for hours
and gets everything afterwards. A real-time sink gets each outcome once, at its release, with the time that is left;
what it cannot take then is not sent again. Sinks that the configuration does not name (a bench, a test) start at the
newest row and are forgotten when the hub stops.
"""

from __future__ import annotations

from dataclasses import dataclass

from line_worker.hub.journal import Journal
from line_worker.wire.messages import HubState, Outcome, SinkHello, Tap
from line_worker.wire.sockets import Channel

WINDOW = 256


@dataclass(slots=True)
class Reader:
    """One connected sink: `sent` and `acked` are row numbers."""

    peer: bytes
    hello: SinkHello
    sent: int = 0
    acked: int = 0
    reachable: bool = True
    detail: str = ""
    taps_lost: int = 0


class Outbox:
    """The hub's end of the outcomes link. `expected` names the sinks of the configuration: name -> durable."""

    def __init__(self, channel: Channel, journal: Journal, expected: dict[str, bool]) -> None:
        self._channel, self._journal, self._expected = channel, journal, expected
        self._readers: dict[str, Reader] = {}
        self._moved: set[str] = set()  # cursors to be written with the next commit
        self._newest = journal.last_row()

    def join(self, peer: bytes, hello: SinkHello) -> Reader:
        """A sink is there, or back."""
        row = self._journal.cursor(hello.sink) if hello.sink in self._expected else None
        if row is None:
            row = 0 if hello.sink in self._expected else self._newest
        reader = self._readers[hello.sink] = Reader(peer, hello, row, row)
        return reader

    def acknowledge(self, sink: str, row: int) -> None:
        """The sink has everything up to `row` for good."""
        reader = self._readers.get(sink)
        if reader is not None and reader.acked < row <= reader.sent:
            reader.acked = row
            if sink in self._expected:
                self._moved.add(sink)

    def reachable(self, sink: str, ok: bool, detail: str) -> bool:
        """The sink says whether it reaches its other side; False when it has not said hello yet."""
        reader = self._readers.get(sink)
        if reader is not None:
            reader.reachable, reader.detail = ok, detail
        return reader is not None

    def take_cursors(self) -> dict[str, int]:
        """Return the cursors that have moved since the last call; the caller commits them."""
        moved, self._moved = self._moved, set()
        return {sink: self._readers[sink].acked for sink in moved if sink in self._readers}

    def offer(self, outcome: Outcome) -> None:
        """Send a released outcome to the real-time sinks; the durable ones are fed by `pump`."""
        self._newest = max(self._newest, outcome.row)
        for reader in self._readers.values():
            if not reader.hello.durable:
                self._channel.send(outcome, reader.peer)

    def pump(self, newest: int) -> None:
        """Send durable sinks what they are owed, as far as their windows allow. `newest` is the last committed row."""
        self._newest = max(self._newest, newest)
        for reader in self._readers.values():
            room = WINDOW - (reader.sent - reader.acked)
            if not reader.hello.durable or reader.sent >= self._newest or room <= 0:
                continue
            for outcome in self._journal.after(reader.sent, room):
                if not self._channel.send(outcome, reader.peer):
                    break
                reader.sent = outcome.row

    def tap(self, tap: Tap) -> None:
        """Send a copy of an announced frame to those who asked; a full queue loses it, counted."""
        for reader in self._readers.values():
            if reader.hello.frames and not self._channel.send(tap, reader.peer):
                reader.taps_lost += 1

    def beat(self, state: HubState) -> None:
        """Send the hub's state to every sink; one that is gone is forgotten until it says hello again."""
        gone = [name for name, reader in self._readers.items() if not self._channel.send(state, reader.peer)]
        for name in gone:
            del self._readers[name]

    @property
    def wants_frames(self) -> bool:
        """Whether anyone asked for copies of frames."""
        return any(reader.hello.frames for reader in self._readers.values())

    @property
    def settled(self) -> bool:
        """Whether every connected durable sink has acknowledged everything."""
        return all(r.acked >= self._newest for r in self._readers.values() if r.hello.durable)

    def bad_sinks(self) -> tuple[str, ...]:
        """Name the configured real-time sinks that are missing or unreachable; a durable one stops nothing."""
        return tuple(
            f"sink {name}: {'is not connected' if reader is None else reader.detail or 'is unreachable'}"
            for name, durable in self._expected.items()
            if not durable and ((reader := self._readers.get(name)) is None or not reader.reachable)
        )

    def missing(self) -> tuple[str, ...]:
        """Name every configured sink that is not connected."""
        return tuple(name for name in self._expected if name not in self._readers)

    def lag(self) -> dict[str, int]:
        """Return how many rows each durable sink still has to acknowledge."""
        return {n: self._newest - r.acked for n, r in self._readers.items() if r.hello.durable}
