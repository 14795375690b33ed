"""The whole line with real processes, sockets, signals and files: every part has one outcome, whatever dies."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from line_worker import serving
from line_worker.auditing import audit
from line_worker.config import Config, load, parse
from line_worker.errors import RecordingError
from line_worker.rehearsal import Rehearsal
from line_worker.wire.recording import RecordedFrame, RecordingMeta, read_recording
from line_worker.wire.recording_writer import RecordingWriter

COMMAND = str(Path(sys.executable).parent / "line-worker")


def _config(folder: Path, parts: int, rate: float, **more: Any) -> Config:
    source = {"kind": "synthetic", "part": "noise", "parts": parts, "rate": rate, "width": 160, "height": 120}
    camera = {"name": "camera", "deadline_ms": 2000, "window": 128, "max_frame_mb": 1, "source": source}
    camera |= more.get("camera", {})
    line = {
        "name": f"t{os.getpid()}",
        "runtime": str(folder / "run"),
        "data": str(folder / "data"),
        **more.get("line", {}),
    }
    return parse(
        {
            "line": line,
            "cameras": [camera],
            "workers": {"bundle": "stub", "count": 2, **more.get("workers", {})},
            "sinks": [{"kind": "log", "path": str(folder / "outcomes.jsonl")}],
        }
    )


def _once(after: int, do: Callable[[Rehearsal], None], rehearsal: Rehearsal) -> Callable[[], None]:
    """Return what calls `do` once, when `after` outcomes have been seen."""
    done: list[bool] = []

    def on_turn() -> None:
        if not done and len(rehearsal.watcher.outcomes) >= after:
            done.append(True)
            do(rehearsal)

    return on_turn


def _kill(role: str, number: int = signal.SIGKILL) -> Callable[[Rehearsal], None]:
    return lambda rehearsal: os.kill(rehearsal.supervisor.pids(role)[0], number)


def _check_books(config: Config, folder: Path, parts: int) -> Counter[str]:
    """Three books agree: the journal, the log, and what was announced."""
    books = audit(config.journal_path)
    assert books.balanced
    assert sum(epoch.announced for epoch in books.epochs) == parts
    with sqlite3.connect(config.journal_path) as db:
        rows = db.execute("SELECT seq, verdict FROM outcomes ORDER BY seq").fetchall()
    db.close()
    assert [seq for seq, _ in rows] == list(range(parts)), "one outcome each, none twice"
    assert len((folder / "outcomes.jsonl").read_text().splitlines()) == parts
    return Counter(verdict for _, verdict in rows)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"camera": {"transport": "inline"}},
        {"line": {"tcp": "127.0.0.1:47610"}},
        pytest.param({"camera": {"transport": "inline"}, "workers": {"batch": 1, "count": 1}}, marks=pytest.mark.long),
    ],
    ids=["ring", "inline", "tcp", "one worker, no batches"],
)
def test_every_part_passes_in_order(tmp_path: Path, more: dict[str, Any]) -> None:
    config = _config(tmp_path, 60, 60, **more)
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    assert rehearsal.run() == 0
    assert [o.key.seq for o in rehearsal.watcher.outcomes] == list(range(60))
    assert _check_books(config, tmp_path, 60) == {"PASS": 60}
    assert not list(Path("/dev/shm").glob(f"line-worker-t{os.getpid()}-camera.*")), (
        "an orderly stop leaves no shared memory"
    )


def test_a_worker_killed_in_a_run_of_500_frames_costs_no_outcome(tmp_path: Path) -> None:
    config = _config(tmp_path, 500, 100, workers={"stub_ms": 3})
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    rehearsal.run(_once(150, _kill("worker"), rehearsal))
    assert _check_books(config, tmp_path, 500) == {"PASS": 500}
    assert [o.key.seq for o in rehearsal.watcher.outcomes] == list(range(500))


@pytest.mark.long
def test_a_stopped_worker_is_expelled_and_its_frames_are_leased_again(tmp_path: Path) -> None:
    config = _config(tmp_path, 150, 50, workers={"stub_ms": 5})
    rehearsal = Rehearsal(config, tmp_path / "line.log")

    def stop_and_go(run: Rehearsal) -> None:
        _kill("worker", signal.SIGSTOP)(run)

    rehearsal.run(_once(30, stop_and_go, rehearsal))
    assert _check_books(config, tmp_path, 150) == {"PASS": 150}
    assert "no progress" in (tmp_path / "line.log").read_text()


def test_without_workers_every_part_is_refused_by_its_deadline(tmp_path: Path) -> None:
    config = _config(tmp_path, 60, 30, camera={"deadline_ms": 300}, workers={"count": 1})
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    rehearsal.run(_once(20, _kill("worker"), rehearsal))
    verdicts = _check_books(config, tmp_path, 60)
    assert verdicts["NO_DECISION"] > 3
    late = max(rehearsal.watcher.elapsed_ms)
    assert late < 300 + 250, "offered at the deadline, give or take this machine's scheduling"


def test_a_killed_hub_comes_back_and_decides_nothing_twice(tmp_path: Path) -> None:
    config = _config(tmp_path, 200, 50, camera={"deadline_ms": 5000, "window": 256})
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    rehearsal.run(_once(50, _kill("hub"), rehearsal))
    verdicts = _check_books(config, tmp_path, 200)
    assert verdicts["PASS"] > 100


@pytest.mark.long
def test_a_killed_log_gets_what_it_missed_once(tmp_path: Path) -> None:
    config = _config(tmp_path, 150, 50)
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    rehearsal.run(_once(40, _kill("sink"), rehearsal))
    assert _check_books(config, tmp_path, 150) == {"PASS": 150}


def test_more_parts_than_can_be_scored_are_all_accounted_for(tmp_path: Path) -> None:
    config = _config(
        tmp_path, 200, 100, camera={"deadline_ms": 200, "window": 8}, workers={"count": 1, "batch": 1, "stub_ms": 25}
    )
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    rehearsal.run()
    verdicts = _check_books(config, tmp_path, 200)
    assert verdicts["PASS"] > 20
    assert verdicts["NO_DECISION"] > 50
    assert verdicts["FAIL"] == 0


# ---- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def line_toml(tmp_path: Path) -> Path:
    path = tmp_path / "line.toml"
    path.write_text(
        f"""
        [line]
        name = "t"
        runtime = "{tmp_path / "run"}"
        data = "data"
        [[cameras]]
        name = "camera"
        deadline_ms = 500
        source = {{ kind = "synthetic", part = "noise", rate = 50, width = 160, height = 120 }}
        [workers]
        bundle = "stub"
        [[sinks]]
        kind = "log"
        path = "outcomes.jsonl"
        """
    )
    return path


def _wait_for_outcomes(path: Path, count: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} has not got {count} lines")


def _wait_for_words(path: Path, words: str) -> None:
    until = time.monotonic() + 30
    while words not in path.read_text():
        assert time.monotonic() < until, f"{path} does not say {words!r}"
        time.sleep(0.01)


def test_serve_ends_in_good_order_at_sigterm_and_a_second_one_refuses_to_start(line_toml: Path) -> None:
    with subprocess.Popen([COMMAND, "serve", str(line_toml)], stderr=subprocess.PIPE) as serve:
        _wait_for_outcomes(line_toml.parent / "outcomes.jsonl", 20)
        second = subprocess.run(
            [COMMAND, "serve", str(line_toml)], capture_output=True, text=True, check=False, timeout=30
        )
        serve.terminate()
        _, log = serve.communicate(timeout=30)
    assert second.returncode == 3
    assert str(serve.pid) in second.stderr
    assert "already runs this line" in second.stderr
    assert serve.returncode == 0, log.decode()[-2000:]
    found = audit(line_toml.parent / "data" / "journal.sqlite")
    assert found.balanced
    assert subprocess.run([COMMAND, "audit", str(found.journal)], capture_output=True, check=False).returncode == 0


def test_a_line_whose_bundles_are_not_there_does_not_start(line_toml: Path) -> None:
    text = line_toml.read_text().replace('"stub"', '"gone.bundle"\nbatch = 0')
    line_toml.write_text(text + '[[recipes]]\nnumber = 1\nbundle = "stub"\n[[recipes]]\nnumber = 2\nbundle = "no"\n')
    for command in (["serve"], ["record", "--out", str(line_toml.parent / "x.mcap")]):
        words = [COMMAND, *command, str(line_toml)]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 3
        remedy = "is not there; correct the path, or make it with `line-worker train`"
        assert done.stderr.splitlines()[1:] == [
            "  - workers.batch = 0: should be greater than or equal to 1",
            f"  - workers.bundle = '{line_toml.parent}/gone.bundle': {remedy}",
            f"  - recipes[2].bundle = '{line_toml.parent}/no': {remedy}",
        ]
    assert [p.name for p in line_toml.parent.iterdir()] == ["line.toml"]


def test_who_decides_comes_before_who_watches_where_that_is_allowed(line_toml: Path) -> None:
    def niceness(pid: int) -> int:
        return os.getpriority(os.PRIO_PROCESS, pid)

    with subprocess.Popen([COMMAND, "serve", str(line_toml)], stderr=subprocess.DEVNULL) as serve:
        _wait_for_outcomes(line_toml.parent / "outcomes.jsonl", 5)
        found: dict[str, int] = {}
        for pid in set(_processes_with(str(line_toml.parent / "run"))) - {serve.pid}:
            arguments = _arguments(pid)
            role = arguments[arguments.index("line_worker.role") + 2 :]
            found[role[1] if role[0] == "sink" else role[0]] = niceness(pid)
        serve.send_signal(signal.SIGINT)
    own = niceness(os.getpid())
    may = subprocess.run([sys.executable, "-c", "import os; os.nice(-5)"], stderr=subprocess.DEVNULL).returncode == 0
    wanted = {"source": -5, "hub": -5, "worker": -3} if may else {"source": 0, "hub": 0, "worker": 0}
    assert {role: nice - own for role, nice in found.items()} == wanted | {"log": 0, "live": 10}


def test_a_second_ctrl_c_cuts_no_stop_short(line_toml: Path) -> None:
    out, log = line_toml.parent / "shift.mcap", line_toml.parent / "log"
    command = [COMMAND, "record", str(line_toml), "--out", str(out)]
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as record:
        _wait_for_outcomes(line_toml.parent / "outcomes.jsonl", 20)
        [worker] = [pid for pid in _processes_with(str(line_toml.parent / "run")) if "worker" in _arguments(pid)]
        os.kill(worker, signal.SIGSTOP)  # so that the stop takes as long as this test wants
        record.send_signal(signal.SIGINT)
        _wait_for_words(log, "line stops")
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            record.send_signal(number)
            time.sleep(0.3)
        assert record.poll() is None
        os.kill(worker, signal.SIGCONT)
        assert record.wait(30) == 0, log.read_text()
    assert log.read_text().count("still stopping") == 1
    assert '"at_most_s": ' in log.read_text()
    assert read_recording(out).finished
    assert audit(line_toml.parent / "data" / "journal.sqlite").balanced


def test_a_line_that_is_recorded_stays_as_it_is(line_toml: Path) -> None:
    out, log = line_toml.parent / "shift.mcap", line_toml.parent / "log"
    command = [COMMAND, "record", str(line_toml), "--out", str(out)]
    with log.open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as record:
        _wait_for_outcomes(line_toml.parent / "outcomes.jsonl", 5)
        line_toml.write_text(line_toml.read_text().replace("deadline_ms = ", "deadline_ms = 1"))
        record.send_signal(signal.SIGHUP)
        _wait_for_words(log, "a line does not change while it is recorded")
        _wait_for_outcomes(line_toml.parent / "outcomes.jsonl", 20)
        record.send_signal(signal.SIGINT)
        assert record.wait(30) == 0, log.read_text()
    assert read_recording(out).finished
    assert sum(isinstance(item, RecordedFrame) for item in read_recording(out)) >= 20


def test_a_recording_that_is_there_is_refused_before_the_line_starts(line_toml: Path) -> None:
    out = line_toml.parent / "shift.mcap"
    out.write_bytes(b"precious")
    command = [COMMAND, "record", str(line_toml), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 3
    assert done.stderr == (
        f"line-worker: {out}: is there already and is not overwritten; give another name, or move it away\n"
    )
    assert sorted(p.name for p in line_toml.parent.iterdir()) == ["line.toml", "shift.mcap"], "nothing has started"
    assert out.read_bytes() == b"precious"


@pytest.mark.parametrize(("begun", "says"), [(False, "was not finished"), (True, "holds nothing")])
def test_a_line_that_recorded_nothing_does_not_end_well(
    line_toml: Path, monkeypatch: pytest.MonkeyPatch, begun: bool, says: str
) -> None:
    out = line_toml.parent / "shift.mcap"

    def serve(read: Callable[[], Config]) -> int:
        assert [sink.kind for sink in read().sinks] == ["log", "record", "live"]
        if begun:
            RecordingWriter(out, RecordingMeta("t", 0.0, 0.0)).close()
        return 0

    monkeypatch.setattr(serving, "serve", serve)
    with pytest.raises(RecordingError, match=says):
        serving.record(lambda: load(line_toml), out)


def test_no_process_outlives_a_killed_supervisor(line_toml: Path) -> None:
    with subprocess.Popen([COMMAND, "serve", str(line_toml)], stderr=subprocess.DEVNULL) as serve:
        _wait_for_outcomes(line_toml.parent / "outcomes.jsonl", 5)
        marker = str(line_toml.parent / "run")
        assert _processes_with(marker)
        serve.kill()
    until = time.monotonic() + 15
    while _processes_with(marker) and time.monotonic() < until:
        time.sleep(0.1)
    assert not _processes_with(marker)


def _arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def _processes_with(marker: str) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in path.read_text():
                found.append(int(path.parent.name))
        except (OSError, UnicodeDecodeError):  # it has ended meanwhile
            continue
    return found
