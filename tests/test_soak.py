"""Growth: a slope that noise and single steps do not move, and a line that is watched process by process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bench.line import Load
from bench.soak import NOISE_MB, Sample, Soaked, Trend, Watched, look, slope, soak, trend

HOUR = np.linspace(0, 3600, 200)


def watched(mb: np.ndarray, descriptors: np.ndarray | None = None, pids: set[int] | None = None) -> Watched:
    counts = np.full(len(mb), 9) if descriptors is None else descriptors
    samples = [Sample(float(at), float(m), int(d)) for at, m, d in zip(HOUR, mb, counts, strict=True)]
    return Watched(samples, pids or {1})


def test_the_slope_is_per_hour_and_robust() -> None:
    assert slope(HOUR, 100 + HOUR / 3600 * 7) == pytest.approx(7)
    noisy = 100 + np.random.default_rng(0).normal(0, 3, 200)
    assert abs(slope(HOUR, noisy)) < 2
    assert slope(HOUR, np.where(HOUR < 100, 60, 90)) == 0, "one step in the beginning is no growth"
    assert slope([1.0], [5.0]) == 0


@pytest.mark.parametrize(
    ("mb", "descriptors", "grows"),
    [
        (100 + HOUR / 3600 * 30, None, True),
        (100 + HOUR / 3600 * 10, None, False),
        (100 - HOUR / 3600 * 30, None, False),
        (np.full(200, 100.0), 9 + HOUR / 3600 * 40, True),
        (np.full(200, 100.0), 9 + (HOUR // 10) % 2, False),
    ],
    ids=["memory", "less than the bound", "shrinking", "descriptors", "descriptors that come and go"],
)
def test_what_grows_is_named(mb: np.ndarray, descriptors: np.ndarray | None, grows: bool) -> None:
    assert trend("hub", watched(mb, descriptors), 0, max_slope=20).grows is grows


def test_a_warm_up_does_not_count() -> None:
    mb = np.minimum(HOUR, 1000) / 10 + 50
    assert trend("hub", watched(mb), 0, 20).mb == 150
    assert trend("hub", watched(mb), 1000, 20).grows is False


def test_a_short_run_does_not_take_noise_for_growth() -> None:
    short = Watched([Sample(at, 100 + at / 30 * (NOISE_MB - 1), 9) for at in range(30)], {1})
    assert trend("hub", short, 0, 20).mb_slope > 20
    assert not trend("hub", short, 0, 20).grows


def test_a_process_that_was_started_again_is_not_flat() -> None:
    well = Trend("hub", 1.0, 0.0, 9, 0.0, 1, False)
    again = trend("worker-0", watched(np.full(200, 100.0), pids={1, 2}), 0, 20)
    assert Soaked(Load(), 1, 20, {}, 1.0, (well,)).flat
    assert not Soaked(Load(), 1, 20, {}, 1.0, (well, again)).flat
    assert not Soaked(Load(), 1, 20, {}, 1.0, ()).flat, "nothing was seen"


def test_a_process_is_read_from_proc(tmp_path: Path) -> None:
    me = look(os.getpid(), 1.5)
    assert me is not None
    assert (me.at, me.mb > 10, me.descriptors > 2) == (1.5, True, True)
    with (tmp_path / "x").open("w"), (tmp_path / "y").open("w"):
        more = look(os.getpid(), 2.0)
    assert more is not None
    assert more.descriptors == me.descriptors + 2
    (tmp_path / "7" / "fd").mkdir(parents=True)
    (tmp_path / "7" / "status").write_text("Name:\tx\nVmRSS:\t  3072 kB\nRssShmem:\t 1024 kB\n")
    assert look(7, 0.0, tmp_path) == Sample(0.0, 2.0, 0)
    assert look(8, 0.0, tmp_path) is None
    (tmp_path / "7" / "status").write_text("Name:\tx\nState:\tZ (zombie)\n")
    assert look(7, 0.0, tmp_path) is None


@pytest.mark.long
def test_every_process_of_a_line_is_watched() -> None:
    seen: list[float] = []
    found = soak(Load(rate=40, width=64, height=64, workers=1), 0.1, 20, seen.append)
    assert {one.process for one in found.trends} == {"source-camera", "worker-0", "hub"}
    assert all(one.mb > 5 and one.descriptors > 3 and one.starts == 1 for one in found.trends)
    assert len(seen) >= 3
    assert found.counts["PASS"] > 50
    assert found.as_dict()["flat"] is found.flat
