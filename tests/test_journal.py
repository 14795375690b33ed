"""The journal: immutable rows that survive a kill, first writer wins, holes are found, another version is refused."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from line_worker.errors import JournalError
from line_worker.hub.checkpoint import Checkpointer
from line_worker.hub.journal import Journal
from line_worker.hub.part import Decision, Event, Part
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.messages import FrameKey, Region

PAGE = 4096


def _part(seq: int, reason: Reason = Reason.NONE, epoch: int = 1) -> Part:
    part = Part(FrameKey("line", "camera", epoch, seq), 10.0, 11.0)
    region = Region(1, 2, 3, 4, (5, 6), 0.5, 0.25, 2.0, 9.0)
    part.settle(Decision(reason, 10.25, 0.5, 1.0, (region,), "sha", "worker-0", {"score": 1.5}), Event.SETTLE)
    return part


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "data" / "journal.sqlite", "line")
    yield opened
    opened.close()


def test_a_row_comes_back_as_it_went_in(journal: Journal) -> None:
    [row] = journal.write([_part(0, Reason.ANOMALY)], {("camera", 1): 1}, {})
    outcome = journal.find(FrameKey("line", "camera", 1, 0))
    assert outcome is not None
    assert (outcome.row, outcome.verdict, outcome.reason) == (row, Verdict.FAIL, Reason.ANOMALY)
    assert outcome.regions[0].zone == (5, 6)
    assert outcome.stages == {"score": 1.5}
    assert outcome.latency_ms == pytest.approx(250)
    assert journal.after(0, 10) == [outcome]
    assert journal.after(row, 10) == []


def test_the_first_outcome_of_a_key_stands(journal: Journal) -> None:
    assert journal.write([_part(0)], {}, {})[0] > 0
    assert journal.write([_part(0, Reason.ANOMALY), _part(1)], {}, {})[0] == 0
    outcome = journal.find(FrameKey("line", "camera", 1, 0))
    assert outcome is not None
    assert outcome.passed


@pytest.mark.parametrize("statement", ["UPDATE outcomes SET verdict = 'PASS'", "DELETE FROM outcomes"])
def test_rows_can_be_neither_changed_nor_deleted(journal: Journal, statement: str) -> None:
    journal.write([_part(0, Reason.GAP)], {}, {})
    db = sqlite3.connect(journal.path)
    with pytest.raises(sqlite3.IntegrityError, match="never"):
        db.execute(statement)
    db.close()


def test_holes_of_an_earlier_hub_are_found(journal: Journal) -> None:
    journal.write([_part(0), _part(2)], {("camera", 1): 5}, {})
    journal.write([_part(0, epoch=2)], {("camera", 2): 1}, {})
    found = {epoch.epoch: (epoch.next_seq, epoch.holes) for epoch in journal.open_epochs()}
    assert found[1] == (5, [1, 3, 4])
    assert found.get(2, (1, [])) == (1, [])


def test_what_was_announced_is_never_taken_back(journal: Journal) -> None:
    journal.write([], {("camera", 1): 9}, {})
    journal.write([], {("camera", 1): 4}, {})
    assert [epoch.next_seq for epoch in journal.open_epochs()] == [9]


def test_cursors_are_remembered(journal: Journal) -> None:
    before = journal.cursor("log")
    journal.write([_part(0)], {}, {"log": 7})
    assert before == 0
    assert journal.cursor("log") == 7


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from line_worker.hub.journal import Journal\n"
        "from line_worker.hub.part import Decision, Part\n"
        "from line_worker.verdicts import Reason\n"
        "from line_worker.wire.messages import FrameKey\n"
        "journal = Journal(Path(sys.argv[1]), 'line')\n"
        "for seq in range(10**6):\n"
        "    part = Part(FrameKey('line', 'camera', 1, seq), 0.0, 1.0)\n"
        "    part.settle(Decision(Reason.GAP, 0.5))\n"
        "    journal.write([part], {('camera', 1): seq + 1}, {})\n"
        "    print(seq, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(50)]
        writer.send_signal(signal.SIGKILL)
    journal = Journal(path, "line")
    rows = [outcome.key.seq for outcome in journal.after(0, 10**6)]
    journal.close()
    assert rows[: len(said)] == said, "what was acknowledged is there"
    assert rows == list(range(len(rows)))


def test_another_version_is_refused_and_left_alone(journal: Journal) -> None:
    journal.close()
    with sqlite3.connect(journal.path) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.close()
    with pytest.raises(JournalError, match="another version"):
        Journal(journal.path, "line")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(tmp_path / "file" / "journal.sqlite", "line")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"these are not the rows you are looking for" * 100)
    with pytest.raises(JournalError):
        Journal(path, "line")


def test_the_log_is_moved_into_the_file_by_another_thread_while_rows_are_written(journal: Journal) -> None:
    log = journal.path.with_name(journal.path.name + "-wal")
    checkpointer = Checkpointer(journal.path, every_s=0.05)
    written = 400
    for seq in range(written):
        journal.write([_part(seq)], {}, {})
        time.sleep(0.003)
    checkpointer.close()
    assert log.stat().st_size < written * 3 * PAGE / 2, "the log is used again instead of growing by three pages a row"
    assert len(journal.after(0, 2000)) == written
