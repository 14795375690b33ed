"""A worker that grows: when it says so, and when the hub lets it go."""

from __future__ import annotations

import json
import mmap
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from line_worker.auditing import audit
from line_worker.config import Config, Workers, parse
from line_worker.drill.saboteur import SIGNALS
from line_worker.hub.dispatch import Seat
from line_worker.hub.part import Part
from line_worker.hub.recycling import PATIENCE_S, Recycling
from line_worker.rehearsal import Rehearsal
from line_worker.wire.messages import FrameKey
from line_worker.worker.growth import Growth, Held, held_now

WORKERS = Workers(bundle=Path("stub"), growth_mb=100, growth_descriptors=10)


class Process:
    """What a process holds, as the test says."""

    def __init__(self) -> None:
        self.held = Held(200.0, 20)

    def __call__(self) -> Held:
        return self.held


@pytest.mark.parametrize(
    ("held", "says"),
    [
        (Held(300.0, 30), ""),
        (Held(301.0, 20), "200 MB and 101 more since, 202 an hour (at most 100 more)"),
        (Held(200.0, 31), "20 descriptors and 11 more since, 22 an hour (at most 10 more)"),
        (Held(100.0, 5), ""),
    ],
)
def test_it_says_by_how_much_and_how_fast(held: Held, says: str) -> None:
    process = Process()
    growth = Growth(WORKERS, process)
    assert growth.look(0.0) == ""
    process.held = held
    assert growth.look(1800.0) == says
    assert growth.look(1800.5) == "", "once a second is enough"
    assert bool(growth.look(1801.5)) == bool(says)


def test_zero_is_no_limit_and_a_second_bundle_is_no_growth() -> None:
    process = Process()
    endless = Growth(WORKERS.model_copy(update={"growth_mb": 0.0, "growth_descriptors": 0}), process)
    growth = Growth(WORKERS, process)
    assert endless.look(0.0) == growth.look(0.0) == ""
    process.held = Held(2000.0, 900)
    assert endless.look(10.0) == ""
    growth.begin_anew()
    assert growth.look(10.0) == ""
    process.held = Held(2101.0, 900)
    assert "2000 MB and 101 more" in growth.look(20.0)


def test_a_real_process_is_measured() -> None:
    before, files = held_now(), []
    ballast = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # nothing that was held before
    ballast.write(bytes([1]) * len(ballast))
    files = [open(os.devnull) for _ in range(10)]  # noqa: SIM115 - closed below
    after = held_now()
    for file in files:
        file.close()
    assert after.mb - before.mb > len(ballast) / 1e6 - 8
    assert after.descriptors - before.descriptors == 10


# ---- who may go ------------------------------------------------------------------------------------------------------


def seat(session: int) -> Seat:
    return Seat(b"p", f"w{session}", session, 2, 0.4, "cpu", 0.0)


def test_nobody_goes_before_a_fresh_one_is_there() -> None:
    recycling, old, other = Recycling(2), seat(1), seat(2)
    assert recycling.turn([old, other], 0.0) is None
    assert recycling.ask(old, "it leaks", 0.0)
    assert not recycling.ask(old, "it leaks", 1.0), "it has been heard"
    assert recycling.turn([old, other], 10.0) is None
    assert (old.free, other.free) == (2, 2)
    assert recycling.warnings([old, other]) == ("w1 has grown and is to be replaced: it leaks",)
    old.holds[7] = Part(FrameKey("l", "c", 1, 0), 0.0, 1.0)
    seats = [old, other, seat(3)]
    assert recycling.turn(seats, 11.0) is None, "it answers what it holds first"
    assert (old.free, other.free) == (0, 2)
    old.answered(7)
    assert recycling.turn(seats, 12.0) is old
    old.told = True
    assert recycling.turn(seats, 13.0) is None
    recycling.left(2)
    assert recycling.recycled == 0
    recycling.left(1)
    assert recycling.recycled == 1


def test_one_goes_after_the_other() -> None:
    recycling, seats = Recycling(2), [seat(1), seat(2), seat(3)]
    for one in seats[:2]:
        recycling.ask(one, "it leaks", 0.0)
    assert recycling.turn(seats, 1.0) is seats[0]
    seats[0].told = True
    assert recycling.turn(seats, 2.0) is None
    recycling.left(1)
    assert recycling.turn(seats[1:], 3.0) is None
    assert recycling.turn([*seats[1:], seat(4)], 4.0) is seats[1]


