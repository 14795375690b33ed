"""The journal and the books around it: written before shown, never changed, and still there after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.errors import JournalError
from line_worker.hub.books import OWED_AT_ONCE, Books
from line_worker.hub.journal import Journal, OpenEpoch
from line_worker.hub.part import Decision, Part, State
from line_worker.hub.reopening import open_journal, set_aside
from line_worker.verdicts import Reason
from line_worker.wire.messages import Frame, FrameKey, Region

CHECKSUM = 2**64 - 1
REGION = Region(x=1, y=2, w=3, h=4, zone=(5, 6), error=2.5, neighbours=1.0, limit=2.0, sigma=4.0)


def part(seq: int, reason: Reason = Reason.NONE, epoch: int = 1, camera: str = "c") -> Part:
    key = FrameKey("l", camera, epoch, seq)
    frame = Frame(key, 0.0, 500.0, (4, 5), "uint8", "gray", CHECKSUM, "ring", part_id="Teil-ß", trigger=9)
    decided = Part(key, t0=10.0, due=10.5, frame=frame, state=State.DECIDED, attempt=2)
    decided.decision = Decision(reason, 10.25, 0.5, 1.0, (REGION,), "sha", "worker-1", {"score": 1.5}, 0.25)
    return decided


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    with contextlib.closing(Journal(path, "l")) as journal:
        yield journal


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file, so that nobody else can write it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def test_an_outcome_comes_back_with_all_its_evidence(journal: Journal) -> None:
    assert journal.write([part(0), part(1, Reason.ANOMALY)], {("c", 1): 2}, {}) == [1, 2]
    first, second = journal.after(0, 10)
    assert (first.row, first.key, first.verdict, first.reason) == (1, FrameKey("l", "c", 1, 0), "PASS", 0)
    assert (first.score, first.threshold, first.regions, first.stages) == (0.5, 1.0, (REGION,), {"score": 1.5})
    assert first.p_value == 0.25
    assert (first.bundle, first.worker, first.attempt, first.part_id, first.trigger) == (
        "sha",
        "worker-1",
        2,
        "Teil-ß",
        9,
    )
    assert first.latency_ms == 250.0
    assert (second.verdict, second.left_ms) == ("FAIL", 0.0)
    assert journal.find(second.key) == second
    assert journal.find(FrameKey("l", "c", 1, 9)) is None
    assert journal.after(1, 10) == [second]
    assert (journal.last_row(), journal.totals()) == (2, {"PASS": 1, "FAIL": 1})


def test_rows_cannot_be_changed_or_deleted_even_by_hand(journal: Journal, path: Path) -> None:
    journal.write([part(0)], {}, {})
    with contextlib.closing(sqlite3.connect(path)) as other:
        for command in ("UPDATE outcomes SET verdict = 'FAIL'", "DELETE FROM outcomes"):
            with pytest.raises(sqlite3.IntegrityError, match="an outcome"):
                other.execute(command)
        with pytest.raises(sqlite3.IntegrityError):
            other.execute(
                "INSERT INTO outcomes SELECT NULL, line, camera, epoch, seq, 'FAIL', 1, score, threshold, bundle,"
                " worker, attempt, part_id, trigger, checksum, latency_ms, wall, detail, p_value FROM outcomes"
            )


def test_the_first_outcome_of_a_key_stands(journal: Journal) -> None:
    assert journal.write([part(0)], {}, {}) == [1]
    second, third = journal.write([part(0, Reason.ANOMALY), part(1)], {}, {})
    assert second == 0
    assert third > 1
    stands = journal.find(FrameKey("l", "c", 1, 0))
    assert stands is not None
    assert stands.verdict == "PASS"
    assert journal.totals() == {"PASS": 2}


def test_everything_is_there_after_reopening(journal: Journal, path: Path) -> None:
    journal.write([part(0)], {("c", 1): 3}, {"log": 1})
    with contextlib.closing(Journal(path, "l")) as again:
        assert (again.last_row(), again.cursor("log"), again.cursor("store"), again.totals()) == (1, 1, 0, {"PASS": 1})
        assert again.open_epochs() == [OpenEpoch("c", 1, 3, [1, 2], last=(0, CHECKSUM))]
        assert again.write([part(1)], {}, {}) == [2]


WRITER = """
import sys
from pathlib import Path
from line_worker.hub.journal import Journal
from line_worker.hub.part import Decision, Part
from line_worker.verdicts import Reason
from line_worker.wire.messages import FrameKey
journal = Journal(Path(sys.argv[1]), "l")
for seq in range(10**6):
    part = Part(FrameKey("l", "c", 1, seq), 0.0, 1.0)
    part.decision = Decision(Reason.NONE, 0.5, 0.1, 1.0)
    [row] = journal.write([part], {("c", 1): seq + 1}, {"log": seq})
    print(row, flush=True)
