"""The notebooks run from top to bottom on drawn parts, as scripts: jupytext's percent format is plain Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "calib" / "notebooks").glob("*.py"))


def test_there_are_two():
    assert len(NOTEBOOKS) == 2


@pytest.mark.long
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook, tmp_path):
    environment = {**os.environ, "LINE_WORKER_NOTEBOOK": str(tmp_path)}
    command = [sys.executable, "-W", "error", str(notebook)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "bracket.bundle" / "manifest.json").is_file()
    if "verdict" in notebook.stem:
        assert "ANOMALY" in done.stdout
        assert "Box(" in done.stdout
        assert (tmp_path / "overlay.png").is_file()
    else:
        assert "of 1,000 good parts" in done.stdout
