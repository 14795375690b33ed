"""What sinks are owed, over a real link: durable ones get everything in the end, real-time ones each outcome once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from line_worker.errors import DecodeError
from line_worker.hub.journal import Journal
from line_worker.hub.outbox import TAP_S, WINDOW, Outbox
from line_worker.hub.part import Decision, Part
from line_worker.hub.peers import STRIKES, Peers
from line_worker.hub.station import Station
from line_worker.verdicts import Reason
from line_worker.wire import messages as m
from line_worker.wire.links import OUTCOMES
from line_worker.wire.sockets import Wire

STATE = m.HubState(1, 1, 2, "", "b", 0, 0, {})


class Counting(Peers):
    """Knows how many messages it has given out."""

    taken = 0

    def receive(self) -> Iterator[tuple[bytes, m.Message]]:
        for one in super().receive():
            self.taken += 1
            yield one


class Bench:
    """An outbox with its journal, and sinks that connect to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.journal = Journal(folder / "journal.sqlite", "l")
        self.wires: list[Wire] = []
        self.seq = 0
        self.open()

    def open(self) -> None:
        self.wire = Wire(self.folder)
        self.peers = Counting(self.wire.bind(OUTCOMES), 1, Station())
        configured = {"log": True, "store": True, "plc": False}
        self.outbox = Outbox(self.peers, self.journal, configured, ("shadow",), ("live",))

    def close(self) -> None:
        for wire in (*self.wires, self.wire):
            wire.close()
        self.journal.close()

    def write(self, count: int) -> None:
        parts = []
        for _ in range(count):
            part = Part(m.FrameKey("l", "c", 1, self.seq), 0.0, 1.0)
            part.decision = Decision(Reason.NONE, 0.5, 0.1, 1.0, bundle="b")
            self.seq += 1
            parts.append(part)
        self.journal.write(parts, {}, self.outbox.take_cursors())
        self.turn()

    def turn(self) -> None:
        self.outbox.take()
        self.outbox.pump(self.journal.last_row())

    def sink(self, name: str, durable: bool = True) -> Sink:
        self.wires.append(Wire(self.folder))
        sink = Sink(self, self.wires[-1], name)
        sink.say(m.SinkHello(name, durable, False))
        return sink


class Sink:
    def __init__(self, bench: Bench, wire: Wire, name: str) -> None:
        self.bench, self.wire, self.name = bench, wire, name
        self.channel = wire.connect(OUTCOMES, name)
        self.heard: list[m.Message | DecodeError] = []

    def say(self, message: m.Message) -> None:
        until, taken = time.monotonic() + 3, self.bench.peers.taken
        while not self.channel.send(message):
            assert time.monotonic() < until
            time.sleep(0.002)
        self.turns(3.0, lambda: self.bench.peers.taken > taken)
        self.turns()

    def turns(self, seconds: float = 0.03, until: Callable[[], bool] = lambda: False) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            self.bench.turn()
            self.wire.wait(0.002)
            self.heard += [r.message for r in self.channel.receive()]

    def rows(self, count: int = 0) -> list[int]:
        """Return the rows that have come, once there are `count` of them (or nothing more comes)."""

        def found() -> list[int]:
            return [o.row for o in self.heard if isinstance(o, m.Outcome)]

        self.turns(3.0 if count else 0.05, lambda: bool(count) and len(found()) >= count)
        self.turns()
        return found()


@pytest.fixture
def bench(short_path: Path) -> Iterator[Bench]:
    bench = Bench(short_path)
    yield bench
    bench.close()


def test_a_durable_sink_gets_what_was_written_before_it_came(bench: Bench) -> None:
    bench.write(5)
    assert bench.sink("log").rows(5) == [1, 2, 3, 4, 5]


def test_no_more_than_a_window_is_unacknowledged(bench: Bench) -> None:
    bench.write(WINDOW + 50)
    sink = bench.sink("log")
    assert len(sink.rows(WINDOW)) == WINDOW
    assert not bench.outbox.settled
    sink.say(m.SinkAck("log", 40))
    assert len(sink.rows(WINDOW + 40)) == WINDOW + 40
    sink.say(m.SinkAck("log", WINDOW + 40))
    assert sink.rows(WINDOW + 50) == list(range(1, WINDOW + 51)), "in order, nothing twice"
    sink.say(m.SinkAck("log", WINDOW + 50))
    assert bench.outbox.settled


def test_a_sink_that_comes_back_gets_what_it_has_not_acknowledged(bench: Bench) -> None:
    bench.write(5)
    first = bench.sink("log")
    assert len(first.rows(5)) == 5
    first.say(m.SinkAck("log", 3))
    assert bench.sink("log").rows(2) == [4, 5], "even when the cursor was not yet written"
    bench.write(1)
    bench.wire.close()
    bench.open()
    assert bench.sink("log").rows(3) == [4, 5, 6], "and after a restart of the hub"


