"""What one frame costs on its way between two processes: shared memory, socket files, TCP, TCP with keys.

One frame at a time: the clock runs from the picture in one process until the other has it whole, has proved its
checksum, and has said so. All transports take turns in every run, so what else the machine does hits each alike.
"""

from __future__ import annotations

import logging
import multiprocessing
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import numpy as np
import structlog
from numpy.typing import NDArray

from line_worker.ports import free_port
from line_worker.wire import messages as m
from line_worker.wire.curve import Credentials, pair
from line_worker.wire.frames import FrameReader, FrameRing, checksum
from line_worker.wire.keys import create, read_public, read_secret
from line_worker.wire.links import FRAMES
from line_worker.wire.sockets import Channel, Wire

TRANSPORTS = ("ring", "ipc", "tcp", "tcp+curve")
WARM = 10  # frames that are not counted
PATIENCE_S = 30.0
KEY = m.FrameKey("bench", "camera", 1, 0)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one frame: medians over `runs` of each run's median wall time and mean processor time of both ends, ms."""

    transport: str
    frame_bytes: int
    runs: int
    ms: float
    fastest_ms: float
    slowest_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Place:
    """Where the two ends meet."""

    folder: Path
    tcp: str
    keyed: bool
    frame_bytes: int

    def wire(self, role: str) -> Wire:
        """Return the wire of one end."""
        keys = self.folder / "keys"
        own = Credentials(read_secret(keys / f"{role}.secret"), read_public(keys / "hub.public"), keys)
        return Wire(self.folder, self.tcp, self.frame_bytes, own if self.keyed else None)


def measure(frame_bytes: int, frames: int, runs: int) -> list[Cost]:
    """Return what a frame of `frame_bytes` costs by each transport, `frames` of them in each of `runs`.

    Raises:
        TimeoutError: the other end does not answer.
    """
    found: dict[str, list[tuple[float, float]]] = {transport: [] for transport in TRANSPORTS}
    for _ in range(runs):
        for transport in TRANSPORTS:
            found[transport].append(_run(transport, frame_bytes, frames))
    return [_cost(transport, frame_bytes, figures) for transport, figures in found.items()]


def _cost(transport: str, frame_bytes: int, figures: list[tuple[float, float]]) -> Cost:
    times = [ms for ms, _ in figures]
    cpu_ms = median(cpu for _, cpu in figures)
    return Cost(transport, frame_bytes, len(figures), median(times), min(times), max(times), cpu_ms)


def _run(transport: str, frame_bytes: int, frames: int) -> tuple[float, float]:
    with tempfile.TemporaryDirectory(prefix="lw-wire-") as folder:
        tcp = f"127.0.0.1:{free_port()}" if transport.startswith("tcp") else ""
        place = Place(Path(folder), tcp, transport == "tcp+curve", frame_bytes)
        for role in ("hub", "source"):
            create(place.folder / "keys", role, role, pair)
        with _other_end(place) as cpu:
            wire = place.wire("source")
            channel = wire.connect(FRAMES, "bench")
            times, own_cpu = _send_all(wire, channel, transport, frame_bytes, frames)
            wire.close(flush_s=1.0)
            if not cpu.poll(PATIENCE_S):
                raise TimeoutError(f"{transport}: the other end has not finished; look what else this machine does")
            return median(times) * 1000, (own_cpu + float(cpu.recv())) * 1000 / frames


def _send_all(wire: Wire, channel: Channel, transport: str, frame_bytes: int, frames: int) -> tuple[list[float], float]:
    """Send the frames one after the other; returns seconds for each, and our processor time for all."""
    picture = np.random.default_rng(0).integers(0, 255, (1, frame_bytes), np.uint8)
    ring = FrameRing("line-worker-bench-wire", 2, frame_bytes) if transport == "ring" else None
    times = []
    try:
        for seq in range(-WARM, frames):
            if seq == 0:
                cpu = time.process_time()
            start = time.perf_counter()
            _send(wire, channel, picture, ring, seq + WARM)
            times.append(time.perf_counter() - start)
        return times[WARM:], time.process_time() - cpu
    finally:
        channel.send(m.SourceBye("camera", 1, WARM + frames))
        if ring is not None:
            ring.close()


def _send(wire: Wire, channel: Channel, picture: NDArray[np.uint8], ring: FrameRing | None, seq: int) -> None:
    frame = m.Frame(replace(KEY, seq=seq), 0.0, 1e3, picture.shape, "uint8", "gray", checksum(picture), "inline")
    slot = ring.put(picture) if ring is not None else None
    if ring is None or slot is None:
        frame = replace(frame, pixels=picture.tobytes())
    else:
        frame = replace(frame, place="ring", ring=ring.ring, offset=slot.offset, generation=slot.generation)
    until = time.monotonic() + PATIENCE_S
    while not channel.send(frame):
        _in_time(until)
        time.sleep(0.001)
    while not any(isinstance(received.message, m.FrameDone) for received in channel.receive()):
        _in_time(until)
        wire.wait(0.1)
    if ring is not None and slot is not None:
        ring.free(slot)


def _in_time(until: float) -> None:
    if time.monotonic() > until:
        raise TimeoutError("the other end does not answer; look what else this machine does")


@contextmanager
def _other_end(place: Place) -> Iterator[Connection]:
    """Run the receiving end in a process of its own; yields where it will say its processor time."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_receive_all, args=(place, there), daemon=True)
    process.start()
    try:
        yield here
        process.join(PATIENCE_S)
    finally:
        process.kill()
        process.join()
        here.close()
        there.close()


def _receive_all(place: Place, result: Connection) -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # figures only
    wire, reader, cpu = place.wire("hub"), FrameReader(), 0.0
    channel = wire.bind(FRAMES)
    while True:
        wire.wait(0.1)
        for received in channel.receive():
            match received.message:
                case m.Frame() as frame:
                    reader.read(frame, frame.pixels)
                    channel.send(m.FrameDone("camera", 1, (frame.key.seq,)), received.peer)
                    cpu = time.process_time() if frame.key.seq == WARM - 1 else cpu
                case m.SourceBye():
                    result.send(time.process_time() - cpu)
                    wire.close()
                    return
