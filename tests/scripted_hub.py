"""A real hub over real links in this process, with peers that follow a script; what the tests of the hub share."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from line_worker.config import Config, parse
from line_worker.hub.run import Hub
from line_worker.verdicts import Reason, StationState
from line_worker.wire import control
from line_worker.wire import messages as m
from line_worker.wire.links import FRAMES, OUTCOMES, WORK, Link
from line_worker.wire.sockets import Wire

EPOCH = 1000
PATIENCE_S = 10.0  # what should happen and has not by then never will, however busy the machine is
DEADLINE_MS = 2000.0  # time enough for peers that share a busy machine; who waits for a deadline names a shorter one
PULSE_S = 0.2
POLLOUT = 2


def config_in(folder: Path, **cameras: Any) -> Config:
    camera = {"name": "cam", "window": 4, "max_frame_mb": 0.01, "source": {"kind": "synthetic"}}
    camera["deadline_ms"] = DEADLINE_MS
    return parse(
        {
            "line": {"name": "t", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [camera | cameras],
            "workers": {"bundle": "stub"},
        }
    )


class Peer:
    """One scripted end of a link; `heard` is what the hub has said to it, `pulse` what it says again and again."""

    def __init__(self, rig: Rig, link: Link, name: str) -> None:
        self._rig = rig
        self.wire = Wire(rig.config.line.runtime, frame_bytes=rig.config.frame_bytes)
        self._channel = self.wire.connect(link, name)
        self.heard: list[Any] = []
        self.pulse: m.Message | None = None
        self._pulse_at = time.monotonic()

    def say(self, *messages: m.Message) -> None:
        until = time.monotonic() + PATIENCE_S
        for message in messages:
            while not self._channel.send(message):
                assert time.monotonic() < until
                time.sleep(0.002)

    def say_raw(self, *parts: bytes) -> None:
        self._channel.socket.send_multipart(parts)

    def turn(self, now: float) -> None:
        self.heard += [received.message for received in self._channel.receive()]
        if self.pulse is not None and now - self._pulse_at >= PULSE_S:
            self._pulse_at = now
            self._channel.send(self.pulse)

    @property
    def connected(self) -> bool:
        return bool(self._channel.socket.poll(0, POLLOUT))

    def got(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    def hears(self, kind: type[Any], count: int = 1) -> list[Any]:
        """Turn the hub until this peer has heard `count` messages of `kind`."""
        self._rig.until(lambda: len(self.got(kind)) >= count)
        return self.got(kind)


class Rig:
    def __init__(self, folder: Path, **camera: Any) -> None:
        self.config = config_in(folder, **camera)
        self.config.line.runtime.mkdir(exist_ok=True)
        self.peers: list[Peer] = []
        self.hub = Hub(self.config, time.monotonic())
        self.sink = self.peer(OUTCOMES, "watcher")
        self.watch()

    def watch(self) -> None:
        """Make the sink known to the hub: from now on it is shown everything."""
        self.sink.say(m.SinkHello("watcher", False, False))
        self.beat()

    def peer(self, link: Link, name: str) -> Peer:
        self.peers.append(Peer(self, link, name))
        return self.peers[-1]

    def source(self, epoch: int = EPOCH) -> Peer:
        source = self.peer(FRAMES, "source")
        source.pulse = m.SourceAlive("cam", epoch, 0, True, "")
        source.say(m.SourceHello("cam", epoch, 0), source.pulse)
        return source

    def worker(self, session: int = 1, credits: int = 4, stall_ms: float = 10_000.0, bundle: str = "stub") -> Peer:
        worker = self.peer(WORK, f"worker-{session}")
        worker.say(m.WorkerHello(f"worker-{session}", session, credits, bundle, stall_ms, "cpu"))
        return worker

    def running(self, **worker: Any) -> tuple[Peer, Peer]:
        """Return a source and a worker of a line that runs."""
        source, work = self.source(), self.worker(**worker)
        self.until_state(StationState.RUNNING)
        return source, work

    def lose(self, peer: Peer) -> None:
        """Let `peer` go without a word, as if it had been killed."""
        self.peers.remove(peer)
        peer.wire.close()

    def turn(self) -> None:
        self.hub.wait(time.monotonic())
        self.hub.turn(time.monotonic())
        for peer in self.peers:
            peer.turn(time.monotonic())

    def turns(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def until(self, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < end, "this never happens"
            self.turn()

    def until_state(self, state: StationState) -> None:
        self.until(lambda: self.hub.station.state is state)

    def beat(self) -> m.HubState:
        """Turn until the sink has seen this hub's next beat; returns what it has shown."""
        before = self.hub._beat
        self.until(lambda: any(state.beat > before for state in self._states()))
        return self._states()[-1]

    def _states(self) -> list[m.HubState]:
        return [state for state in self.sink.got(m.HubState) if state.instance == self.hub.instance]

    def outcomes(self, count: int) -> dict[int, Reason]:
        """Return what the sink was shown, by sequence number, in the order in which it came."""
        shown = self.sink.hears(m.Outcome, count)
        return {outcome.key.seq: Reason(outcome.reason) for outcome in shown}

    def restart(self) -> None:
        """Kill the hub, start another one on the same journal; what a peer says from now on reaches the new one."""
        self.hub.close()
        end = time.monotonic() + PATIENCE_S
        while any(peer.connected for peer in self.peers):
            assert time.monotonic() < end
            time.sleep(0.002)
        self.hub = Hub(self.config, time.monotonic())

    def close(self) -> None:
        for peer in self.peers:
            peer.wire.close()
        self.hub.close()


def frame(seq: int, epoch: int = EPOCH, **changes: Any) -> m.Frame:
    fields: dict[str, Any] = {"shape": (2, 2), "dtype": "uint8", "colour": "gray", "checksum": seq, "place": "ring"}
    fields |= {"age_ms": 0.0, "deadline_ms": DEADLINE_MS}
    return m.Frame(m.FrameKey("t", "cam", epoch, seq), **fields | changes)


def answer(lease: m.Lease, /, session: int = 1, **changes: Any) -> m.Result:
    fields: dict[str, Any] = {"reason": 0, "score": 0.1, "threshold": 1.0, "bundle": "stub", "regions": ()}
    fields |= {"key": lease.frame.key, "lease": lease.lease, "session": session, "stages": {"stub": 1.0}}
    return m.Result(**fields | {"checksum": lease.frame.checksum} | changes)


def done_by(source: Peer) -> set[tuple[int, int]]:
    """Return epoch and sequence number of what `source` was told that it may forget."""
    return {(done.epoch, seq) for done in source.got(m.FrameDone) for seq in done.seqs}


@contextlib.contextmanager
def rig_with(folder: Path, **camera: Any) -> Iterator[Rig]:
    rig = Rig(folder, **camera)
    try:
        yield rig
    finally:
        rig.close()


def asked(rig: Rig, command: str, **arguments: Any) -> dict[str, Any]:
    """Have the hub do what an operator asks for; the hub turns meanwhile."""
    answers: list[dict[str, Any]] = []
    operator = threading.Thread(
        target=lambda: answers.append(control.ask(rig.config.line.runtime, command, **arguments))
    )
    operator.start()
    rig.until(lambda: not operator.is_alive())
    operator.join()
    return answers[0]
