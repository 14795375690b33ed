"""The rows of the fault table, broken on purpose: real processes, real sockets, real files.

Each test is named for its row. What the modules do alone is tested beside them.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from line_worker.auditing import audit
from line_worker.config import Config, parse
from line_worker.images import save_png
from line_worker.rehearsal import Rehearsal
from line_worker.verdicts import Reason, StationState


def _config(folder: Path, source: dict[str, Any], **more: Any) -> Config:
    camera = {"name": "camera", "deadline_ms": 2000, "window": 128, "max_frame_mb": 1, "source": source}
    return parse(
        {
            "line": {"name": "t", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [camera | more.get("camera", {})],
            "workers": {"bundle": "stub", "count": 1, **more.get("workers", {})},
            "sinks": more.get("sinks", []),
        }
    )


def _reasons(config: Config) -> list[Reason]:
    """Return the journal's reasons in the order of sequence numbers; the books balance."""
    assert audit(config.journal_path).balanced
    with closing(sqlite3.connect(config.journal_path)) as db:
        return [Reason(reason) for (reason,) in db.execute("SELECT reason FROM outcomes ORDER BY epoch, seq")]


def test_row_10_frozen_camera(tmp_path: Path) -> None:
    """A folder in which one picture stands several times in a row is a camera that freezes and recovers."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    stuck, *others = rng.integers(0, 255, (4, 48, 64), np.uint8)
    for number, picture in enumerate([others[0], *[stuck] * 5, others[1], others[2]]):
        save_png(images / f"{number}.png", picture)
    config = _config(tmp_path, {"kind": "folder", "path": str(images), "rate": 4})
    rehearsal = Rehearsal(config, tmp_path / "line.log")
    rehearsal.run()
    frozen = [Reason.FROZEN] * 4
    assert _reasons(config) == [Reason.NONE, Reason.NONE, *frozen, Reason.NONE, Reason.NONE]
    faults = [state for state in rehearsal.watcher.states if state.state == StationState.FAULT]
    assert {state.cause for state in faults} == {"camera camera: gives the same picture"}
