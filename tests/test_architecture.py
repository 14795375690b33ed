"""The rules of the house, checked: imports, what starts without torch, no pickle, small files, a quick help."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = sys.executable
BIN = Path(PYTHON).parent
SOURCES = sorted(path for room in ("line_worker", "calib", "bench") for path in (ROOT / room).rglob("*.py"))
LONGEST = 330


@pytest.mark.skipif(not (BIN / "lint-imports").exists(), reason="import-linter is missing: pip install import-linter")
def test_the_import_contracts_hold() -> None:
    result = subprocess.run(
        [str(BIN / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.parametrize("module", ["line_worker.hub.run", "line_worker.source.run", "line_worker.sink.run"])
def test_the_role_starts_without_torch(module: str) -> None:
    code = f"import {module}, sys; print(sorted({{'torch', 'cv2', 'pytorch_msssim'}} & set(sys.modules)))"
    result = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_every_source_and_sink_starts_without_torch() -> None:
    code = (
        "import pkgutil, importlib, sys, line_worker.source as a, line_worker.sink as b\n"
        "for room in (a, b):\n"
        "    for found in pkgutil.walk_packages(room.__path__, room.__name__ + '.'):\n"
        "        importlib.import_module(found.name)\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([PYTHON, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_help_comes_at_once() -> None:
    """In half a second of processor time: how long that takes beside other work is not for the command to say."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([str(BIN / "line-worker"), "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert median(seconds() for _ in range(5)) < 0.5


def test_nothing_is_pickled() -> None:
    loads = r"torch\.load\((?![^#\n]*\bweights_only=True\b)"  # with it, what is in a file is never run
    pickling = re.compile(rf"\b(import pickle|{loads}|torch\.save\(|allow_pickle=True|joblib)")
    guilty = [str(path) for path in SOURCES if pickling.search(path.read_text("utf-8"))]
    assert not guilty


def test_files_stay_small() -> None:
    long = {path.name: n for path in SOURCES if (n := len(path.read_text("utf-8").splitlines())) > LONGEST}
    assert not long


def test_only_the_wire_imports_zmq() -> None:
    users = [
        p.relative_to(ROOT).as_posix() for p in SOURCES if re.search(r"^\s*import zmq", p.read_text(), re.MULTILINE)
    ]
    assert users == [f"line_worker/wire/{name}.py" for name in ("channels", "curve", "sockets")]
