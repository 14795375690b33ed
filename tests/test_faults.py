"""The rows of the fault table, broken on purpose: real processes, real sockets, real files.

Each test is named for its row. What the modules do alone is tested beside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zmq

from line_worker.auditing import audit
from line_worker.config import Config, parse
from line_worker.images import save_png
from line_worker.ports import free_port
from line_worker.rehearsal import Rehearsal
from line_worker.sink.plc.simulated import SimulatedPlc
from line_worker.supervisor import Supervisor
from line_worker.verdicts import Reason, StationState, StopCause
from line_worker.wire import messages as m
from line_worker.wire.curve import Credentials, arm_client, pair
from line_worker.wire.keys import create, read_public, read_secret, revoke

COMMAND = str(Path(sys.executable).parent / "line-worker")
NOISE = {"kind": "synthetic", "part": "noise", "rate": 10, "width": 64, "height": 64}


def _config(folder: Path, source: dict[str, Any], **more: Any) -> Config:
    camera = {"name": "camera", "deadline_ms": 2000, "window": 128, "max_frame_mb": 1, "source": source}
    return parse(
        {
            "line": {"name": "t", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [camera | more.get("camera", {})],
            "workers": {"bundle": "stub", "count": 1, **more.get("workers", {})},
            "sinks": more.get("sinks", []),
        }
    )


def _reasons(config: Config) -> list[Reason]:
    """Return the journal's reasons in the order of sequence numbers; the books balance."""
    assert audit(config.journal_path).balanced
    with closing(sqlite3.connect(config.journal_path)) as db:
        return [Reason(reason) for (reason,) in db.execute("SELECT reason FROM outcomes ORDER BY epoch, seq")]


class Done(Exception):
    """A test has seen what it waited for; the line is stopped in order."""


