"""What several test files share: hypothesis' profiles, a short folder for sockets, and a bundle trained once."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import settings

from scripted_hub import Rig

if TYPE_CHECKING:
    from live_bench import Bench

# `make slow` sets HYPOTHESIS_PROFILE=slow: many more examples and longer ones
settings.register_profile("short", deadline=None, max_examples=60, stateful_step_count=40)
settings.register_profile("slow", deadline=None, max_examples=5000, stateful_step_count=200)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

TINY_SIZE = (240, 320)  # H, W of the parts that tiny_bundle judges: draw_part(rng, size=(240, 320)), kind bracket


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep exports of this run's bundles away from the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(_session_root(tmp_path_factory) / "cache"))
        yield


@pytest.fixture
def short_path() -> Iterator[Path]:
    """Return an empty folder whose path is short enough for socket files, whatever the test is called."""
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        yield Path(folder)


@pytest.fixture
def rig(short_path: Path) -> Iterator[Rig]:
    rig = Rig(short_path)
    yield rig
    rig.close()
    assert not list(rig.config.line.runtime.iterdir()), "no socket file stays"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return an open page beside a camera's ring."""
    from live_bench import Bench

    found = Bench(tmp_path)
    yield found
    found.close()


@pytest.fixture(scope="session")
def tiny_good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 24 good drawn brackets, 240 x 320 gray PNG."""
    root = _session_root(tmp_path_factory)
    with (root / "tiny_good.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = root / "tiny_good"
        if not folder.is_dir():
            _draw_good(root / "tiny_good.part")
            (root / "tiny_good.part").rename(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_good: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle trained on `tiny_good` in a few steps: it passes good brackets and fails mutilated ones.

    Read it, never change it; it is shared by all tests and all xdist workers.
    """
    from calib.options import TrainOptions
    from calib.train import train

    root = _session_root(tmp_path_factory)
    bundle = root / "tiny.bundle"
    with (root / "tiny_bundle.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not bundle.is_dir():
            ways = {"locate": "background", "pose": "rigid", "reconstruct": "classic"}
            train(TrainOptions(tiny_good, bundle, **ways, false_reject=0.05, steps=8, pixels=1 << 14, repeats=0))
    return bundle


def _session_root(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all xdist workers of this session share."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def _draw_good(folder: Path) -> None:
    from line_worker.images import save_png
    from line_worker.source.drawing import draw_part

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(24):
        save_png(folder / f"{number:02d}.png", draw_part(rng, size=TINY_SIZE).image)