def test_where_nobody_starts_a_fresh_one_another_healthy_one_is_enough_after_a_while() -> None:
    recycling, old, other = Recycling(2), seat(1), seat(2)
    recycling.ask(old, "it leaks", 0.0)
    assert recycling.turn([old, other], PATIENCE_S) is None
    assert recycling.turn([old, other], PATIENCE_S + 1) is old
    alone = Recycling(1)
    only = seat(3)
    alone.ask(only, "it leaks", 0.0)
    assert alone.turn([only], 10 * PATIENCE_S) is None, "the last one stays"


def test_a_worker_that_changes_its_bundle_is_waited_for() -> None:
    recycling, seats = Recycling(1), [seat(1), seat(2)]
    recycling.ask(seats[0], "it leaks", 0.0)
    seats[1].leaving = True
    assert recycling.turn(seats, 1.0) is None
    seats[1].leaving = False
    assert recycling.turn(seats, 2.0) is seats[0]


# ---- row 35: a real worker that really leaks -------------------------------------------------------------------------


class Done(Exception):
    """A test has seen what it waited for; the line is stopped in order."""


def _config(folder: Path, limits: dict[str, int], workers: int) -> Config:
    source = {"kind": "synthetic", "part": "noise", "rate": 50, "width": 160, "height": 120}
    return parse(
        {
            "line": {"name": "g", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [{"name": "camera", "deadline_ms": 4000, "window": 256, "max_frame_mb": 0.1, "source": source}],
            "workers": {"bundle": "stub", "count": workers, "batch": 2, "stub_ms": 15 * workers, **limits},
            "sinks": [{"kind": "log", "path": str(folder / "outcomes.jsonl")}],
        }
    )


@pytest.mark.parametrize(
    ("limits", "workers", "says"),
    [
        ({"growth_mb": 24, "growth_descriptors": 0}, 1, "MB and"),
        pytest.param(
            {"growth_mb": 0, "growth_descriptors": 24}, 2, "descriptors and", marks=pytest.mark.long, id="descriptors"
        ),
    ],
    ids=["memory", None],
)
def test_row_35_a_worker_that_leaks_is_replaced_and_the_fresh_one_comes_first(
    tmp_path: Path, limits: dict[str, int], workers: int, says: str
) -> None:
    """It is another process in the end; on the way no part is lost or decided twice, and there never is one less."""
    config = _config(tmp_path, limits, workers)
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    rehearsal.supervisor.module = "line_worker.drill.saboteur"
    before: list[int] = []
    gone_at: list[int] = []
    until = time.monotonic() + 90

    def on_turn() -> None:
        assert time.monotonic() < until, (tmp_path / "line.log").read_text()[-3000:]
        shown, pids = len(rehearsal.watcher.outcomes), rehearsal.supervisor.pids("worker")
        if not before and shown >= 20:
            before.extend(pids)
            rehearsal.watcher.states.clear()  # from here on all are there
            os.kill(pids[0], SIGNALS["leak"])
        elif before and not gone_at and before[0] not in pids:
            gone_at.append(shown)
        elif gone_at and shown >= gone_at[0] + 50:
            assert len(pids) == workers
            raise Done

    with pytest.raises(Done):
        rehearsal.run(on_turn)
    assert min(state.workers for state in rehearsal.watcher.states) == workers
    seqs = [outcome.key.seq for outcome in rehearsal.watcher.outcomes]
    assert seqs == list(range(len(seqs)))
    assert all(outcome.passed for outcome in rehearsal.watcher.outcomes)
    assert audit(config.journal_path).balanced
    with closing(sqlite3.connect(config.journal_path)) as db:
        assert db.execute("SELECT count(*), count(DISTINCT seq) FROM outcomes").fetchone() == (len(seqs), len(seqs))
    log = [json.loads(line) for line in (tmp_path / "line.log").read_text().splitlines()]
    grown = [entry for entry in log if entry["event"] == "worker has grown"]
    assert [says in entry["what"] for entry in grown] == [True], "told once, with the slope"
    assert [entry["others"] for entry in log if entry["event"] == "worker is let go"] == [workers]
    assert [entry["why"] for entry in log if entry["event"] == "worker lost" and entry["pid"] == grown[0]["pid"]] == [
        "left"
    ]
