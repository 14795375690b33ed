"""The log: whole lines or none, nothing twice, and what it does on a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from line_worker.errors import SinkError
from line_worker.sink.log import Log, to_line
from line_worker.wire.messages import FrameKey, Outcome, Region, to_parts


def outcome(seq: int, *, reason: int = 0) -> Outcome:
    verdict = {0: "PASS", 1: "FAIL"}.get(reason, "NO_DECISION")
    region = Region(x=1, y=2, w=3, h=4, zone=(0, 7), error=0.5, neighbours=0.1, limit=3.0, sigma=9.0)
    return Outcome(
        row=seq + 1,
        key=FrameKey("line-1", "top", 7, seq),
        verdict=verdict,
        reason=reason,
        score=1.5 if reason < 2 else None,
        threshold=2.0 if reason < 2 else None,
        regions=(region,) if reason == 1 else (),
        bundle="ab" * 32,
        worker="worker-0",
        attempt=1,
        part_id="Teil-ß",
        trigger=seq,
        latency_ms=12.5,
        left_ms=80.0,
        wall=1.7e9,
        stages={"locate": 1.0},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "outcomes.jsonl"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    sink = Log(path)
    sink.open()
    yield sink
    sink.close()


def seqs(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_bytes().splitlines()]


def test_a_line_holds_every_field(log: Log, path: Path) -> None:
    log.deliver(outcome(3, reason=1), 0.0)
    line = json.loads(path.read_text("utf-8"))
    assert [line[name] for name in ("line", "camera", "epoch", "seq")] == ["line-1", "top", 7, 3]
    assert (line["verdict"], line["part_id"], line["regions"][0]["zone"]) == ("FAIL", "Teil-ß", [0, 7])
    assert {field.name for field in fields(Outcome)} - {"key"} <= line.keys()


def test_an_outcome_that_comes_twice_in_a_run_is_written_once(log: Log, path: Path) -> None:
    for seq in (0, 1, 0, 1, 2):
        assert log.deliver(outcome(seq), 0.0)
    assert seqs(path) == [0, 1, 2]
    assert log.duplicates == 2


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_cut_off_at_the_next_start(path: Path, kept: int) -> None:
    path.parent.mkdir()
    path.write_bytes(to_line(outcome(0)) + to_line(outcome(1))[:kept])
    sink = Log(path)
    sink.open()
    sink.deliver(outcome(1), 0.0)
    sink.close()
    assert seqs(path) == [0, 1]


def test_a_file_that_is_not_ours_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("my notes")
    with pytest.raises(SinkError, match="left alone"):
        Log(path).open()
    assert path.read_text() == "my notes"


def test_a_full_disk_raises_and_says_what_to_do() -> None:
    sink = Log(Path("/dev/full"))
    sink.open()
    with pytest.raises(SinkError, match=r"/dev/full.*No space left.*free space"):
        sink.deliver(outcome(0), 0.0)
    sink.close()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from line_worker.errors import SinkError
from line_worker.sink.log import Log, to_line
from line_worker.wire import messages as m

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
outcome = m.from_parts([bytes.fromhex(part) for part in sys.argv[2:]])
half = len(to_line(outcome)) // 2
resource.setrlimit(resource.RLIMIT_FSIZE, (half, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
sink = Log(Path(sys.argv[1]))
sink.open()
try:
    sink.deliver(outcome, 0.0)
except SinkError:
    print(Path(sys.argv[1]).stat().st_size)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sink.deliver(outcome, 0.0)
sink.close()
"""


def test_a_line_that_fits_only_in_part_is_taken_back_and_written_later(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    command = [sys.executable, "-c", LIMITED, str(path), *(part.hex() for part in to_parts(outcome(5)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "0"
    assert seqs(path) == [5]


def test_a_folder_that_cannot_be_made_raises(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SinkError, match="cannot be logged"):
        Log(tmp_path / "file" / "log.jsonl").open()


def test_without_a_path_it_writes_to_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    sink = Log(None)
    sink.open()
    sink.deliver(outcome(9), 0.0)
    sink.close()
    assert json.loads(capfd.readouterr().out)["seq"] == 9
    os.write(1, b"")  # standard output itself stays open


PIPED = """
import sys
from line_worker.errors import SinkError
from line_worker.sink.log import Log
from line_worker.wire import messages as m

sink = Log(None)
sink.open()
try:
    sink.deliver(m.from_parts([bytes.fromhex(part) for part in sys.argv[1:]]), 0.0)
except SinkError as error:
    print(error, file=sys.stderr)
sink.close()
"""


def test_a_reader_that_has_gone_raises() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", PIPED, *(part.hex() for part in to_parts(outcome(5)))]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=True)
    os.close(writer)
    assert "standard output: outcomes cannot be logged (Broken pipe)" in done.stderr
