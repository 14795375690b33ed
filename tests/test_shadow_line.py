"""The shadow beside a real line: real processes and signals, a second bundle that is stricter, one that is damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from line_worker.auditing import audit
from line_worker.bundle import Bundle
from line_worker.config import Config, parse
from line_worker.rehearsal import Rehearsal
from line_worker.sink.shadow.book import read_book
from line_worker.sink.shadow.comparison import Comparison, Kind
from line_worker.sink.shadow.report import report
from line_worker.wire.control import ask

READY = "the second bundle is ready"
HERE = '"sink": "shadow"'  # as the hub says it


def stricter(bundle: Path, copy: Path) -> Path:
    """Copy a bundle, with a limit that about half of the good parts exceed."""
    shutil.copytree(bundle, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    scores = sorted(manifest["calibration"]["scores"].values())
    manifest |= {"threshold": scores[len(scores) // 2], "golden": []}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy


def line(folder: Path, bundle: str, second: Path, give_way: bool = False, **source: Any) -> Config:
    """Return a line with a shadow; one that gives way would not get to compute while other tests run beside it."""
    (folder / "data").mkdir()
    part = {"kind": "synthetic", "width": 320, "height": 240} | source
    return parse(
        {
            "line": {"name": "l", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [{"name": "cam", "deadline_ms": 5000, "window": 64, "max_frame_mb": 1, "source": part}],
            "workers": {"bundle": bundle, "threads": 1},
            "sinks": [{"kind": "shadow", "bundle": str(second), "give_way": give_way}],
        }
    )


class Shadowed(Rehearsal):
    """Starts the sources once the shadow has said `word` in the line's log."""

    def __init__(self, config: Config, log: Path, word: str) -> None:
        super().__init__(config, log)
        self.log, self.word, self.status = log, word, dict[str, Any]()

    def _until_ready(self, turn: Callable[[], None]) -> None:
        super()._until_ready(turn)
        until = time.monotonic() + 200
        while self.word not in self.log.read_text():
            assert time.monotonic() < until, self.log.read_text()[-3000:]
            self.supervisor.turn(0.01)
            turn()

    def shadow_pid(self) -> int:
        [pid] = self.supervisor.pids("sink")
        return pid


def all_decided(config: Config, parts: int) -> set[str]:
    """Check that every part has one outcome; return the bundles that decided."""
    books = audit(config.journal_path)
    assert (books.balanced, books.announced) == (True, parts)
    with sqlite3.connect(config.journal_path) as db:
        found = {bundle for (bundle,) in db.execute("SELECT DISTINCT bundle FROM outcomes")}
    db.close()
    return found


@pytest.mark.long
def test_a_stricter_bundle_judges_the_same_parts_and_decides_none(tiny_bundle: Path, tmp_path: Path) -> None:
    second = stricter(tiny_bundle, tmp_path / "strict.bundle")
    config = line(tmp_path, str(tiny_bundle), second, rate=8, parts=24, defects=0.2, seed=3)
    rehearsal = Shadowed(config, tmp_path / "log", READY)
    assert rehearsal.run() == 0, (tmp_path / "log").read_text()[-3000:]
    assert all_decided(config, 24) == {Bundle.load(tiny_bundle).sha}

    folder = tmp_path / "data" / "shadow-shadow"
    pages = read_book(folder.with_suffix(".sqlite"))
    found = report(pages)
    assert (found.bundle, found.shadow) == (Bundle.load(tiny_bundle).sha, Bundle.load(second).sha)
    assert found.compared + found.unseen == 24
    assert found.compared > 5
    assert found.kinds[Kind.ONLY_SHADOW_FAILS] > 0
    assert found.kinds[Kind.ONLY_SHADOW_PASSES] == 0, "a stricter limit passes nothing more"
    assert found.lost == 0, found.skipped
    decided = {outcome.key: outcome for outcome in rehearsal.watcher.outcomes}
    for one in pages.comparisons:
        _check(one, decided[one.key], folder)


