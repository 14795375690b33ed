"""What the hub owes its sinks.

A durable sink reads the journal from its cursor, with at most `WINDOW` rows unacknowledged; it may be away for hours
and gets everything afterwards. A real-time sink gets each outcome once, at its release, with the time that is left;
what it cannot take then is not sent again. Sinks that the configuration does not name (a bench, a test) start at the
newest row and are forgotten when the hub stops.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import structlog

from line_worker.hub.journal import Journal
from line_worker.hub.peers import Peers
from line_worker.wire.messages import (
    FrameKey,
    HubState,
    Outcome,
    Select,
    SinkAck,
    SinkHello,
    SinkState,
    Tap,
    Trigger,
)

log = structlog.get_logger()

WINDOW = 256
TAP_S = 0.1  # a copy of a frame waits no longer for its outcome


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
    pictured: set[str] = field(default_factory=set)  # cameras of which it has got a picture since it was heard last


@dataclass(frozen=True, slots=True)
class SinkView:
    """What others may know of a sink; `acked` is the last row that a durable one has for good."""

    name: str
    durable: bool
    reachable: bool
    acked: int
    taps_lost: int


class Outbox:
    """The hub's end of the outcomes link. `expected` names the sinks of the configuration: name -> durable.

    `shadows` are configured, too, and the line never waits for them: they get outcomes as real-time sinks do, and what
    is wrong with them is a warning. `pages` get pictures out of messages only now and then.
    """

    def __init__(
        self,
        peers: Peers,
        journal: Journal,
        expected: dict[str, bool],
        shadows: tuple[str, ...] = (),
        pages: tuple[str, ...] = (),
    ) -> None:
        self._peers, self._channel, self._journal, self._expected = peers, peers.channel, journal, expected
        self._shadows, self._pages = shadows, pages
        self._readers: dict[str, Reader] = {}
        self._waiting: dict[FrameKey, tuple[Tap, float]] = {}  # copies of frames, and since when
        self._moved: dict[str, int] = {}  # cursors to be written with the next commit
        self._newest = journal.last_row()

    def take(self) -> list[Trigger | Select]:
        """Take what sinks have sent; returns what the configured ones ask of the line."""
        asks: list[Trigger | Select] = []
        for peer, message in self._peers.receive():
            match message:
                case Trigger() | Select() if self._is_current(peer, message.sink):
                    asks.append(message)
                case SinkHello():
                    self._join(peer, message)
                case SinkAck():
                    self._acknowledge(message)
                case SinkState():
                    self._hear(peer, message)
        return asks

    def _is_current(self, peer: bytes, sink: str) -> bool:
        """Whether this is the sink of the configuration that has said hello."""
        reader = self._readers.get(sink)
        return sink in self._expected and reader is not None and reader.peer == peer

    def _join(self, peer: bytes, hello: SinkHello) -> None:
        """A sink is there, or back: what it has not acknowledged is sent again."""
        row = self._newest
        if hello.sink in self._expected:
            row = self._acked(hello.sink)
        self._readers[hello.sink] = Reader(peer, hello, row, row)
        log.info("sink is here", sink=hello.sink, durable=hello.durable, row=row)

    def _acked(self, sink: str) -> int:
        reader = self._readers.get(sink)
        return reader.acked if reader is not None else self._journal.cursor(sink)

    def _acknowledge(self, ack: SinkAck) -> None:
        """The sink has everything up to `row` for good."""
        reader = self._readers.get(ack.sink)
        if reader is not None and reader.acked < ack.row <= reader.sent:
            reader.acked = ack.row
            if ack.sink in self._expected:
                self._moved[ack.sink] = ack.row

    def _hear(self, peer: bytes, state: SinkState) -> None:
        """The sink says whether it reaches its other side; one that is not known says hello again."""
        reader = self._readers.get(state.sink)
        if reader is None or reader.peer != peer:
            self._peers.greet(peer, known=False)
        else:
            reader.reachable, reader.detail = state.reachable, state.detail
            reader.pictured.clear()

    def take_cursors(self) -> dict[str, int]:
        """Return the cursors that have moved since the last call; the caller commits them."""
        moved, self._moved = self._moved, {}
        return moved

    def offer(self, outcome: Outcome) -> None:
        """Send a released outcome to the real-time sinks that want no frames; `follow` and `pump` serve the others."""
        self._newest = max(self._newest, outcome.row)
        for reader in self._readers.values():
            if not (reader.hello.durable or reader.hello.frames):
                self._channel.send(outcome, reader.peer)

    def follow(self, released: Sequence[Outcome], now: float) -> None:
        """Send those who look at frames the copies that belong to `released`, and real-time ones these outcomes, too.

        A frame that has waited for its outcome for too long goes without.
        """
        lookers = [(name, reader) for name, reader in self._readers.items() if reader.hello.frames]
        late = itertools.takewhile(lambda key: now - self._waiting[key][1] > TAP_S, self._waiting)
        for key in [*(outcome.key for outcome in released), *late]:
            if key in self._waiting:
                tap, _ = self._waiting.pop(key)
                for name, reader in lookers:
                    self._send_tap(name, reader, tap)
        for outcome in released:
            for _, reader in lookers:
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

    def tap(self, tap: Tap, now: float) -> None:
        """Keep a copy of an announced frame for those who asked, until `follow`.

        Whoever copies a picture, or is only told of it, sooner takes the processor from those who decide.
        """
        self._waiting[tap.frame.key] = (tap, now)

    def _send_tap(self, name: str, reader: Reader, tap: Tap) -> None:
        """Send a copy; a full queue loses it, counted.

        Of pictures inside messages a page gets one a camera for every sign of life, otherwise headers: one that hangs
        would be owed a queue full of them.
        """
        told = self._sampled(reader, tap) if name in self._pages and tap.pixels else tap
        if not self._channel.send(told, reader.peer):
            reader.taps_lost += 1

    @staticmethod
    def _sampled(reader: Reader, tap: Tap) -> Tap:
        camera = tap.frame.key.camera
        if camera in reader.pictured:
            return Tap(tap.frame)
        reader.pictured.add(camera)
        return tap

    def beat(self, state: HubState) -> None:
        """Send the hub's state to every sink; one that is gone is forgotten until it says hello again."""
        gone = [name for name, reader in self._readers.items() if not self._channel.send(state, reader.peer)]
        for name in gone:
            del self._readers[name]

    def views(self) -> tuple[SinkView, ...]:
        """Return the connected sinks, and the configured ones that are not here."""
        here = {
            name: SinkView(name, one.hello.durable, one.reachable, one.acked, one.taps_lost)
            for name, one in self._readers.items()
        }
        away = {
            name: SinkView(name, durable, False, self._journal.cursor(name), 0)
            for name, durable in self._expected.items()
            if name not in here
        }
        shadows = (SinkView(name, False, False, 0, 0) for name in self._shadows if name not in here)
        return (*here.values(), *away.values(), *shadows)

    @property
    def wants_frames(self) -> bool:
        """Whether anyone asked for copies of frames."""
        return any(reader.hello.frames for reader in self._readers.values())

    @property
    def settled(self) -> bool:
        """Whether every durable sink that can take outcomes has acknowledged everything."""
        readers = [reader for reader in self._readers.values() if reader.hello.durable and reader.reachable]
        return all(reader.acked >= self._newest for reader in readers)

    def bad_sinks(self) -> tuple[str, ...]:
        """Name the configured real-time sinks that are missing or unreachable; a durable one stops nothing."""
        return tuple(
            f"sink {name}: {trouble}"
            for name, durable in self._expected.items()
            if not durable and (trouble := self.trouble(name))
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with shadows: nothing that the line needs."""
        return tuple(
            f"shadow {name}: {trouble}; the line decides as before"
            for name in self._shadows
            if (trouble := self.trouble(name))
        )

    def trouble(self, name: str) -> str:
        """Return what is wrong with the sink of this name, "" when nothing is."""
        reader = self._readers.get(name)
        if reader is None:
            return "is not connected"
        return "" if reader.reachable else reader.detail or "is unreachable"

    def missing_sinks(self) -> tuple[str, ...]:
        """Name the configured sinks, of either kind, whose process has not said hello."""
        return tuple(f"sink {name}: is not connected" for name in self._expected if name not in self._readers)
