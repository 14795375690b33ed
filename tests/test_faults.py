"""The rows of the fault table, broken on purpose: real processes, real sockets, real files.

Each test is named for its row. What the modules do alone is tested beside them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from line_worker.auditing import audit
from line_worker.config import Config, parse
from line_worker.images import save_png
from line_worker.rehearsal import Rehearsal
from line_worker.sink.plc.simulated import SimulatedPlc
from line_worker.verdicts import Reason, StationState, StopCause

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


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_row_38_the_line_stops_until_it_is_re_armed(tmp_path: Path) -> None:
    """A reject rate of zero stops the line; the hub is killed, which re-arms nothing; the operator does."""
    port = _free_port()
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