def _check(one: Comparison, outcome: Any, folder: Path) -> None:
    """Both sides are what the line decided and what the same weights say again."""
    assert (one.row, one.line.verdict, one.line.score) == (outcome.row, outcome.verdict, outcome.score)
    assert one.line.p_value == outcome.p_value
    assert one.shadow.score == pytest.approx(one.line.score, rel=1e-3)
    assert (folder / one.picture).is_file() if one.differs else not one.picture


@pytest.mark.long
def test_one_that_hangs_and_is_killed_changes_nothing(tiny_bundle: Path, tmp_path: Path) -> None:
    config = line(tmp_path, "stub", tiny_bundle, give_way=True, part="noise", rate=50, parts=300)
    rehearsal = Shadowed(config, tmp_path / "log", HERE)
    sent: list[int] = []
    policies: list[set[int]] = []
    nice: list[str] = []

    def break_it() -> None:
        done = len(rehearsal.watcher.outcomes)
        if done >= 30 and not sent:
            sent.append(rehearsal.shadow_pid())
            process = Path(f"/proc/{sent[0]}")
            policies.append({os.sched_getscheduler(int(task.name)) for task in (process / "task").iterdir()})
            nice.extend(file.read_text().split()[-1] for file in process.glob("autogroup"))
            os.kill(sent[0], signal.SIGSTOP)
        if done >= 90 and len(sent) == 1:
            os.kill(sent[0], signal.SIGKILL)
            sent.append(len(rehearsal.watcher.states))

    assert rehearsal.run(break_it) == 0, "even if the new one is too slow to stop in time on a busy machine"
    assert len(sent) == 2, (tmp_path / "log").read_text()[-3000:]
    assert policies == [{os.SCHED_OTHER, os.SCHED_IDLE}], "what computes gives way to what copies"
    assert set(nice) <= {"19"}, "and both to the other processes"
    assert all_decided(config, 300) == {"stub"}
    assert [(o.key.seq, o.verdict) for o in rehearsal.watcher.outcomes] == [(seq, "PASS") for seq in range(300)]
    states = [state for state in rehearsal.watcher.states if state.open_parts]
    assert {state.state for state in states} == {2}, "RUNNING throughout"
    since = rehearsal.watcher.states[sent[1] :]
    assert any("shadow shadow: is not connected" in text for state in since for text in state.warnings)


@pytest.mark.long
def test_one_that_does_not_get_the_processor_to_stop_is_killed_and_the_line_ends_well(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    """SIGSTOP is what a busy host does to a process that runs when others idle."""
    config = line(tmp_path, "stub", tiny_bundle, give_way=True, part="noise", rate=50, parts=40)
    config = config.model_copy(update={"line": config.line.model_copy(update={"stop_s": 0.2})})
    rehearsal = Shadowed(config, tmp_path / "log", HERE)
    starved: list[int] = []

    def starve() -> None:
        if not starved and len(rehearsal.watcher.outcomes) >= 20:
            starved.append(rehearsal.shadow_pid())
            os.kill(starved[0], signal.SIGSTOP)

    assert rehearsal.run(starve) == 0
    assert starved
    assert all_decided(config, 40) == {"stub"}


def test_a_damaged_bundle_is_the_shadows_trouble_alone(tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "damaged.bundle")
    weights = tmp_path / "damaged.bundle" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    config = line(tmp_path, "stub", tmp_path / "damaged.bundle", part="noise", rate=50, parts=60)
    rehearsal = Shadowed(config, tmp_path / "log", "the second bundle cannot be used")
    seen: list[dict[str, Any]] = []

    def look() -> None:
        if len(rehearsal.watcher.outcomes) >= 20 and not seen:
            seen.append({})
            rehearsal.supervisor.turn(0.0)
            seen[0] |= ask(config.line.runtime, "status")

    assert rehearsal.run(look) == 0
    assert all_decided(config, 60) == {"stub"}
    assert {outcome.verdict for outcome in rehearsal.watcher.outcomes} == {"PASS"}
    [status] = seen
    assert (status["state"], status["sinks"]["shadow"]) == ("RUNNING", False)
    [warning] = status["warnings"]
    assert "weights.safetensors does not have the sha256" in warning
    assert "the line decides as before" in warning
