"""What OpenVINO's converter made is kept by sha256, made again when damaged, and never stands in the way of a start."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from line_worker import exported
from line_worker.exported import NAME, Exports, cache_folder

ov = pytest.importorskip("openvino", reason="openvino is missing: pip install line-worker[openvino]")


class Converter:
    """Counts how often it is asked for a model that multiplies by `factor`."""

    def __init__(self, factor: float = 3.0) -> None:
        self.calls, self.factor = 0, factor

    def __call__(self) -> object:
        self.calls += 1
        x = ov.opset13.parameter([2], np.float32)
        return ov.Model([ov.opset13.multiply(x, ov.opset13.constant(np.float32(self.factor)))], [x])


def computed(model: object) -> list[float]:
    request = ov.Core().compile_model(model, "CPU").create_infer_request()
    return next(iter(request.infer([np.float32([1, 2])]).values())).tolist()


def only(folder: Path) -> Path:
    (entry,) = folder.iterdir()
    return entry


def test_the_second_start_reads_what_the_first_converted(tmp_path):
    convert = Converter()
    assert computed(Exports("a" * 64, tmp_path)(convert)) == [3, 6]
    assert computed(Exports("a" * 64, tmp_path)(convert)) == [3, 6]
    assert convert.calls == 1
    assert only(tmp_path).name.startswith("a" * 32)


def test_another_bundle_has_its_own(tmp_path):
    Exports("a" * 64, tmp_path)(Converter(3))
    assert computed(Exports("b" * 64, tmp_path)(Converter(5))) == [5, 10]


@pytest.mark.parametrize("content", [b"", b"<net", bytes(range(192, 256))], ids=["empty", "begun", "no text"])
def test_a_damaged_one_is_made_again(tmp_path, content):
    Exports("a" * 64, tmp_path)(Converter())
    (only(tmp_path) / NAME).write_bytes(content)
    convert = Converter()
    assert computed(Exports("a" * 64, tmp_path)(convert)) == [3, 6]
    assert convert.calls == 1
    Exports("a" * 64, tmp_path)(convert)
    assert convert.calls == 1


def test_where_nothing_can_be_written_every_start_converts(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"")
    convert = Converter()
    for _ in range(2):
        assert computed(Exports("a" * 64, blocked / "cache")(convert)) == [3, 6]
    assert convert.calls == 2


def test_those_longest_unused_go(tmp_path, monkeypatch):
    monkeypatch.setattr(exported, "KEPT", 2)
    for number, letter in enumerate("abc"):
        Exports(letter * 64, tmp_path)(Converter())
        entry = next(path for path in tmp_path.iterdir() if path.name.startswith(letter))
        os.utime(entry, (number, number))
    Exports("a" * 64, tmp_path)(convert := Converter())  # gone: made again, and b goes for it
    assert convert.calls == 1
    assert {path.name[0] for path in tmp_path.iterdir()} == {"a", "c"}


def test_the_folder_is_systemds_or_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    assert cache_folder() == tmp_path / "one"
    monkeypatch.delenv("CACHE_DIRECTORY")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "line-worker"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "line-worker"
