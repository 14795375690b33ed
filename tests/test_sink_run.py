"""The sink's runner over a real wire: what is acknowledged, when, and what is owed again."""

from __future__ import annotations

import time
from pathlib import Path

from line_worker.errors import DecodeError, SinkError
from line_worker.sink import Ask, PartHere, RecipeWanted
from line_worker.sink.asks import HEARD_S
from line_worker.sink.collect import Collector
from line_worker.sink.run import Runner
from line_worker.wire import messages as m
from line_worker.wire.links import OUTCOMES
from line_worker.wire.sockets import Channel, Wire


def outcome(row: int) -> m.Outcome:
    key = m.FrameKey("l", "c", 1, row)
    return m.Outcome(row, key, "PASS", 0, 0.1, 1.0, (), "b", "w", 1, "", 0, 1.0, 200.0, 1.0, {})


class Posting(Collector):
    """Sends without waiting; `lost` is how many batches have not arrived when it looks."""

    wants_crops = False

    def __init__(self, lost: int = 0, refused: int = -1) -> None:
        super().__init__()
        self.lost, self.refused = lost, refused
        self.attempts: list[int] = []

    def deliver(self, outcome: m.Outcome, now: float) -> bool:
        self.attempts.append(outcome.row)
        if outcome.row == self.refused:
            self.refused = -1
            raise SinkError("peer: refuses")
        return super().deliver(outcome, now)

    def settle(self) -> None:
        if self.lost:
            self.lost -= 1
            raise SinkError("peer: has not confirmed")


class Asking(Collector):
    """A sink whose other side asks; `asked` is what it asks next."""

    wants_crops = False

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Ask] = []

    def asks(self) -> list[Ask]:
        asked, self.asked = self.asked, []
        return asked


class Hub:
    """The hub's end of the link, and the runner that talks to it."""

    def __init__(self, folder: Path, sink: Collector) -> None:
        self._here, self._there = Wire(folder), Wire(folder)
        self.channel: Channel = self._here.bind(OUTCOMES)
        self.runner = Runner("posting", sink, self._there)
        self.acks: list[int] = []
        self.heard: list[m.Message] = []
        self.peer = b""
        while not self.peer:
            self.turn()

    def turn(self) -> None:
        self.runner.turn(time.monotonic())
        self._there.wait(0.01)
        for received in self.channel.receive():
            self.peer = received.peer
            if isinstance(received.message, m.SinkAck):
                self.acks.append(received.message.row)
            elif not isinstance(received.message, m.SinkState):
                assert not isinstance(received.message, DecodeError)
                self.heard.append(received.message)

    def greet(self, instance: int) -> None:
        """Speak as a hub that does not know the sink."""
        assert self.channel.send(m.HubHello(instance, 4, known=False), self.peer)

    def beat(self, instance: int) -> None:
        state = m.HubState(instance, 1, 4, "", "b", 0, 0, {})
        assert self.channel.send(state, self.peer)

    def take(self, count: int) -> list[m.Message]:
        """Return the next `count` messages, and wait whether more come."""
        end = time.monotonic() + 10
        while len(self.heard) < count:
            assert time.monotonic() < end, self.heard
            self.turn()
        for _ in range(5):
            self.turn()
        heard, self.heard = self.heard, []
        return heard

    def until_acked(self, row: int) -> None:
        end = time.monotonic() + 10
        while row not in self.acks:
            assert time.monotonic() < end, f"acknowledged {self.acks}"
            self.turn()

    def close(self) -> None:
        self._there.close()
        self._here.close()


def test_what_has_not_settled_is_not_acknowledged_and_goes_out_again_in_order(short_path: Path) -> None:
    sink = Posting(lost=2)
    hub = Hub(short_path, sink)
    try:
        for row in (1, 2, 3):
            assert hub.channel.send(outcome(row), hub.peer)
        hub.until_acked(3)
        assert sink.attempts.count(1) == 3
        assert sink.attempts[-3:] == [1, 2, 3]
        assert [one.row for one in sink.outcomes] == [1, 2, 3]
        assert hub.acks[-1] == 3
        assert hub.runner.delivered == 3
    finally:
        hub.close()


def test_what_was_sent_before_one_is_refused_is_settled_and_acknowledged(short_path: Path) -> None:
    sink = Posting(refused=3)
    hub = Hub(short_path, sink)
    try:
        for row in (1, 2, 3, 4):
            assert hub.channel.send(outcome(row), hub.peer)
        hub.until_acked(4)
        assert sink.attempts.count(1) == sink.attempts.count(2) == 1
        assert sink.attempts.count(3) == 2
        assert [one.row for one in sink.outcomes] == [1, 2, 3, 4]
    finally:
        hub.close()


def test_what_is_asked_before_the_hub_is_there_is_asked_once_it_is(short_path: Path) -> None:
    sink = Asking()
    hub = Hub(short_path, sink)
    try:
        sink.asked = [PartHere(7, "A", time.monotonic()), RecipeWanted(2)]
        assert hub.take(0) == [], "nobody is there to hear it"
        hub.greet(1)
        hello, part, recipe = hub.take(3)
        assert isinstance(hello, m.SinkHello), "before it says who it is, it is not listened to"
        assert isinstance(part, m.Trigger)
        assert (part.number, part.part_id, part.missed) == (7, "A", True)
        assert part.age_ms > 0
        assert recipe == m.Select("posting", 2)
    finally:
        hub.close()


def test_what_a_hub_may_not_have_heard_is_asked_of_the_next_one(short_path: Path) -> None:
    sink = Asking()
    hub = Hub(short_path, sink)
    try:
        hub.greet(1)
        hub.take(1)
        sink.asked = [RecipeWanted(2)]
        assert hub.take(1) == [m.Select("posting", 2)]
        time.sleep(1.5 * HEARD_S)
        sink.asked = [PartHere(8, "B", time.monotonic())]
        [part] = hub.take(1)
        assert isinstance(part, m.Trigger)
        assert not part.missed
        hub.beat(1)
        hub.take(0)
        hub.greet(2)
        hello, again = hub.take(2)
        assert isinstance(hello, m.SinkHello)
        assert isinstance(again, m.Trigger), "the wish before the beat was heard"
        assert (again.number, again.missed) == (8, True)
    finally:
        hub.close()
