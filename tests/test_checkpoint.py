"""Checkpoints run beside the writer: the log begins anew, and nothing that was announced is taken back."""

from __future__ import annotations

import time
from pathlib import Path

from line_worker.hub.checkpoint import Checkpointer
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


def test_the_log_is_moved_into_the_file_while_rows_are_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", "line")
    checkpointer = Checkpointer(journal.path, every_s=0.05)
    for seq in range(WRITTEN):
        journal.write([_part(seq)], {}, {})
        time.sleep(0.003)
    checkpointer.close()
    log = journal.path.with_name(journal.path.name + "-wal")
    assert log.stat().st_size < WRITTEN * 3 * PAGE / 2, "three pages a row without it"
    assert len(journal.after(0, 2 * WRITTEN)) == WRITTEN
    journal.close()


def test_what_was_announced_is_never_taken_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", "line")
    journal.write([], {("camera", 1): 9}, {})
    journal.write([], {("camera", 1): 4}, {})
    assert [epoch.next_seq for epoch in journal.open_epochs()] == [9]
    journal.close()
