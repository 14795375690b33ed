"""The operator's commands: what they print and how they end, against a control socket that a test answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from line_worker.cli import main
from line_worker.errors import ConfigError
from line_worker.hub.control import ControlSocket

WELL: dict[str, Any] = {"line": "t", "state": "RUNNING", "cause": "", "stop_line": "NONE", "alarms": [], "warnings": []}
WELL |= {"bundle": "ab" * 32, "workers": 2, "cameras": {"top": True}, "sinks": {"plc": False}, "open_parts": 1}
WELL |= {
    "counts": {"PASS": 7, "FAIL": 1},
    "canaries": {"top": {"failed": 3, "missed": 1, "score": 2.0, "threshold": 1.0}},
}
WELL |= {"challenges": {"top": {"parts": 3, "left": 1, "failed": 2, "result": "under way"}}}
WELL |= {"thresholds": {"top": {"at": 1.0, "own": 1.0, "less_sensitive": False}}, "threshold_changes": []}
WELL["challenges"] |= {"side": {"parts": 0, "left": 0, "failed": 0, "result": "none"}}
ALARM = {"cause": "SILENT", "camera": "top", "text": "9 parts passed", "wall": 0.0}
Run = Callable[..., tuple[int, str]]


class Answers:
    """What the hub of the test says."""

    def __init__(self) -> None:
        self.status = dict(WELL)
        self.cleared: list[str] = []
        self.asked: list[str] = []

    def acknowledge(self, cause: str = "") -> dict[str, Any]:
        self.asked.append(cause)
        return {"cleared": self.cleared}

    def threshold(self, camera: str, at: float | None, who: str, less_sensitive: bool) -> dict[str, Any]:
        if at is not None and at > 1 and not less_sensitive:
            raise ConfigError("threshold", ["more defects may pass"])
        told = {"at": at or 1.0, "own": 1.0, "less_sensitive": (at or 1.0) > 1.0}
        change = {"camera": "top", "from": 1.0, "to": at or 1.0, "who": who, "wall": 0.0}
        self.status |= {"thresholds": {"top": told}, "threshold_changes": [change]}
        return {}

    def challenge(self, camera: str, parts: int) -> dict[str, Any]:
        return {"camera": camera or "top", "parts": parts or 3}


@pytest.fixture
def answers(short_path: Path) -> Iterator[Answers]:
    said, stop = Answers(), threading.Event()
    commands = {"status": lambda: said.status, "acknowledge": said.acknowledge, "challenge": said.challenge}
    commands |= {"threshold": said.threshold}
    control = ControlSocket(short_path, commands)

    def serve() -> None:
        while not stop.wait(0.005):
            control.poll(time.monotonic())

    thread = threading.Thread(target=serve)
    thread.start()
    yield said
    stop.set()
    thread.join()
    control.close()


@pytest.fixture
def run(short_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    path = short_path / "line.json"
    line = {"name": "t", "runtime": str(short_path), "data": "data"}
    camera = {"name": "top", "deadline_ms": 100, "source": {"kind": "synthetic"}}
    path.write_text(json.dumps({"line": line, "cameras": [camera], "workers": {"bundle": "stub"}}))

    def command(name: str, *more: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([name, str(path), *more])
        said = capsys.readouterr()
        return int(str(ended.value.code)), said.err if ended.value.code == 3 else said.out

    return command


def test_status_of_a_line_that_is_well(answers: Answers, run: Run) -> None:
    code, text = run("status")
    assert code == 0
    assert "t: RUNNING" in text
    assert "bundle abababababab, 2 workers, 1 open parts" in text
    assert "sink plc: NOT WELL" in text
    assert "PASS 7, FAIL 1" in text
    assert "canaries of camera top: 3 failed as they must, 1 missed" in text
    assert "challenge of camera top: 2 of 3 failed, 1 to come" in text
    assert "challenge of camera side" not in text, "none was ever begun"
    code, text = run("status", "--json")
    assert code == 0
    assert next(json.loads(line) for line in text.splitlines() if line.startswith("{")) == {"ok": True, **WELL}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"state": "FAULT", "cause": "journal: disk full"}, "t: FAULT (journal: disk full)"),
        ({"alarms": [ALARM]}, "ALARM SILENT: camera top: 9 parts passed (line-worker acknowledge)"),
    ],
)
def test_a_line_that_is_not_well_or_was_stopped_ends_with_1(
    answers: Answers, run: Run, changes: dict[str, Any], words: str
) -> None:
    answers.status |= changes
    code, text = run("status")
    assert code == 1
    assert words in text


def test_warnings_are_shown_and_change_nothing(answers: Answers, run: Run) -> None:
    answers.status |= {"warnings": ["camera top: scores drift"]}
    code, text = run("status")
    assert code == 0
    assert "WARNING camera top: scores drift" in text


def test_a_sink_that_is_not_well_is_told_with_its_reason(answers: Answers, run: Run) -> None:
    troubles = {"plc": {"why": "is not connected", "waiting": 0}, "nats": {"why": "no route", "waiting": 12}}
    answers.status |= {"sinks": {"plc": False, "nats": False, "log": True}, "sink_troubles": troubles}
    lines = run("status")[1].splitlines()
    assert "sink plc: NOT WELL: is not connected" in lines
    assert "sink nats: NOT WELL: no route; 12 outcomes wait for it" in lines
    assert "sink log: well" in lines


def test_acknowledge_tells_what_was_cleared(answers: Answers, run: Run) -> None:
    assert run("acknowledge")[1].splitlines()[-1] == "there was nothing to acknowledge"
    answers.cleared = ["SILENT: camera top: 9 parts passed"]
    code, text = run("acknowledge", "silent")
    assert code == 0
    assert "acknowledged: SILENT: camera top: 9 parts passed" in text
    assert answers.asked == ["", "silent"]


def test_challenge_tells_what_must_fail(answers: Answers, run: Run) -> None:
    assert run("challenge")[1].splitlines()[-1].startswith("the next 3 parts of camera top must fail")
    code, text = run("challenge", "--camera", "side", "--parts", "5")
    assert code == 0
    assert "the next 5 parts of camera side must fail" in text


def test_without_a_running_line_the_command_says_so(run: Run) -> None:
    code, text = run("status")
    assert code == 3
    assert "no hub answers there" in text


def test_a_limit_is_shown_set_and_taken_back(answers: Answers, run: Run) -> None:
    assert run("threshold") == (0, "camera top: parts fail above 1 (the bundle's own)\n")
    code, said = run("threshold", "--at", "0.8", "--who", "Ada")
    assert code == 0
    *_, limit, change = said.splitlines()  # after what the hub logs
    assert limit == "camera top: parts fail above 0.8 (the bundle's own is 1)"
    assert change.endswith("Ada changed top from 1 to 0.8")
    code, said = run("threshold", "--at", "1.2")
    assert (code, "more defects may pass" in said) == (3, True)
    assert "LESS SENSITIVE" in run("threshold", "--at", "1.2", "--less-sensitive")[1]
    code, said = run("threshold", "--reset", "--json")
    told = json.loads(said.splitlines()[-1])
    assert told["thresholds"]["top"]["at"] == 1.0
    assert told["threshold_changes"][0]["who"], "the user of this command"
    assert run("threshold", "--reset", "--at", "1")[0] == 3
