"""`bench wire`: every transport is measured with frames that have really arrived."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from bench.wire import TRANSPORTS, _cost


def test_the_command_measures_every_transport() -> None:
    command = [str(Path(sys.executable).parent / "line-worker"), "bench", "wire", "--json"]
    command += ["--megabytes", "0.1", "--frames", "5", "--runs", "1"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    costs = json.loads(result.stdout)["costs"]
    assert [cost["transport"] for cost in costs] == list(TRANSPORTS)
    assert all(0 < cost["ms"] < 30_000 and cost["cpu_ms"] > 0 and cost["frame_bytes"] == 100_000 for cost in costs)
    assert not list(Path("/dev/shm").glob("line-worker-bench-wire.*"))


def test_the_median_run_counts() -> None:
    cost = _cost("tcp", 1, [(3.0, 30.0), (1.0, 10.0), (200.0, 2000.0)])
    assert (cost.runs, cost.ms, cost.fastest_ms, cost.slowest_ms, cost.cpu_ms) == (3, 3.0, 1.0, 200.0, 30.0)
