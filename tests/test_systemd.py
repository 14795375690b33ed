"""The units are valid for systemd itself and stay hardened; the annotated line.toml loads."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from line_worker.config import load

FOLDER = Path(__file__).parent.parent / "systemd"
UNITS = sorted(FOLDER.glob("*.service"))
EXPOSURE = 25  # tenths: 0 is closed, 100 is open

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is missing: apt-get install systemd"
)


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units as they would be installed, with this environment's line-worker in place of the documented path."""
    command = Path(sys.executable).parent / "line-worker"
    for unit in UNITS:
        text = unit.read_text().replace("/opt/line-worker/bin/line-worker", str(command))
        (tmp_path / unit.name).write_text(text)
    return tmp_path


def test_there_is_a_unit_for_the_station_and_for_every_role() -> None:
    names = {unit.name for unit in UNITS}
    roles = {"line-worker-hub.service"} | {f"line-worker-{role}@.service" for role in ("source", "worker", "sink")}
    assert names == roles | {"line-worker.service"}


@needs_systemd
@pytest.mark.parametrize("name", [unit.name for unit in UNITS])
def test_systemd_accepts_the_unit(installed: Path, name: str) -> None:
    result = _analyze("verify", str(installed / name))
    assert (result.returncode, result.stderr) == (0, "")


@needs_systemd
@pytest.mark.parametrize("name", [unit.name for unit in UNITS])
def test_the_unit_is_hardened(installed: Path, name: str) -> None:
    result = _analyze("security", "--offline=true", f"--threshold={EXPOSURE}", str(installed / name))
    assert result.returncode == 0, result.stdout[-300:]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_liveness_is_watched(unit: Path) -> None:
    text = unit.read_text()
    assert "Type=notify" in text
    assert re.search(r"^WatchdogSec=\d+$", text, re.MULTILINE)


def test_the_annotated_configuration_loads() -> None:
    config = load(FOLDER / "line.toml")
    assert {sink.kind for sink in config.sinks} == {"plc", "store", "log"}