def _command(config: Config, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of line-worker on the line, as an operator does."""
    path = config.line.data.parent / "line.json"
    path.write_text(config.model_dump_json(), "utf-8")
    command, *more = words
    return subprocess.run([COMMAND, command, str(path), *more], capture_output=True, text=True, check=False, timeout=60)


def test_row_10_frozen_camera(tmp_path: Path) -> None:
    """A folder in which one picture stands several times in a row is a camera that freezes and recovers."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    stuck, *others = rng.integers(0, 255, (4, 48, 64), np.uint8)
    for number, picture in enumerate([others[0], *[stuck] * 5, others[1], others[2]]):
        save_png(images / f"{number}.png", picture)
    config = _config(tmp_path, {"kind": "folder", "path": str(images), "rate": 4})
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    rehearsal.run()
    frozen = [Reason.FROZEN] * 4
    assert _reasons(config) == [Reason.NONE, Reason.NONE, *frozen, Reason.NONE, Reason.NONE]
    faults = [state for state in rehearsal.watcher.states if state.state == StationState.FAULT]
    assert {state.cause for state in faults} == {"camera camera: gives the same picture"}


def test_row_23_a_damaged_journal_is_set_aside(tmp_path: Path) -> None:
    """A line runs, its journal is damaged while it is down; it starts in FAULT, and passes parts once acknowledged."""
    source = {**NOISE, "parts": 5, "rate": 20}
    config = _config(tmp_path, source)
    Rehearsal(config, tmp_path / "line.log").run()
    assert _reasons(config) == [Reason.NONE] * 5
    with config.journal_path.open("r+b") as file:
        file.write(b"\xa5" * 4096)
    before = config.journal_path.read_bytes()
    config = _config(tmp_path, NOISE)
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    said: list[str] = []

    def on_turn() -> None:
        shown, states = rehearsal.watcher.outcomes, rehearsal.watcher.states
        if not said and len(states) >= 20:
            assert {state.state for state in states} == {StationState.FAULT}
            said.append(_command(config, "acknowledge").stdout)
        elif said and shown:
            raise Done

    with pytest.raises(Done):
        rehearsal.run(on_turn, seconds=60)
    [aside] = tmp_path.glob("data/journal.sqlite.damaged-*[0-9]")
    assert aside.read_bytes() == before
    assert aside.name in said[0]
    assert _reasons(config)[0] is Reason.NONE


def test_row_38_the_line_stops_until_it_is_re_armed(tmp_path: Path) -> None:
    """A reject rate of zero stops the line; the hub is killed, which re-arms nothing; the operator does."""
    port = free_port()
    config = _config(*(tmp_path, NOISE), camera={"rules": {"silent_window": 5}}, sinks=[{"kind": "plc", "port": port}])
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    seen: list[str] = []

    def on_turn() -> None:
        states = rehearsal.watcher.states
        if not seen and plc.stop_line == StopCause.SILENT:
            seen.append(f"hub {states[-1].instance}")
            os.kill(rehearsal.supervisor.pids("hub")[0], signal.SIGKILL)
        elif len(seen) == 1 and seen[0] != f"hub {states[-1].instance}":
            assert states[-1].stop_line == StopCause.SILENT, "the new hub knows"
            status = _command(config, "status", "--json")
            assert (status.returncode, json.loads(status.stdout)["alarms"][0]["cause"]) == (1, "SILENT")
            stops = plc.stops
            said = _command(config, "acknowledge")
            assert said.stdout.startswith("acknowledged: SILENT: camera camera: 5 parts passed")
            seen.append(str(stops))
        elif len(seen) == 2 and plc.stops > int(seen[1]):
            raise Done

    with SimulatedPlc("127.0.0.1", port) as plc, pytest.raises(Done):
        rehearsal.run(on_turn, seconds=60)
    assert audit(config.journal_path).balanced


# ---- rows 30 to 33: peers over TCP with keys -------------------------------------------------------------------------


class KeyedLine:
    """A line over TCP with keys; cameras named in `scripted` get no source of their own."""

    def __init__(self, folder: Path, cameras: list[dict[str, Any]], scripted: tuple[str, ...] = ()) -> None:
        self.keys, self.outcomes_path, self._log = folder / "keys", folder / "outcomes.jsonl", folder / "line.log"
        for name in ("hub", "source", "worker", "sink"):
            create(self.keys, name, name, pair)
        self.tcp = f"127.0.0.1:{free_port()}"
        common = {"deadline_ms": 3000, "window": 8, "max_frame_mb": 0.2, "transport": "inline"}
        self.config = parse(
            {
                "line": {
                    "name": "t",
                    "runtime": str(folder / "run"),
                    "data": str(folder / "data"),
                    "tcp": self.tcp,
                    "keys": {"dir": str(self.keys)},
                },
                "cameras": [common | camera for camera in cameras],
                "workers": {"bundle": "stub"},
                "sinks": [{"kind": "log", "path": str(self.outcomes_path)}],
            }
        )
        self.supervisor = Supervisor(self.config, self._log)
        self.supervisor.start(sources=False)
        self.supervisor.children = [
            c for c in self.supervisor.children if c.name not in {f"source-{name}" for name in scripted}
        ]
        assert self.supervisor.wait_ready(60)

    @property
    def log(self) -> str:
        return self._log.read_text()

    def outcomes(self, camera: str) -> list[tuple[str, str]]:
        """Return verdict and reason of what the log sink was shown of `camera`, in order."""
        lines = self.outcomes_path.read_text().splitlines() if self.outcomes_path.exists() else []
        return [(o["verdict"], Reason(o["reason"]).name) for o in map(json.loads, lines) if o["camera"] == camera]

    def until(self, ready: Callable[[], Any], patience_s: float = 60.0) -> None:
        end = time.monotonic() + patience_s
        while not ready():
            assert time.monotonic() < end, f"this never happens; {self.log[-3000:]}"
            self.supervisor.turn(0.02)

    def memory(self) -> int:
        """Return the most memory that the hub has ever held, in bytes."""
        [hub] = self.supervisor.pids("hub")
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{hub}/status").read_text())[0])

    def finish(self) -> None:
        assert self.supervisor.stop() == 0
        assert audit(self.config.journal_path).balanced


@contextlib.contextmanager
def _peer(line: KeyedLine, key: str = "source") -> Iterator[zmq.Socket[bytes]]:
    """Yield a raw socket on the frames link that holds `key`; "" for none."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = context.socket(zmq.DEALER)
    peer.setsockopt(zmq.LINGER, 0)
    if key:
        own = read_secret(line.keys / f"{key}.secret")
        arm_client(peer, Credentials(own, read_public(line.keys / "hub.public"), line.keys))
    peer.connect(f"tcp://{line.tcp}")
    yield peer
    peer.close()
    context.term()


def _frame(camera: str, epoch: int, seq: int, pixels: bytes = b"") -> list[bytes]:
    frame = m.Frame(
        m.FrameKey("t", camera, epoch, seq), 0.0, 3000.0, (), "", "", 0, "none", problem=int(Reason.NO_FRAME)
    )
    if pixels:
        frame = dataclasses.replace(
            frame,
            problem=0,
            checksum=seq,
            place="inline",
            shape=(1, len(pixels)),
            dtype="uint8",
            colour="gray",
            pixels=pixels,
        )
    return m.to_parts(frame)


def _noise(parts: int, rate: float = 40) -> dict[str, Any]:
    return NOISE | {"parts": parts, "rate": rate}


def test_row_30_a_flood_by_an_authorised_peer(tmp_path: Path) -> None:
    good = {"name": "good", "source": _noise(60, 20), "window": 64, "deadline_ms": 20_000}  # patient: machines are busy
    cameras = [good, {"name": "wild", "source": _noise(1)}]
    line = KeyedLine(tmp_path, cameras, scripted=("wild",))
    before = line.memory()
    with _peer(line) as peer:
        peer.send_multipart(m.to_parts(m.SourceHello("wild", 5, 0)))
        line.until(lambda: peer.poll(10))
        line.supervisor.start_sources()
        seq = 0

        def flood() -> bool:
            nonlocal seq
            with contextlib.suppress(zmq.Again):
                for _ in range(200):
                    peer.send_multipart(_frame("wild", 5, seq, bytes(100_000)), zmq.NOBLOCK)
                    seq += 1
            return "it floods" in line.log

        line.until(flood)
        line.until(lambda: flood() and line.supervisor.finished)
    bound = 8 * 0.2e6 * 4 + 64e6  # two windows here and two on the way; the rest is the interpreter and its books
    assert line.memory() - before < bound
    line.until(lambda: len(line.outcomes("good")) == 60)
    assert line.outcomes("good") == [("PASS", "NONE")] * 60, "the other camera has noticed nothing"
    wild = {reason for _, reason in line.outcomes("wild")}
    assert "OVERLOAD" in wild
    assert wild <= {"OVERLOAD", "GAP", "CRC"}
    line.finish()


def test_row_31_unauthorised_peers(tmp_path: Path) -> None:
    line = KeyedLine(tmp_path, [{"name": "good", "source": _noise(80)}])
    create(line.keys, "gone", "source", pair)
    revoke(line.keys, "gone")
    line.supervisor.start_sources()
    tries = 0
    host, port = line.tcp.split(":")
    while not line.supervisor.finished or tries < 100:
        for key in ("", "gone", "worker"):
            with _peer(line, key) as peer:
                for parts in (m.to_parts(m.SourceHello("good", 2**60, 0)), _frame("good", 2**60, 0, b"1")):
                    with contextlib.suppress(zmq.Again):
                        peer.send_multipart(parts, zmq.NOBLOCK)
                line.supervisor.turn(0.02)
                assert not peer.poll(0), "nobody answers"
        for offset in range(3):
            with socket.create_connection((host, int(port) + offset)) as raw, contextlib.suppress(OSError):
                raw.sendall(os.urandom(200))
        tries += 6
    line.until(lambda: len(line.outcomes("good")) == 80)
    assert line.outcomes("good") == [("PASS", "NONE")] * 80
    told = [entry for entry in map(json.loads, line.log.splitlines()) if entry.get("event") == "denied"]
    assert told
    assert {entry["cause"] for entry in told} <= {"handshake", "unknown key", "role"}
    assert told[-1]["total"] >= len(told) + told[-1]["untold"], "each is counted, few are told"
    line.finish()


def test_row_32_malformed_messages(tmp_path: Path) -> None:
    line = KeyedLine(tmp_path, [{"name": "odd", "source": _noise(1)}], scripted=("odd",))
    head, body, pixels = _frame("odd", 5, 1)
    unknown_field = [head, msgpack.packb({**msgpack.unpackb(body), "colour_temperature": 5}), pixels]
    too_deep = [head, b"\x91" * 20_000, b""]
    other_version = [bytes((99, head[1])), *_frame("odd", 5, 4)[1:]]
    with _peer(line) as peer:
        peer.send_multipart(m.to_parts(m.SourceHello("odd", 5, 0)))
        for parts in (_frame("odd", 5, 0), unknown_field, too_deep, _frame("odd", 5, 3), other_version):
            peer.send_multipart(parts)
        for seq in range(5, 9):
            peer.send_multipart(_frame("odd", 5, seq))
        line.until(lambda: "3 malformed messages" in line.log)
    with _peer(line) as peer:
        peer.send_multipart(m.to_parts(m.SourceHello("odd", 6, 0)))
        peer.send_multipart(_frame("odd", 6, 0))
        line.until(lambda: len(line.outcomes("odd")) >= 6)
    reasons = ["NO_FRAME", "HEADER", "GAP", "NO_FRAME", "HEADER", "NO_FRAME"]
    assert line.outcomes("odd") == [("NO_DECISION", reason) for reason in reasons], "cut after three, heard when new"
    line.finish()


def test_row_33_rotation_and_revocation(tmp_path: Path) -> None:
    line = KeyedLine(tmp_path, [{"name": "good", "source": _noise(10_000)}])
    line.supervisor.start_sources()
    line.until(lambda: len(line.outcomes("good")) > 10)
    create(line.keys, "source-2", "source", pair)
    known = len(line.outcomes("good"))
    line.until(lambda: len(line.outcomes("good")) > known + 20)
    assert "denied" not in line.log, "both keys are valid"
    revoke(line.keys, "source")
    line.until(lambda: "revoked key" in line.log)
    line.until(lambda: audit(line.config.journal_path).balanced)
    known = len(line.outcomes("good"))
    line.until(lambda: "source is silent" in line.log)
    assert len(line.outcomes("good")) <= known + 8, "of the old key nothing more than its window"
    old = next(child for child in line.supervisor.children if child.role == "source")
    line.supervisor.children.remove(old)
    old.kill()
    keys = line.config.line.keys
    assert keys is not None
    section = line.config.line.model_copy(update={"keys": keys.model_copy(update={"source": "source-2"})})
    camera = line.config.cameras[0].model_copy(
        update={"source": line.config.cameras[0].source.model_copy(update={"parts": 30})}
    )
    path = tmp_path / "rotated.json"
    path.write_text(line.config.model_copy(update={"line": section, "cameras": (camera,)}).model_dump_json())
    known = len(line.outcomes("good"))
    with subprocess.Popen([sys.executable, "-m", "line_worker.role", str(path), "source", "good"]) as source:
        line.until(lambda: source.poll() is not None)
        assert source.returncode == 0
    line.until(lambda: len(line.outcomes("good")) >= known + 30)
    assert line.outcomes("good")[-30:] == [("PASS", "NONE")] * 30
    line.finish()


# ---- checks against a blind station ----------------------------------------------------------------------------------


def test_a_blind_station_is_found_by_its_canary(tmp_path: Path) -> None:
    """Workers that pass everything miss the first canary: nothing passes until the operator acknowledges it."""
    camera = {"canary_every_s": 60}
    config = _config(tmp_path, NOISE, camera=camera, workers={"stub_blind": True})
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    said: list[str] = []

    def on_turn() -> None:
        reasons = [Reason(outcome.reason) for outcome in rehearsal.watcher.outcomes]
        if not said and reasons.count(Reason.CANARY) >= 3:
            assert Reason.NONE not in reasons[reasons.index(Reason.CANARY) :], "once found, nothing passes"
            said.append(_command(config, "acknowledge", "canary").stdout)
        elif said and reasons[-1] is Reason.NONE:
            raise Done

    with pytest.raises(Done):
        rehearsal.run(on_turn, seconds=60)
    assert "CANARY: camera camera: a part with a defect painted on it passed" in said[0]
    assert audit(config.journal_path).balanced, "a canary is in no book"


def test_a_seeing_station_fails_its_canaries_and_passes_its_parts(tmp_path: Path) -> None:
    camera = {"canary_every_s": 0.3, "transport": "inline"}
    config = _config(tmp_path, {**NOISE, "rate": 20, "parts": 60}, camera=camera, workers={"count": 2})
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    rehearsal.run()
    assert _reasons(config) == [Reason.NONE] * 60
    events = [json.loads(line) for line in (tmp_path / "line.log").read_text().splitlines() if line.startswith("{")]
    canaries = [event for event in events if event["event"] == "canary"]
    assert len(canaries) >= 2
    assert {event["reason"] for event in canaries} == {"ANOMALY"}
    assert {event["worker"] for event in canaries} == {"worker-0", "worker-1"}, "each worker gets its turn"


def test_a_known_bad_part_that_passes_lets_nothing_else_pass(tmp_path: Path) -> None:
    config = _config(tmp_path, NOISE)
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    said: list[str] = []

    def on_turn() -> None:
        reasons = [Reason(outcome.reason) for outcome in rehearsal.watcher.outcomes]
        if not said and reasons:
            said.append(_command(config, "challenge", "--camera", "camera", "--parts", "2").stdout)
        elif said and reasons.count(Reason.CANARY) >= 3:
            raise Done

    with pytest.raises(Done):
        rehearsal.run(on_turn, seconds=60)
    assert said[0].startswith("the next 2 parts of camera camera must fail")
    reasons = _reasons(config)
    assert Reason.NONE not in reasons[reasons.index(Reason.CANARY) :]


def test_a_challenge_under_way_when_the_hub_is_killed_is_told_as_broken_off(tmp_path: Path) -> None:
    """Known-bad parts are announced, the hub dies: the next one stops the line until somebody has looked."""
    config = _config(tmp_path, NOISE)
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    said: list[str] = []

    def on_turn() -> None:
        states = rehearsal.watcher.states
        if not said and rehearsal.watcher.outcomes:
            said.append(_command(config, "challenge", "--parts", "1000").stdout)
            os.kill(rehearsal.supervisor.pids("hub")[0], signal.SIGKILL)
        elif len(said) == 1 and any("broken off" in warning for warning in states[-1].warnings):
            said.append(_command(config, "status").stdout)
            said.append(_command(config, "acknowledge", "challenge").stdout)
            raise Done

    with pytest.raises(Done):
        rehearsal.run(on_turn, seconds=60)
    told = "camera camera: a challenge of 1000 known-bad parts was broken off by a restart"
    assert all(told in text for text in said[1:])
    log = [json.loads(line) for line in (tmp_path / "line.log").read_text().splitlines()]
    assert [told in entry["what"] for entry in log if entry["event"] == "the line should stop"][-1:] == [True]
    assert audit(config.journal_path).balanced