"""


def test_what_was_acknowledged_survives_a_kill(path: Path) -> None:
    """Row numbers come out after the commit; whatever was printed before SIGKILL must be in the file."""
    argv = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for _ in range(200):
            writer.stdout.readline()
        writer.send_signal(signal.SIGKILL)
        acknowledged = [int(line) for line in writer.stdout if line.endswith("\n")]
    last = max([200, *acknowledged])
    with contextlib.closing(Journal(path, "l")) as journal:
        rows = journal.last_row()
        assert last <= rows <= last + 1
        [epoch] = journal.open_epochs()
        assert (epoch.next_seq, epoch.holes) == (rows, [])
        assert journal.totals() == {"PASS": rows}
        assert journal.cursor("log") == rows - 1


@given(st.sets(st.integers(0, 40)), st.integers(0, 40))
def test_open_keys_are_found_wherever_they_are(decided: set[int], announced: int) -> None:
    with contextlib.closing(Journal(Path(":memory:"), "l")) as journal:
        journal.write([part(seq) for seq in decided], {("c", 1): announced}, {})
        [found] = journal.open_epochs()
    next_seq = max([announced, *(seq + 1 for seq in decided)])
    last = (max(decided), CHECKSUM) if decided else (-1, 0)
    assert found == OpenEpoch("c", 1, next_seq, [seq for seq in range(next_seq) if seq not in decided], last)


def test_the_last_picture_is_one_that_had_pixels(journal: Journal) -> None:
    gap, unseen = part(1, Reason.GAP), part(2, Reason.OVERLOAD)
    gap.frame = None
    assert unseen.frame is not None
    unseen.frame = dataclasses.replace(unseen.frame, checksum=0, place="none")
    journal.write([part(0), gap, unseen], {("c", 1): 3}, {})
    assert journal.open_epochs()[0].last == (0, CHECKSUM)


def test_the_newest_epochs_of_each_camera_are_looked_at(journal: Journal) -> None:
    for epoch in range(5):
        journal.write([], {("c", epoch): 1}, {})
    journal.write([], {("d", 9): 1}, {})
    assert {(e.camera, e.epoch) for e in journal.open_epochs(per_camera=2)} == {("c", 3), ("c", 4), ("d", 9)}


def test_another_line_s_rows_are_not_ours(journal: Journal, path: Path) -> None:
    journal.write([part(0)], {("c", 1): 5}, {})
    with contextlib.closing(Journal(path, "other")) as other:
        assert (other.open_epochs(), other.totals()) == ([], {})


def test_the_p_values_of_passed_parts_are_found_again(journal: Journal) -> None:
    others = [part(4, Reason.ANOMALY), part(0, epoch=2, camera="d")]
    parts = [part(n) for n in range(4)]
    for n, one in enumerate(parts):
        assert one.decision is not None
        one.decision = dataclasses.replace(one.decision, p_value=n / 4 if n else None)
    journal.write([*parts, *others], {}, {})
    assert journal.passed("c", "sha", 10) == [0.25, 0.5, 0.75]
    assert journal.passed("c", "sha", 2) == [0.5, 0.75]
    assert journal.passed("c", "other", 10) == []


def test_another_version_is_refused_and_left_alone(path: Path) -> None:
    Journal(path, "l").close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE meta SET value = '99'")
        other.execute("DROP TABLE totals")
    with pytest.raises(JournalError, match=r"schema 99, this one is 2.*nothing was changed"):
        Journal(path, "l")
    with contextlib.closing(sqlite3.connect(path)) as other:
        assert not other.execute("SELECT 1 FROM sqlite_master WHERE name = 'totals'").fetchall()


def test_a_journal_of_the_first_schema_keeps_its_rows_and_takes_new_ones(path: Path) -> None:
    with contextlib.closing(Journal(path, "l")) as journal:
        journal.write([part(0)], {("c", 1): 1}, {"log": 1})
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:  # as it was before p-values
        db.execute("ALTER TABLE outcomes DROP COLUMN p_value")
        db.execute("UPDATE meta SET value = '1'")
        before = db.execute("SELECT * FROM outcomes").fetchall()
    for _ in range(2):  # the second time there is nothing left to do
        with contextlib.closing(Journal(path, "l")) as journal:
            [old] = journal.after(0, 1)
            assert (old.score, old.p_value, journal.cursor("log"), journal.totals()) == (0.5, None, 1, {"PASS": 1})
    with contextlib.closing(Journal(path, "l")) as journal:
        assert journal.write([part(1)], {("c", 1): 2}, {}) == [2]
        assert journal.after(1, 1)[0].p_value == 0.25
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert [row[:-1] for row in db.execute("SELECT * FROM outcomes WHERE seq = 0")] == before


@pytest.mark.parametrize("content", [b"no database, but long enough to be looked at" * 100, None])
def test_what_is_no_journal_is_refused_with_advice(path: Path, content: bytes | None) -> None:
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(JournalError, match=r"cannot be opened.*move the file aside"):
        Journal(path, "l")
    assert content is None or path.read_bytes() == content


def damage(path: Path, *, at: int) -> None:
    """Overwrite a page of the file, as a disk that lies does; SQLite's log is moved into the file first."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xa5" * 4096)