def test_every_sink_has_its_own_cursor(bench: Bench) -> None:
    bench.write(2)
    log, store = bench.sink("log"), bench.sink("store")
    assert (log.rows(2), store.rows(2)) == ([1, 2], [1, 2])
    log.say(m.SinkAck("log", 2))
    bench.write(0)
    assert (bench.journal.cursor("log"), bench.journal.cursor("store")) == (2, 0)


@pytest.mark.parametrize(
    "ack", [m.SinkAck("log", 99), m.SinkAck("log", 1), m.SinkAck("nobody", 2), m.SinkAck("log", 0)]
)
def test_an_acknowledgement_that_cannot_be_is_ignored(bench: Bench, ack: m.SinkAck) -> None:
    bench.write(2)
    sink = bench.sink("log")
    assert len(sink.rows(2)) == 2
    sink.say(m.SinkAck("log", 1))
    bench.outbox.take_cursors()
    sink.say(ack)
    assert bench.outbox.take_cursors() == {}
    assert sink.rows() == [1, 2]


def test_a_real_time_sink_gets_each_outcome_once_and_nothing_of_the_past(bench: Bench) -> None:
    bench.write(3)
    plc = bench.sink("plc", durable=False)
    assert plc.rows() == []
    [outcome] = bench.journal.after(2, 1)
    bench.outbox.offer(outcome)
    assert plc.rows(1) == [3]
    assert bench.sink("plc", durable=False).rows() == [], "what it missed is not sent again"
    assert bench.outbox.settled, "nobody waits for it"


def test_a_guest_starts_at_the_newest_row_and_leaves_no_cursor(bench: Bench) -> None:
    bench.write(3)
    guest = bench.sink("bench")
    bench.write(2)
    assert guest.rows(2) == [4, 5]
    guest.say(m.SinkAck("bench", 5))
    assert bench.outbox.take_cursors() == {}


def test_who_is_missing_or_unwell(bench: Bench) -> None:
    assert bench.outbox.bad_sinks() == ("sink plc: is not connected",)
    plc = bench.sink("plc", durable=False)
    assert bench.outbox.bad_sinks() == ()
    plc.say(m.SinkState("plc", False, "no heartbeat"))
    assert bench.outbox.bad_sinks() == ("sink plc: no heartbeat",)
    plc.say(m.SinkState("plc", True, ""))
    assert bench.outbox.bad_sinks() == ()
    plc.wire.close()
    bench.wires.remove(plc.wire)
    until = time.monotonic() + 3
    while bench.outbox.bad_sinks() != ("sink plc: is not connected",):
        assert time.monotonic() < until
        bench.outbox.beat(STATE)


def test_a_durable_sink_that_cannot_write_holds_nobody_up(bench: Bench) -> None:
    bench.write(2)
    log = bench.sink("log")
    assert not bench.outbox.settled
    log.say(m.SinkState("log", False, "disk full"))
    assert bench.outbox.settled
    assert bench.outbox.bad_sinks() == ("sink plc: is not connected",)


def test_a_sink_that_is_not_known_is_asked_to_say_hello(bench: Bench) -> None:
    sink = bench.sink("log")
    bench.outbox.beat(STATE)
    sink.say(m.SinkState("store", True, ""))
    assert [h.known for h in sink.heard if isinstance(h, m.HubHello)] == [False]
    assert [h for h in sink.heard if isinstance(h, m.HubState)] == [STATE]


FRAME = m.Frame(m.FrameKey("l", "c", 1, 0), 0.0, 1.0, (2, 2), "uint8", "gray", 1, "inline")
TAP = m.Tap(FRAME, b"1234")


def shown(seq: int) -> m.Outcome:
    return m.Outcome(
        *(seq + 1, m.FrameKey("l", "c", 1, seq), "PASS", 0, 0.1, 1.0, (), "b", "w", 1, "", 0, 1.0, 500.0, 1.7e9, {})
    )


def test_frames_are_copied_to_those_who_asked_with_their_outcomes(bench: Bench) -> None:
    assert not bench.outbox.wants_frames
    page, plc = bench.sink("page", durable=False), bench.sink("plc", durable=False)
    page.say(m.SinkHello("page", False, True))
    assert bench.outbox.wants_frames
    bench.outbox.tap(TAP, 10.0)
    bench.outbox.offer(shown(0))
    bench.outbox.follow([], 10.0 + TAP_S)
    page.turns(0.05)
    assert page.heard == [], "who is told now takes the processor from those who decide"
    bench.outbox.follow([shown(0)], 10.0 + TAP_S)
    page.turns(1.0, lambda: len(page.heard) == 2)
    plc.turns(1.0, lambda: bool(plc.heard))
    assert (page.heard, plc.heard) == ([TAP, shown(0)], [shown(0)])


