"""Links over real sockets: what is sent arrives, and what cannot be sent or decoded says so."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from line_worker.errors import AlreadyRunning, DecodeError, WireError
from line_worker.wire import messages as m
from line_worker.wire.folding import fold, unfold
from line_worker.wire.links import CROPS, FRAMES, OUTCOMES, SLACK_BYTES, WORK, endpoint
from line_worker.wire.sockets import Channel, Received, Wire

Open = Callable[..., Wire]
ALIVE = m.SourceAlive("cam", 1, 2, True, "")


@pytest.fixture(params=["ipc", "tcp"])
def open_wire(request: pytest.FixtureRequest, short_path: Path) -> Iterator[Open]:
    tcp = f"127.0.0.1:{20000 + os.getpid() % 20000}" if request.param == "tcp" else ""
    wires: list[Wire] = []

    def make(frame_bytes: int = 1000) -> Wire:
        wires.append(Wire(short_path, tcp, frame_bytes))
        return wires[-1]

    yield make
    for wire in wires:
        wire.close()
    assert not list(short_path.iterdir()), "no socket file stays"


def receive(wire: Wire, channel: Channel, count: int = 1, seconds: float = 3.0) -> list[Received]:
    found: list[Received] = []
    until = time.monotonic() + seconds
    while len(found) < count and time.monotonic() < until:
        wire.wait(0.05)
        found += channel.receive()
    return found


def send(channel: Channel, message: m.Message) -> None:
    until = time.monotonic() + 3.0
    while not channel.send(message):
        assert time.monotonic() < until, "never connected"
        time.sleep(0.005)


def test_messages_go_both_ways_and_peers_are_told_apart(open_wire: Open) -> None:
    hub, one, two = open_wire(), open_wire(), open_wire()
    bound = hub.bind(FRAMES)
    first, second = one.connect(FRAMES, "one"), two.connect(FRAMES, "two")
    send(first, ALIVE)
    send(second, ALIVE)
    received = receive(hub, bound, 2)
    assert [r.message for r in received] == [ALIVE, ALIVE]
    for r in received:
        assert bound.send(m.FrameDone("cam", 1, (int(b"two" in r.peer),)), r.peer)
    assert [r.message for r in receive(one, first)] == [m.FrameDone("cam", 1, (0,))]
    assert [r.message for r in receive(two, second)] == [m.FrameDone("cam", 1, (1,))]


def test_nothing_is_sent_into_the_void(open_wire: Open) -> None:
    hub, peer = open_wire(), open_wire()
    bound = hub.bind(FRAMES)
    assert not bound.send(ALIVE, b"nobody")
    channel = peer.connect(WORK, "worker")
    assert not channel.send(m.WorkerBye(1)), "there is no hub"


def test_a_peer_that_is_gone_is_noticed(open_wire: Open) -> None:
    hub, peer = open_wire(), open_wire()
    bound = hub.bind(FRAMES)
    send(peer.connect(FRAMES, "one"), ALIVE)
    (received,) = receive(hub, bound)
    peer.close()
    until = time.monotonic() + 3.0
    while bound.send(m.HubHello(1, 2, True), received.peer):
        assert time.monotonic() < until
        time.sleep(0.005)


def test_large_pictures_travel_whole_and_larger_ones_than_agreed_do_not(open_wire: Open) -> None:
    hub, peer = open_wire(1_000_000), open_wire(1_000_000)
    bound = hub.bind(CROPS)
    channel = peer.connect(CROPS, "worker")
    key = m.FrameKey("l", "c", 1, 1)
    picture = os.urandom(CROPS.frames * 1_000_000)
    send(channel, m.Crop(key, "overlay", picture))
    assert [r.message for r in receive(hub, bound)] == [m.Crop(key, "overlay", picture)]
    send(channel, m.Crop(key, "overlay", picture + bytes(SLACK_BYTES + 1)))
    assert receive(hub, bound, seconds=0.3) == [], "its connection is cut"
    send(channel, m.Crop(key, "small", b"x"))
    assert len(receive(hub, bound)) == 1, "and made again"


def test_the_largest_picture_also_travels_from_the_hub(open_wire: Open) -> None:
    hub, peer = open_wire(1_000_000), open_wire(1_000_000)
    bound, channel = hub.bind(WORK), peer.connect(WORK, "worker")
    send(channel, m.WorkerBye(1))
    [hello] = receive(hub, bound)
    frame = m.Frame(m.FrameKey("l", "c", 1, 1), 0.0, 1.0, (1000, 1000), "uint8", "gray", 0, "inline")
    lease = m.Lease(1, 1, 1.0, frame, os.urandom(1_000_000))
    assert bound.send(lease, hello.peer)
    assert [r.message for r in receive(peer, channel)] == [lease]


FAR_END = """
import sys, time
from pathlib import Path
from line_worker.wire import messages as m
from line_worker.wire.links import OUTCOMES
from line_worker.wire.sockets import Wire
channel = Wire(Path(sys.argv[1])).connect(OUTCOMES, "slow")
channel.wait_to_send(10_000)
channel.send(m.SinkHello("slow", False, True))
seen = 0
while seen < 10:
    seen += len(list(channel.receive(10)))
