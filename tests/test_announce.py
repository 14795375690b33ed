"""The source's end of the frames link: every trigger is announced, and kept until the hub has recorded it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from line_worker.config import Camera
from line_worker.errors import FrameError
from line_worker.source import Captured
from line_worker.source import announce as module
from line_worker.source.announce import Announcer
from line_worker.verdicts import Reason
from line_worker.wire import messages as m
from line_worker.wire.frames import SHM, FrameReader
from line_worker.wire.links import FRAMES
from line_worker.wire.sockets import Wire

WINDOW = 3


class Hub:
    """The other end: hears what the source says, answers when told to."""

    def __init__(self, runtime: Path) -> None:
        self.wire = Wire(runtime, frame_bytes=100_000)
        self.channel = self.wire.bind(FRAMES)
        self.peer = b""
        self.heard: list[m.Message] = []

    def hear(self, seconds: float = 0.05) -> list[m.Message]:
        """Return what came within `seconds`, without the signs of life."""
        until = time.monotonic() + seconds
        fresh: list[m.Message] = []
        while (left := until - time.monotonic()) > 0:
            self.wire.wait(left)
            for received in self.channel.receive():
                self.peer = received.peer
                fresh.append(received.message)  # type: ignore[arg-type]
        self.heard += fresh
        return [message for message in fresh if not isinstance(message, m.SourceAlive)]

    def hears(self) -> list[m.Message]:
        """Return what comes, which is something."""
        until = time.monotonic() + 3
        while not (heard := self.hear()):
            assert time.monotonic() < until
        return heard

    def say(self, message: m.Message) -> None:
        assert self.channel.send(message, self.peer)
        time.sleep(0.02)


class Rig:
    def __init__(self, runtime: Path, **camera: Any) -> None:
        self.hub = Hub(runtime)
        self.wire = Wire(runtime, frame_bytes=100_000)
        source = {"kind": "synthetic"}
        fields = {"name": "cam", "deadline_ms": 2000.0, "window": WINDOW, "max_frame_mb": 0.01, "source": source}
        self.announcer = Announcer(f"t{os.getpid()}", Camera.model_validate(fields | camera), self.wire)
        self.reader = FrameReader()
        self.meet(1)

    def meet(self, instance: int) -> list[m.Message]:
        until = time.monotonic() + 3
        while not self.hub.peer:
            self.announcer.turn()
            self.hub.hear(0.02)
            assert time.monotonic() < until
        return self.greet(instance)

    def greet(self, instance: int, known: bool = True) -> list[m.Message]:
        self.hub.say(m.HubHello(instance, 2, known))
        self.announcer.turn()
        return self.hub.hear()

    def trigger(self, pixels: Any = None, **fields: Any) -> m.Frame:
        """Announce one trigger; return what the hub heard of it."""
        picture = np.full((4, 5), self.announcer.next_seq, np.uint8) if pixels is None else pixels
        self.announcer.announce(Captured(**{"pixels": picture, "at": time.monotonic()} | fields))
        [frame] = self.hub.hears()
        assert isinstance(frame, m.Frame)
        return frame

    def done(self, *seqs: int, epoch: int = 0) -> None:
        self.hub.say(m.FrameDone("cam", epoch or self.announcer.epoch, seqs))
        self.announcer.turn()

    def close(self) -> None:
        self.reader.close()
        self.announcer.close()
        self.wire.close()
        self.hub.wire.close()


@pytest.fixture
def rig(short_path: Path) -> Iterator[Rig]:
    rig = Rig(short_path)
    yield rig
    rig.close()
    assert not list(SHM.glob(f"line-worker-t{os.getpid()}-cam*")), "the ring goes with its source"


@pytest.mark.parametrize("transport", ["ring", "inline"])
def test_a_trigger_is_announced_with_its_picture(short_path: Path, transport: str) -> None:
    rig = Rig(short_path, transport=transport)
    picture = np.arange(60, dtype=np.uint16).reshape(4, 5, 3)
    begin = time.monotonic()
    frame = rig.trigger(picture, at=begin - 0.2, part_id="A7", trigger=12)
    assert (frame.key.camera, frame.key.seq, frame.place) == ("cam", 0, transport)
    assert (frame.part_id, frame.trigger, frame.deadline_ms, frame.problem) == ("A7", 12, 2000.0, 0)
    assert 200 <= frame.age_ms <= 200 + (time.monotonic() - begin) * 1000
    np.testing.assert_array_equal(rig.reader.read(frame, frame.pixels), picture)
    rig.close()


@pytest.mark.parametrize("transport", ["ring", "inline"])
def test_a_picture_is_made_where_it_travels(short_path: Path, transport: str) -> None:
    rig = Rig(short_path, transport=transport)
    for seq in range(3):
        room = rig.announcer.place((4, 5), np.uint8)
        room[:] = 7 * seq + 1
        frame = rig.trigger(room)
        np.testing.assert_array_equal(rig.reader.read(frame, frame.pixels), room)
        if transport == "ring":
            room[:] = 0
            with pytest.raises(FrameError, match="checksum"):
                rig.reader.read(frame, b"")
    rig.close()


def test_every_trigger_counts_and_a_full_window_still_announces_the_header(rig: Rig) -> None:
    frames = [rig.trigger() for _ in range(WINDOW + 2)]
    assert [frame.key.seq for frame in frames] == [0, 1, 2, 3, 4]
    assert [frame.place for frame in frames] == ["ring"] * WINDOW + ["none"] * 2
    assert [frame.problem for frame in frames[WINDOW:]] == [Reason.OVERLOAD] * 2
    assert not rig.announcer.has_room
    rig.done(0, 1, 2, 3, 4)
    assert rig.announcer.pending == 0
    assert rig.trigger().place == "ring"


def test_what_the_hub_has_decided_meanwhile_makes_room(short_path: Path) -> None:
    rig = Rig(short_path, window=1)
    try:
        for seq in range(3):
            assert rig.trigger().place == "ring", "its source had no turn since the one before was decided"
            rig.hub.say(m.FrameDone("cam", rig.announcer.epoch, (seq,)))
    finally:
        rig.close()


@pytest.mark.parametrize(
    ("captured", "reason"),
    [
        ({"pixels": np.zeros((200, 200), np.uint8)}, Reason.TOO_BIG),
        ({"problem": Reason.NO_FRAME}, Reason.NO_FRAME),
        ({"problem": Reason.DECODE}, Reason.DECODE),
    ],
)
def test_a_trigger_without_a_usable_picture_says_why(rig: Rig, captured: dict[str, Any], reason: Reason) -> None:
    frame = rig.trigger(**captured)
    assert (frame.place, frame.problem, frame.nbytes, frame.checksum) == ("none", reason, -1, 0)


@pytest.mark.parametrize("shape", [(4, 5, 4), (0, 5), (7,)])
def test_a_picture_of_no_known_kind_is_announced_as_it_is(rig: Rig, shape: tuple[int, ...]) -> None:
    frame = rig.trigger(np.zeros(shape, np.uint8))
    assert (frame.shape, frame.nbytes) == (shape, -1), "the hub decides SHAPE"


def test_slots_are_kept_until_the_hub_has_recorded_the_frame(rig: Rig) -> None:
    first = rig.trigger()
    rig.trigger()
    rig.done(1)
    for _ in range(20):
        rig.done(rig.trigger().key.seq)
    assert (rig.reader.read(first, b"") == 0).all()
    rig.done(5, 99, epoch=rig.announcer.epoch - 1)
    assert rig.announcer.pending == 1, "another epoch's frames are not ours"
    rig.done(0)
    assert rig.announcer.pending == 0


def test_a_frame_whose_acknowledgement_was_lost_is_announced_again(
    short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RESEND_S", 0.3)
    rig = Rig(short_path, deadline_ms=50.0)
    frame = rig.trigger()
    rig.announcer.turn()
    assert rig.hub.hear() == [], "not before its deadline and a while are over"
    time.sleep(0.35)
    rig.announcer.turn()
    [again] = rig.hub.hears()
    assert isinstance(again, m.Frame)
    assert again.key == frame.key
    assert again.age_ms >= 350
    rig.done(0)
    time.sleep(0.4)
    rig.announcer.turn()
    assert rig.hub.hear() == []
    rig.close()


def test_a_hub_that_has_restarted_gets_the_whole_window_again(rig: Rig) -> None:
    for _ in range(3):
        rig.trigger()
    rig.done(1)
    hello, *frames = rig.greet(2)
    assert hello == m.SourceHello("cam", rig.announcer.epoch, 3)
    assert [frame.key.seq for frame in frames if isinstance(frame, m.Frame)] == [0, 2]
    assert rig.greet(2) == []


def test_a_hub_that_has_forgotten_us_is_told_again_but_not_at_every_word(rig: Rig) -> None:
    rig.trigger()
    assert rig.greet(1, known=False) == [], "we have only just said hello"
    time.sleep(module.HELLO_S)
    hello, frame = rig.greet(1, known=False)
    assert isinstance(hello, m.SourceHello)
    assert isinstance(frame, m.Frame)
    assert rig.greet(1, known=False) == []
    assert rig.greet(1) == []


def test_a_refused_epoch_ends_and_its_frames_keep_their_slots_until_they_are_decided(rig: Rig) -> None:
    first, old = rig.trigger(), rig.announcer.epoch
    rig.hub.say(m.Refused("too far", old))
    rig.announcer.turn()
    new = rig.announcer.epoch
    assert new > old
    assert rig.hub.hears() == [m.SourceHello("cam", new, 0)]
    rig.hub.say(m.Refused("too far", old))  # about a frame that was on its way
    rig.announcer.turn()
    assert (rig.announcer.epoch, rig.hub.hear()) == (new, [])
    frame = rig.trigger()
    assert (frame.key.epoch, frame.key.seq) == (new, 0)
    assert rig.reader.read(first, b"").shape == (4, 5)
    rig.done(0, epoch=old)
    assert rig.announcer.pending == 1


def test_frames_of_a_refused_epoch_are_let_go_in_the_end(short_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESEND_S", 0.1)
    rig = Rig(short_path, deadline_ms=50.0)
    rig.trigger()
    rig.hub.say(m.Refused("too far", rig.announcer.epoch))
    rig.announcer.turn()
    time.sleep(0.3)
    rig.announcer.turn()
    assert rig.announcer.pending == 0
    assert not [message for message in rig.hub.hear() if isinstance(message, m.Frame)]
    rig.close()


def test_a_refusal_for_people_changes_nothing(rig: Rig) -> None:
    epoch = rig.announcer.epoch
    rig.hub.say(m.Refused("camera is not in the configuration", 0))
    rig.announcer.turn()
    assert (rig.announcer.epoch, rig.hub.hear()) == (epoch, [])


def test_while_the_hub_is_away_memory_is_bounded_and_the_sequence_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PENDING", 10)
    rig.hub.wire.close()
    for _ in range(30):
        rig.announcer.announce(Captured(np.zeros((4, 5), np.uint8), time.monotonic()))
    assert (rig.announcer.pending, rig.announcer.next_seq) == (10, 30)
    rig.announcer.turn()


def test_the_source_s_signs_of_life(rig: Rig) -> None:
    rig.announcer.set_ready(False, "unplugged" + "!" * 5000)
    rig.trigger()
    rig.announcer.turn()
    rig.hub.hear(0.15)
    alive = [message for message in rig.hub.heard if isinstance(message, m.SourceAlive)][-1]
    assert (alive.camera, alive.epoch, alive.next_seq, alive.ready) == ("cam", rig.announcer.epoch, 1, False)
    assert alive.detail.startswith("unplugged!")
    assert rig.announcer.state == 2
    rig.announcer.goodbye()
    assert rig.hub.hears() == [m.SourceBye("cam", rig.announcer.epoch, 1)]