@pytest.mark.parametrize("at", [0, 4096, 3 * 4096], ids=["the first page", "the second page", "the fourth page"])
def test_a_damaged_journal_is_set_aside_and_a_new_one_begun(path: Path, at: int) -> None:
    with contextlib.closing(Journal(path, "l")) as journal:
        journal.write([part(seq) for seq in range(40)], {("c", 1): 40}, {})
    damage(path, at=at)
    before = path.read_bytes()
    journal, begun_anew = open_journal(path, "l")
    with contextlib.closing(journal):
        assert begun_anew
        assert (journal.last_row(), journal.open_epochs()) == (0, [])
        assert journal.write([part(0)], {}, {}) == [1]
    [name] = set_aside(path)
    assert name.startswith("journal.sqlite.damaged-2")
    assert (path.parent / name).read_bytes() == before, "nothing was changed in it"


def test_a_sound_journal_is_opened_as_it_is(path: Path) -> None:
    with contextlib.closing(Journal(path, "l")) as journal:
        journal.write([part(0)], {("c", 1): 1}, {})
    journal, begun_anew = open_journal(path, "l")
    with contextlib.closing(journal):
        assert not begun_anew
        assert journal.last_row() == 1
        journal.check(seconds=0.0)  # it says nothing when its time is over
    assert set_aside(path) == []


