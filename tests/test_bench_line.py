"""The bench measures what it says: late parts count their waiting, lost ones are counted."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.line import Load, knee, measure, quantiles
from line_worker.images import save_png

SMALL = Load(rate=50, seconds=1, width=320, height=240)


def test_every_part_of_an_easy_load_is_decided_in_time() -> None:
    run = measure(SMALL)
    assert (run.parts, run.lost, run.counts) == (50, 0, {"PASS": 50})
    assert run.in_time
    assert 0 < run.elapsed_ms["p50"] <= run.elapsed_ms["p99"] <= run.elapsed_ms["max"]
    assert run.rate == pytest.approx(50, rel=0.3)


def test_a_folder_is_shown_again_and_again_until_the_time_is_over(tmp_path: Path) -> None:
    save_png(tmp_path / "one.png", np.full((240, 320), 90, np.uint8))
    run = measure(replace(SMALL, folder=str(tmp_path), seconds=4))
    assert run.lost == 0
    assert 3 <= run.counts["PASS"] <= 220, "it takes a while until the source is there"
    assert run.counts == {"PASS": run.parts}


def test_waiting_counts_when_the_line_is_too_slow() -> None:
    """A bundle of stubs cannot be slowed from outside, so the deadline is set below what any computer can do."""
    run = measure(replace(SMALL, deadline_ms=0.01))
    assert run.lost == 0
    assert run.counts == {"NO_DECISION": 50}
    assert not run.in_time


def test_the_knee_stops_where_the_promise_breaks() -> None:
    runs = knee(SMALL, p99_ms=0.001, rates=(1.0, 2.0))
    assert len(runs) == 1
    assert runs[0].elapsed_ms["p99"] > 0.001


def test_quantiles() -> None:
    assert quantiles([]) == {}
    assert quantiles([float(n) for n in range(101)]) == {"p50": 50.0, "p99": 99.0, "p99_9": 99.9, "max": 100.0}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--size", "10"], "1024x1024"), (["--rate", "0"], "--rate"), (["--workers", "none"], "--workers")],
)
def test_wrong_usage_is_said_and_exits_with_3(arguments: list[str], words: str) -> None:
    command = [str(Path(sys.executable).parent / "line-worker"), "bench", "latency", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert result.returncode == 3
    assert words in result.stderr


@pytest.mark.long
def test_json_for_scripts() -> None:
    command = [str(Path(sys.executable).parent / "line-worker"), "bench", "latency", "--json", "--size", "320x240"]
    result = subprocess.run([*command, "--seconds", "0.5"], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["runs"][0]["parts"] == 50
    assert "cores" in found["machine"]
