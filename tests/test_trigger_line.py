"""Trigger -> frames of two cameras -> one verdict -> PLC, with real processes and the simulated PLC on real Modbus."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from line_worker.activation import bundle_sha
from line_worker.auditing import audit
from line_worker.config import Config, parse
from line_worker.errors import LineWorkerError
from line_worker.ports import free_port
from line_worker.rehearsal import Rehearsal
from line_worker.sink.plc.simulated import SimulatedPlc
from line_worker.supervisor import Supervisor
from line_worker.verdicts import Reason, RecipeState, StationState
from line_worker.wire import control
from stopping import send_signal

PATIENCE_S = 60.0
PARTS = 12


def config_in(folder: Path, mode: str, **more: Any) -> Config:
    def camera(name: str) -> dict[str, Any]:
        source = {"kind": "synthetic", "part": "noise", "width": 160, "height": 120}
        trigger = {"kind": "sink", "sink": "plc", "timeout_ms": 2500}
        return {"name": name, "deadline_ms": 3000, "max_frame_mb": 1, "source": source, "trigger": trigger}

    return parse(
        {
            "line": {
                "name": f"t{os.getpid()}",
                "runtime": str(folder / "run"),
                "data": str(folder / "data"),
                "live": False,
            },
            "cameras": [camera("top"), camera("side")],
            "parts": [{"name": "pairs", "cameras": ["top", "side"]}],
            "workers": {"bundle": "stub"},
            "sinks": [
                {"kind": "plc", "mode": mode, "port": free_port()},
                {"kind": "log", "path": str(folder / "outcomes.jsonl")},
            ],
        }
        | more
    )


class Run:
    """A line and the PLC that triggers it."""

    def __init__(self, folder: Path, mode: str, **more: Any) -> None:
        self.config, self.folder = config_in(folder, mode, **more), folder
        self.line = Supervisor(self.config, log_path=folder / "line.log")
        self.plc = SimulatedPlc("127.0.0.1", self.config.sinks[0].port, serve=mode == "client", window_s=5.0)  # type: ignore[union-attr]
        self.plc.start()
        self.line.start()

    def until(self, ready: Any) -> None:
        end = time.monotonic() + PATIENCE_S
        while not ready():
            assert time.monotonic() < end, (self.folder / "line.log").read_text()[-3000:]
            self.line.turn(0.01)

    @property
    def running(self) -> bool:
        try:
            return bool(control.ask(self.config.line.runtime, "status")["state"] == StationState.RUNNING.name)
        except LineWorkerError:  # it is only starting
            return False

    def results(self) -> list[Any]:
        return [booking for booking in self.plc.books if booking.received]

    def close(self) -> None:
        self.line.stop()
        self.plc.stop()

    def trigger(self, part_id: str) -> None:
        """Let a part come and wait until the PLC has decided it, as a line does whose parts are far apart."""
        before = len(self.plc.books)
        self.plc.trigger(part_id)
        self.until(lambda: len(self.plc.books) > before)


@pytest.fixture(params=["server", pytest.param("client", marks=pytest.mark.long)])
def run(short_path: Path, request: pytest.FixtureRequest) -> Iterator[Run]:
    found = Run(short_path, request.param)
    yield found
    found.close()


def test_every_triggered_part_gets_one_verdict_of_both_cameras(run: Run) -> None:
    run.until(lambda: run.running)
    for number in range(PARTS):
        run.trigger(f"part-{number}")
    results = run.results()
    assert [(one.part_id, one.trigger, one.camera) for one in results] == [
        (f"part-{number}", number + 1, "pairs") for number in range(PARTS)
    ]
    assert all(one.accepted for one in results), Counter(one.why for one in results)

    send_signal(run.line.pids("source")[0], signal.SIGSTOP)  # one camera sees nothing any more
    run.trigger("half seen")
    assert run.plc.books[-1].accepted is False
    assert (run.plc.books[-1].part_id, run.plc.books[-1].reason16) == ("half seen", Reason.NO_FRAME)
    send_signal(run.line.pids("source")[0], signal.SIGCONT)

    assert run.line.stop() == 0
    books = audit(run.config.journal_path)
    assert books.balanced
    assert {epoch.camera for epoch in books.epochs} == {"top", "side", "pairs"}
    logged = [json.loads(line) for line in (run.folder / "outcomes.jsonl").read_text().splitlines()]
    first = [one for one in logged if one["part_id"] == "part-0"]
    assert {one["camera"] for one in first} == {"top", "side", "pairs"}, (
        "the part's id reaches every sink, with every view"
    )
    [whole] = [one for one in first if one["camera"] == "pairs"]
    assert {view["key"]["camera"] for view in whole["views"]} == {"top", "side"}


def test_the_plc_chooses_the_bundle_by_its_number(tiny_bundle: Path, short_path: Path) -> None:
    for name in ("second", "broken"):  # the same weights under another name, and none at all
        shutil.copytree(tiny_bundle, short_path / name)
        manifest = json.loads((short_path / name / "manifest.json").read_text("utf-8"))
        (short_path / name / "manifest.json").write_text(json.dumps(manifest | {"created": name}), "utf-8")
    next((short_path / "broken").glob("*.safetensors")).write_bytes(b"")
    bundles = [tiny_bundle, short_path / "second", short_path / "broken"]
    recipes = [{"number": n + 1, "bundle": str(bundle)} for n, bundle in enumerate(bundles)]
    workers = {"bundle": str(tiny_bundle), "threads": 1, "runtime": "torch"}
    run = Run(short_path, "server", recipes=recipes, workers=workers)
    active = lambda: (run.plc.active.recipe, run.plc.active.recipe_state)  # noqa: E731
    try:
        run.plc.select(2)  # it has done so before the line starts, and says it once
        run.until(lambda: run.running)
        run.until(lambda: active() == (2, RecipeState.STEADY))
        run.plc.select(1)
        run.until(lambda: active() == (1, RecipeState.STEADY))
        run.plc.select(2)
        run.until(lambda: active() == (1, RecipeState.CHANGING))
        run.until(lambda: active() == (2, RecipeState.STEADY))
        for impossible in (3, 9):
            run.plc.select(impossible)
            run.until(lambda: active() == (2, RecipeState.REFUSED))
            run.plc.select(2)
            run.until(lambda: active() == (2, RecipeState.STEADY))
        run.trigger("with the second")
        assert run.plc.books[-1].bundle16 == int(bundle_sha(bundles[1])[:4], 16)
    finally:
        run.close()


def test_a_clock_triggers_so_many_parts_a_second_whatever_the_source_gives(short_path: Path) -> None:
    source = {"kind": "synthetic", "part": "noise", "parts": 12, "rate": 1000, "width": 160, "height": 120}
    camera = {"name": "top", "deadline_ms": 5000, "max_frame_mb": 1, "source": source}
    camera["trigger"] = {"kind": "interval", "every_ms": 50}
    more = {"cameras": [camera], "parts": [], "sinks": [{"kind": "log", "path": str(short_path / "outcomes.jsonl")}]}
    rehearsal = Rehearsal(config_in(short_path, "server", **more), short_path / "line.log")
    begin = time.monotonic()
    rehearsal.run()
    seen = [outcome.trigger for outcome in rehearsal.watcher.outcomes if outcome.passed]
    assert seen == sorted(set(seen)), "each trigger once, in order"
    assert len(seen) == 12, "every picture was asked for once"
    assert time.monotonic() - begin > 11 * 0.05