def test_what_is_only_unreadable_or_another_version_s_is_not_set_aside(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(JournalError, match="cannot be opened"):
        open_journal(path, "l")
    path.rmdir()
    Journal(path, "l").close()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("UPDATE meta SET value = '99'")
    with pytest.raises(JournalError, match="another version"):
        open_journal(path, "l")
    assert set_aside(path) == []


def test_what_is_kept_is_each_line_s_own(journal: Journal, path: Path) -> None:
    assert journal.kept("alarms") == ""
    journal.keep("alarms", "one")
    journal.keep("alarms", "two")
    with contextlib.closing(Journal(path, "other")) as other:
        assert other.kept("alarms") == ""
    assert journal.kept("alarms") == "two"
    with locked(path), pytest.raises(JournalError, match="alarms are not kept"):
        journal.keep("alarms", "three")


def test_a_failed_write_leaves_nothing_behind(journal: Journal, path: Path) -> None:
    with locked(path), pytest.raises(JournalError, match="no part may pass"):
        journal.write([part(0)], {("c", 1): 1}, {"log": 1})
    assert (journal.last_row(), journal.cursor("log"), journal.open_epochs()) == (0, 0, [])
    assert journal.write([part(0)], {}, {}) == [1]


# ---- the books -------------------------------------------------------------------------------------------------------


def test_what_cannot_be_written_does_not_pass_and_is_written_later(journal: Journal, path: Path) -> None:
    books = Books(journal)
    books.note({("c", 1): 2}, {})
    passed, failed = part(0), part(1, Reason.ANOMALY)
    with locked(path):
        assert books.write([passed, failed], beat=False) == [-1, -1]
        assert [p.decision.reason for p in (passed, failed) if p.decision] == [Reason.JOURNAL, Reason.JOURNAL]
        passed.row = -1
        shown = books.outcome(passed, 10.4)
        assert (shown.verdict, shown.reason, shown.row) == ("NO_DECISION", Reason.JOURNAL, 0)
        assert "cannot be written" in books.error
    assert books.write([part(2)], beat=False) == [1], "parts that wait for the beat delay nobody"
    assert books.error == ""
    assert books.write([], beat=True) == []
    assert [o.reason for o in journal.after(0, 10)] == [Reason.NONE, Reason.JOURNAL, Reason.JOURNAL]
    assert (journal.open_epochs(), books.newest_row) == ([OpenEpoch("c", 1, 3, [], last=(2, CHECKSUM))], 3)


def test_a_long_outage_is_made_up_for_in_pieces(journal: Journal, path: Path) -> None:
    books = Books(journal)
    with locked(path):
        books.write([part(seq) for seq in range(OWED_AT_ONCE + 50)], beat=False)
    books.write([], beat=True)
    assert journal.last_row() == OWED_AT_ONCE
    books.write([], beat=True)
    assert journal.last_row() == OWED_AT_ONCE + 50


def test_counts_and_cursors_are_written_with_the_parts_or_at_a_beat(journal: Journal) -> None:
    books = Books(journal)
    books.note({("c", 1): 3}, {"log": 0})
    assert books.write([], beat=False) == []
    assert journal.open_epochs() == []
    books.write([], beat=True)
    assert journal.open_epochs() == [OpenEpoch("c", 1, 3, [0, 1, 2])]
    books.note({("c", 1): 4}, {})
    books.write([part(0)], beat=False)
    assert journal.open_epochs() == [OpenEpoch("c", 1, 4, [1, 2, 3], last=(0, CHECKSUM))]


def test_where_an_outcome_stands_already_it_is_the_one_shown(journal: Journal) -> None:
    books = Books(journal)
    [row] = books.write([part(0)], beat=False)
    second = part(0, Reason.ANOMALY)
    [second.row] = books.write([second], beat=False)
    assert (row, second.row) == (1, 0)
    stored = journal.find(second.key)
    assert stored is not None
    assert books.outcome(second, 10.3) == dataclasses.replace(stored, left_ms=pytest.approx((second.due - 10.3) * 1000))
    assert books.newest_row == 1


def test_what_is_shown_says_how_much_time_is_left(journal: Journal) -> None:
    shown = part(0)
    [shown.row] = Books(journal).write([shown], beat=False)
    outcome = Books(journal).outcome(shown, 10.3)
    assert (round(outcome.left_ms), outcome.latency_ms) == (200, 250.0)


def test_the_epoch_under_way_is_restored_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.sqlite", "line")
    now = time.time()
    for epoch in range(1, 9):
        monkeypatch.setattr(time, "time", lambda: now + 86400)
        journal.write([], {("c", epoch): 5}, {})
    monkeypatch.setattr(time, "time", lambda: now)  # somebody has set it right
    journal.write([], {("c", 9): 7}, {})
    found = journal.open_epochs()
    assert (found[-1].epoch, found[-1].next_seq) == (9, 7)
    assert len(found) == 8
    journal.close()
