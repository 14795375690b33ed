"""Checkpoints run beside the writer: the log begins anew, and nothing that was announced is taken back."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from line_worker.hub import checkpoint
from line_worker.hub.checkpoint import ROOM, Checkpointer
from line_worker.hub.journal import Journal
from line_worker.hub.part import Decision, Part
from line_worker.verdicts import Reason
from line_worker.wire.messages import FrameKey

PAGE = 4096
WRITTEN = 400


def _part(seq: int) -> Part:
    part = Part(FrameKey("line", "camera", 1, seq), 10.0, 11.0)
    part.settle(Decision(Reason.GAP, 10.5))
    return part


def test_the_log_is_moved_into_the_file_while_rows_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "ROOM", 0)
    journal = Journal(tmp_path / "journal.sqlite", "line")
    checkpointer = Checkpointer(journal.path, every_s=0.05)
    for seq in range(WRITTEN):
        journal.write([_part(seq)], {}, {})
        time.sleep(0.003)
    checkpointer.close()
    assert _log(journal).stat().st_size < WRITTEN * 3 * PAGE / 2, "three pages a row without it"
    assert len(journal.after(0, 2 * WRITTEN)) == WRITTEN
    journal.close()


def test_a_long_reader_keeps_no_row_waiting(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", "line")
    journal.write([_part(0)], {}, {})
    with closing(sqlite3.connect(journal.path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM outcomes").fetchall()
        checkpointer = Checkpointer(journal.path, every_s=0.02)
        for seq in range(1, 100):
            journal.write([_part(seq)], {}, {})
            time.sleep(0.003)
        checkpointer.close()
    journal.close()


def _log(journal: Journal) -> Path:
    return journal.path.with_name(journal.path.name + "-wal")


def test_the_log_has_room_before_the_first_row(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", "line")
    for seq in range(50):
        journal.write([_part(seq)], {}, {})
    assert _log(journal).stat().st_size == ROOM, "no commit has made it longer"
    journal.close()


def test_a_hub_that_is_killed_leaves_its_rows_before_the_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", "line")
    journal.write([_part(seq) for seq in range(3)], {}, {})
    left = tmp_path / "left" / "journal.sqlite"
    left.parent.mkdir()
    for path in (journal.path, _log(journal)):
        shutil.copy(path, left.parent)
    journal.close()
    found = Journal(left, "line")
    found.check(10.0)
    assert [outcome.key.seq for outcome in found.after(0, 10)] == [0, 1, 2]
    found.write([_part(3)], {}, {})
    assert (found.last_row(), _log(found).stat().st_size) == (4, ROOM)
    found.close()


def test_a_disk_without_that_room_keeps_what_it_has(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM // 2, before[1]))
    try:
        journal = Journal(tmp_path / "journal.sqlite", "line")
        assert journal.write([_part(0)], {}, {}) == [1]
        assert _log(journal).stat().st_size < ROOM // 4
        journal.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_was_announced_is_never_taken_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", "line")
    journal.write([], {("camera", 1): 9}, {})
    journal.write([], {("camera", 1): 4}, {})
    assert [epoch.next_seq for epoch in journal.open_epochs()] == [9]
    journal.close()
