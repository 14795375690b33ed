"""The demo is the product's first impression: the real command, from drawing to the summary."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from line_worker.demo import truth

COUNTS = ["announced", "pass", "fail", "no_decision", "balanced", "false_reject", "escape"]
TIMES = ["p50_ms", "p99_ms", "plc_received", "train_s", "total_s"]


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_demo_finds_the_defects_and_balances_its_books(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).parent / "line-worker"), "demo", "--json", "--keep", str(tmp_path)]
    result = subprocess.run(
        [*command, "--parts", "60", "--defects", "0.3"], capture_output=True, text=True, check=False, timeout=380
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert list(found) == COUNTS + TIMES
    assert found["announced"] == found["pass"] + found["fail"] + found["no_decision"] == 60
    assert found["balanced"] is True
    assert found["plc_received"] == 60
    assert max(found["escape"], found["false_reject"]) <= 0.1
    assert found["fail"] > 5, "three in ten parts are defective"
    assert (tmp_path / "demo.bundle" / "report.html").exists()
    assert len((tmp_path / "outcomes.jsonl").read_text().splitlines()) == 60
    assert list((tmp_path / "store" / "crops").rglob("*-overlay.png"))


def test_the_truth_is_in_the_part_id() -> None:
    assert [truth(name) for name in ("0007:good", "0008:pit", "")] == ["good", "pit", ""]