def test_a_frame_that_waits_long_for_its_outcome_goes_without(bench: Bench) -> None:
    recorder = bench.sink("recorder")
    recorder.say(m.SinkHello("recorder", True, True))
    slow = replace(FRAME, key=m.FrameKey("l", "c", 1, 1))
    for one in (FRAME, slow):
        bench.outbox.tap(m.Tap(one, b"1234"), 10.0)
    bench.outbox.follow([shown(0)], 10.0)
    bench.write(1)
    recorder.turns(1.0, lambda: len(recorder.heard) == 2)
    assert [type(one) for one in recorder.heard] == [m.Tap, m.Outcome], "the picture first"
    bench.outbox.follow([], 10.1 + TAP_S)
    recorder.turns(1.0, lambda: len(recorder.heard) == 3)
    assert recorder.heard[2] == m.Tap(slow, b"1234")
    bench.outbox.follow([shown(0), shown(1)], 20.0)
    recorder.turns(0.05)
    assert len(recorder.heard) == 3, "each once"


def test_three_malformed_messages_cut_a_peer_and_only_that_one(bench: Bench) -> None:
    odd, fine = bench.sink("bench"), bench.sink("log")
    for _ in range(STRIKES):
        odd.channel.socket.send_multipart([b"\x01\x21", b"\xc1"])
    odd.say(m.SinkHello("plc", False, False))
    assert [type(h) for h in odd.heard] == [m.Refused]
    assert bench.outbox.bad_sinks() == ("sink plc: is not connected",), "its hello was not heard"
    fine.say(m.SinkHello("plc", False, False))
    assert bench.outbox.bad_sinks() == ()


def test_strikes_are_remembered_in_bounded_memory(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("line_worker.hub.peers.REMEMBERED", 3)
    for n in range(6):
        sink = bench.sink(f"odd-{n}")
        sink.channel.socket.send_multipart([b"rubbish"])
        sink.turns()
    assert len(bench.peers._strikes) == 3


def test_the_line_neither_waits_for_a_shadow_nor_owes_it_anything(bench: Bench) -> None:
    assert "shadow" in {view.name for view in bench.outbox.views() if not view.reachable}
    assert bench.outbox.warnings == ("shadow shadow: is not connected; the line decides as before",)
    shadow = bench.sink("shadow", durable=False)
    assert bench.outbox.warnings == ()
    shadow.say(m.SinkState("shadow", False, "its bundle is damaged"))
    assert bench.outbox.warnings == ("shadow shadow: its bundle is damaged; the line decides as before",)
    bench.write(3)
    assert bench.outbox.settled
    assert shadow.rows() == [], "the journal owes it nothing"
    assert not any("shadow" in text for text in (*bench.outbox.bad_sinks(), *bench.outbox.missing_sinks()))


def test_a_shadow_that_hangs_takes_nothing_from_the_others(bench: Bench) -> None:
    shadow, store = bench.sink("shadow", durable=False), bench.sink("store")
    shadow.say(m.SinkHello("shadow", False, True))
    header = m.Frame(m.FrameKey("l", "c", 1, 0), 0.0, 1.0, (1, 1), "uint8", "gray", 0, "inline")
    for seq in range(5000):  # it reads none of them
        bench.outbox.tap(m.Tap(replace(header, key=m.FrameKey("l", "c", 1, seq)), bytes(100)), 0.0)
    bench.outbox.follow([], 1.0)
    [view] = [view for view in bench.outbox.views() if view.name == "shadow"]
    assert view.taps_lost > 1000
    bench.write(20)
    assert store.rows(20) == list(range(1, 21))
    bench.outbox.beat(STATE)
    assert bench.outbox.warnings == ("shadow shadow: is not connected; the line decides as before",)


def test_a_page_gets_pictures_out_of_messages_now_and_then_and_all_headers(bench: Bench) -> None:
    page = bench.sink("live", durable=False)
    page.say(m.SinkHello("live", False, True))
    frame = m.Frame(m.FrameKey("l", "c", 1, 0), 0.0, 1.0, (2, 2), "uint8", "gray", 1, "inline")
    other = replace(frame, key=m.FrameKey("l", "d", 1, 0))

    def seen(*frames: m.Frame) -> list[tuple[str, bytes]]:
        before = len(page.heard)
        for one in frames:
            bench.outbox.tap(m.Tap(one, b"1234"), 0.0)
            bench.outbox.follow([], 1.0)
        page.turns(1.0, lambda: len(page.heard) == before + len(frames))
        return [(tap.frame.key.camera, tap.pixels) for tap in page.heard[before:] if isinstance(tap, m.Tap)]

    assert seen(frame, frame, other) == [("c", b"1234"), ("c", b""), ("d", b"1234")], "one a camera"
    assert seen(frame, other) == [("c", b""), ("d", b"")], "one that hangs is owed no queue of pictures"
    page.say(m.SinkState("live", True, ""))
    assert seen(frame) == [("c", b"1234")], "it is alive"
