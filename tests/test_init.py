"""`line-worker init` writes lines that can be read, whatever is answered, and never over one that is there."""

from __future__ import annotations

import errno
import itertools
import os
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from line_worker import setting_up
from line_worker.cli import app
from line_worker.config import load, parse
from line_worker.errors import ConfigError

CHOICES = {question.name: question.choices for question in setting_up.QUESTIONS if question.choices}


def run(*arguments: object, text: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["init", *map(str, arguments)], input=text, standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.return_value, result.output


@pytest.mark.parametrize("chosen", list(itertools.product(*CHOICES.values())))
def test_every_choice_is_a_line_that_can_be_read(chosen, tmp_path):
    answers = setting_up.defaults() | dict(zip(CHOICES, chosen, strict=True))
    config = parse(tomllib.loads(setting_up.render(answers)), base=tmp_path)
    assert config.cameras[0].source.kind == answers["source"]
    kinds = [sink.kind for sink in config.sinks]
    assert kinds[-2:] == ["store", "log"]
    modbus = {"none": [], "modbus-server": ["plc"], "modbus-client": ["plc"]}
    assert kinds[:-2] == modbus.get(answers["plc"], [answers["plc"]])


def test_yes_asks_nothing(tmp_path):
    code, words = run(tmp_path / "line.toml", "--yes")
    assert code == 0
    assert "line-worker doctor" in words
    assert load(tmp_path / "line.toml").line.name == "station-1"


def test_answers_are_asked_for_and_checked(tmp_path):
    asked = [
        "hall-7",
        "side",
        "tape",
        "folder",
        "in coming",
        "soon",
        "350",
        "b.bundle",
        "modbus-client",
        "10.0.0.9",
        "d",
    ]
    words = run(tmp_path / "line.toml", text="\n".join([*asked, "d", ""]))[1]
    assert "'tape' is none of camera, gige, genicam, basler, folder, video, synthetic" in words
    assert "'soon' is no number" in words
    config = load(tmp_path / "line.toml")
    assert (config.line.name, config.cameras[0].name, config.cameras[0].deadline_ms) == ("hall-7", "side", 350)
    assert config.cameras[0].source.path == tmp_path / "in coming"
    assert (config.sinks[0].mode, config.sinks[0].host) == ("client", "10.0.0.9")


def test_answers_can_be_given_beforehand(tmp_path):
    run(tmp_path / "line.toml", "--yes", "--answer", "device=rtsp://user@cam/1", "--answer", "plc=opcua")
    config = load(tmp_path / "line.toml")
    assert config.cameras[0].source.device == "rtsp://user@cam/1"
    assert config.sinks[0].kind == "opcua"


def test_a_camera_with_nodes_is_named_or_the_only_one(tmp_path):
    run(tmp_path / "line.toml", text="\n".join(["", "", "genicam", "", "vendor.cti", *[""] * 9]))
    source = load(tmp_path / "line.toml").cameras[0].source
    assert (source.kind, source.device, source.producer) == ("genicam", "", tmp_path / "vendor.cti")
    assert source.nodes == {"PixelFormat": "Mono8"}


def test_a_line_that_is_there_is_not_overwritten(tmp_path):
    (tmp_path / "line.toml").write_text("mine")
    with pytest.raises(ConfigError, match="not overwritten"):
        run(tmp_path / "line.toml", "--yes")
    assert (tmp_path / "line.toml").read_text() == "mine"


@pytest.mark.parametrize("answer", ["plc", "colour=blue", "nothing=1", "line=a/b"])
def test_answers_that_make_no_sense_write_nothing(tmp_path: Path, answer: str):
    with pytest.raises(ConfigError):
        run(tmp_path / "line.toml", "--yes", "--answer", answer)
    assert not (tmp_path / "line.toml").exists()


def test_a_folder_that_is_not_there_or_takes_nothing_is_told(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="nowhere does not exist, nothing was written; make it first"):
        run(tmp_path / "nowhere" / "line.toml")  # and nothing is asked before
    (tmp_path / "FILE").touch()
    with pytest.raises(ConfigError, match="FILE is a file, nothing was written; give another name"):
        run(tmp_path / "FILE" / "line.toml")

    def refused(*asked: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "write_text", refused)
    with pytest.raises(ConfigError, match=r"cannot be written .Permission denied.; give a file in another folder"):
        run(tmp_path / "line.toml", "--yes")


@pytest.mark.parametrize("name", ["my line", "oben/links", "x" * 33, "-"])
def test_a_name_that_is_none_is_asked_for_again_at_once(tmp_path: Path, name: str):
    _, output = run(tmp_path / "line.toml", text=f"{name}\nstation-2\n" + "\n" * 20)
    assert f"{name!r} is no name" in output
    assert load(tmp_path / "line.toml").line.name == "station-2"