print("reading", flush=True)
sys.stdin.readline()
print(seen + len(list(channel.receive(1000))))
"""


def test_a_slow_reader_outlives_a_hub_that_goes_away(short_path: Path) -> None:
    """libzmq would abort it between two parts of a message."""
    hub = Wire(short_path)
    bound = hub.bind(OUTCOMES)
    command = [sys.executable, "-c", FAR_END, str(short_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as far:
        assert far.stdin
        assert far.stdout
        [hello] = receive(hub, bound, seconds=20)
        tap = m.Tap(m.Frame(m.FrameKey("l", "c", 1, 1), 0.0, 1.0, (1, 1), "uint8", "gray", 0, "inline"), b"x")
        for _ in range(400):
            assert bound.send(tap, hello.peer)
        assert far.stdout.readline() == "reading\n"
        time.sleep(0.5)  # the others are on their way into its queue
        hub.close(flush_s=0.5)
        time.sleep(0.5)
        seen, _ = far.communicate("\n", timeout=20)
    assert far.returncode == 0
    assert 10 < int(seen) <= 400


@pytest.mark.parametrize("parts", [[b"one"], [b"", b""], [b"head", b"body", bytes(1000)]])
def test_parts_are_folded_and_unfolded(parts: list[bytes]) -> None:
    folded = fold(parts)
    assert unfold(folded) == parts
    for odd in (b"", folded[:-1], folded + b"x", b"\x00" + folded[1:], b"\xff" + folded[1:], folded[:3]):
        with pytest.raises(DecodeError):
            unfold(odd)


def test_what_cannot_be_decoded_arrives_as_an_error_beside_its_peer(short_path: Path) -> None:
    hub = Wire(short_path)
    bound = hub.bind(FRAMES)
    with zmq.Context() as context, context.socket(zmq.DEALER) as raw:
        raw.setsockopt(zmq.LINGER, 0)
        raw.setsockopt(zmq.IDENTITY, b"odd")
        raw.connect(endpoint(FRAMES, short_path))
        for parts in ([b""], [b"\x01\x03", b"\xc1"], [os.urandom(50) for _ in range(5)]):
            raw.send_multipart(parts)
        received = receive(hub, bound, 3)
    assert [r.peer for r in received] == [b"odd"] * 3
    assert all(isinstance(r.message, DecodeError) for r in received)
    hub.close()


def test_a_taken_port_is_another_instance(tmp_path: Path) -> None:
    tcp = f"127.0.0.1:{20000 + (os.getpid() + 7000) % 20000}"
    first, second = Wire(tmp_path, tcp), Wire(tmp_path, tcp)
    first.bind(FRAMES)
    with pytest.raises(AlreadyRunning, match=r"is taken by another process.*line\.tcp"):
        second.bind(FRAMES)
    first.close()


def test_a_folder_that_is_not_there_is_no_other_instance(tmp_path: Path) -> None:
    with pytest.raises(WireError, match=r"cannot be bound.*check the folder"):
        Wire(tmp_path / "missing").bind(FRAMES)


def test_waiting_is_not_shorter_than_asked_for(short_path: Path) -> None:
    wire = Wire(short_path)
    wire.bind(FRAMES)
    assert stat.S_ISSOCK((short_path / "frames").stat().st_mode)
    start = time.monotonic()
    wire.wait(0.0004)
    assert time.monotonic() - start >= 0.0004, "a deadline less than a millisecond away is no reason to spin"
    wire.close()


def test_closing_flushes_what_was_sent(open_wire: Open) -> None:
    hub, peer = open_wire(), open_wire()
    bound = hub.bind(FRAMES)
    channel = peer.connect(FRAMES, "one")
    send(channel, ALIVE)
    for seq in range(100):
        assert channel.send(m.SourceBye("cam", 1, seq))
    peer.close(flush_s=1.0)
    assert len(receive(hub, bound, 101)) == 101
