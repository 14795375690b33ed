"""The audit, on journals that the hub's own code wrote, and on journals that somebody has meddled with."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.auditing import _differences, audit, render, run, to_json
from line_worker.errors import JournalError
from line_worker.hub.journal import Journal
from line_worker.hub.ledger import Decision, Part
from line_worker.verdicts import Reason
from line_worker.wire.messages import FrameKey, View

PASS, FAIL, GAP = Reason.NONE, Reason.ANOMALY, Reason.GAP


def _part(seq: int, reason: Reason, camera: str = "cam", epoch: int = 1) -> Part:
    score = {PASS: 0.5, FAIL: 2.0}.get(reason)
    part = Part(FrameKey("l", camera, epoch, seq), 0.0, 1.0)
    part.decision = Decision(reason, 0.5, score, None if score is None else 1.0, bundle="" if score is None else "b")
    return part


def _journal(path: Path, reasons: Iterable[Reason], announced: int, skip: tuple[int, ...] = ()) -> Path:
    journal = Journal(path, "l")
    parts = [_part(seq, reason) for seq, reason in enumerate(reasons) if seq not in skip]
    journal.write(parts, {("cam", 1): announced}, {})
    journal.close()
    return path


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return _journal(tmp_path / "journal.sqlite", [PASS, FAIL, PASS, GAP, GAP, Reason.DEADLINE], 6)


def test_books_that_balance(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (books,) = audit(good).epochs
    assert (books.announced, books.passed, books.failed) == (6, 2, 1)
    assert books.no_decision == {"GAP": 2, "DEADLINE": 1}
    assert run(good) == 0
    text = capsys.readouterr().out
    assert "announced 6 = 2 PASS + 1 FAIL + 3 NO_DECISION" in text
    assert "NO_DECISION(GAP): 2" in text
    assert text.endswith("the books balance\n")


def test_json_has_the_totals_and_every_epoch(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(good, "l")
    journal.write([_part(0, PASS, epoch=2), _part(0, FAIL, camera="two")], {("cam", 2): 1, ("two", 1): 1}, {})
    journal.close()
    assert run(good, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["balanced"], found["announced"], found["pass"], found["fail"]) == (True, 8, 3, 2)
    assert found["no_decision"] == {"GAP": 2, "DEADLINE": 1}
    assert [(e["camera"], e["epoch"], e["announced"]) for e in found["epochs"]] == [
        ("cam", 1, 6),
        ("cam", 2, 1),
        ("two", 1, 1),
    ]


def test_missing_keys_are_listed_as_ranges(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _journal(tmp_path / "j.sqlite", [PASS] * 10, 12, skip=(0, 4, 5, 6))
    assert run(path, settle_s=0.01) == 1
    text = capsys.readouterr().out
    assert "without an outcome: 6: 0, 4-6, 10-11" in text
    assert "DO NOT BALANCE" in text


def test_an_epoch_announced_and_never_decided_is_missing_whole(tmp_path: Path) -> None:
    path = _journal(tmp_path / "j.sqlite", [], 3)
    (books,) = audit(path, settle_s=0.01).epochs
    assert books.missing == ((0, 2),)


def test_outcomes_beyond_what_was_announced_do_not_balance(tmp_path: Path) -> None:
    path = _journal(tmp_path / "j.sqlite", [PASS] * 5, 3)
    found = audit(path)
    assert found.epochs[0].unannounced == ((3, 4),)
    assert "never announced: 2: 3-4" in render(found)


def _meddle(path: Path, *commands: str) -> None:
    """Replace the outcomes by a table without the rules of the hub's own, and run `commands` on it."""
    db = sqlite3.connect(path)
    db.executescript("CREATE TABLE t AS SELECT * FROM outcomes; DROP TABLE outcomes; ALTER TABLE t RENAME TO outcomes;")
    db.executescript("".join(f"{command};" for command in commands))
    db.close()


def test_a_key_with_two_outcomes_is_named(good: Path) -> None:
    _meddle(good, "INSERT INTO outcomes SELECT * FROM outcomes WHERE seq IN (1, 2)")
    found = audit(good)
    assert not found.balanced
    assert found.epochs[0].double == (1, 2)
    assert "decided more than once: 2: 1-2" in render(found)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("UPDATE outcomes SET reason = 30 WHERE seq = 0", "1 outcome(s) PASS with reason GAP"),
        ("UPDATE outcomes SET verdict = 'FAIL' WHERE seq = 3", "1 outcome(s) FAIL with reason GAP"),
        ("UPDATE outcomes SET reason = 999 WHERE seq = 3", "1 outcome(s) NO_DECISION with reason 999"),
        ("UPDATE outcomes SET verdict = 'GOOD' WHERE seq = 0", "1 outcome(s) GOOD with reason NONE"),
        ("UPDATE outcomes SET score = 1.5 WHERE seq = 0", "PASS of 0 without proof"),
        ("UPDATE outcomes SET score = NULL WHERE seq = 2", "PASS of 2 without proof"),
        ("UPDATE outcomes SET bundle = '' WHERE seq = 2", "PASS of 2 without proof"),
    ],
)
def test_an_outcome_that_contradicts_itself_is_named(good: Path, command: str, says: str) -> None:
    _meddle(good, command)
    found = audit(good)
    assert found.epochs[0].wrong == (says,)
    assert not to_json(found)["balanced"]


@pytest.mark.parametrize(("seen", "wrong"), [((0, 2), ()), ((0, 3), ("PASS of 0 by a view that did not",))])
def test_a_part_passes_with_the_rows_of_its_views_only(
    good: Path, seen: tuple[int, ...], wrong: tuple[str, ...]
) -> None:
    views = tuple(View(FrameKey("l", "cam", 1, seq), "PASS", 0, 0.5, 1.0) for seq in seen)
    part = _part(0, PASS, camera="pairs")
    assert part.decision is not None
    part.decision = replace(part.decision, views=views)
    journal = Journal(good, "l")
    journal.write([part], {("pairs", 1): 1}, {})
    journal.close()
    [books] = [books for books in audit(good).epochs if books.camera == "pairs"]
    assert books.wrong == wrong


def test_the_audit_changes_nothing_and_runs_beside_the_hub(good: Path) -> None:
    journal = Journal(good, "l")
    before = good.read_bytes()
    journal.write([_part(6, PASS)], {("cam", 1): 7}, {})
    assert audit(good).balanced
    journal.write([_part(7, PASS)], {("cam", 1): 8}, {})
    assert audit(good).epochs[0].announced == 8
    assert good.read_bytes() == before, "what is new is still in the hub's write-ahead log"
    journal.close()


def test_parts_in_flight_are_not_missing(tmp_path: Path) -> None:
    path = tmp_path / "j.sqlite"
    begun, stop = threading.Event(), threading.Event()

    def hub() -> None:
        journal, seq = Journal(path, "l"), 0
        while not stop.is_set():
            journal.write([_part(seq, PASS)], {("cam", 1): seq + 5}, {})  # four parts are always open
            begun.set()
            seq += 1
            time.sleep(0.002)
        journal.close()

    thread = threading.Thread(target=hub)
    thread.start()
    assert begun.wait(10)
    found = audit(path, settle_s=0.3)
    stop.set()
    thread.join()
    assert found.balanced
    assert found.epochs[0].in_flight == 4
    assert "+ 4 in flight" in render(found)
    assert not audit(path, settle_s=0.01).balanced, "the hub has stopped: now they are missing"


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no journal"), (b"", "cannot be read as a journal"), (b"x" * 5000, "not a database")],
)
def test_what_is_no_journal_is_refused(tmp_path: Path, content: bytes | None, says: str) -> None:
    path = tmp_path / "j.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JournalError, match=says):
        audit(path)
    assert path.exists() is (content is not None), "and nothing is created"


def test_another_version_is_refused(good: Path) -> None:
    db = sqlite3.connect(good)
    db.execute("UPDATE meta SET value = '99'")
    db.commit()
    db.close()
    with pytest.raises(JournalError, match="schema 99, this version audits 2"):
        audit(good)


def test_a_journal_from_before_p_values_is_audited_as_it_is(good: Path) -> None:
    db = sqlite3.connect(good)
    db.execute("ALTER TABLE outcomes DROP COLUMN p_value")
    db.execute("UPDATE meta SET value = '1'")
    db.commit()
    db.close()
    before = good.read_bytes()
    assert audit(good).balanced
    assert good.read_bytes() == before


@given(st.sets(st.integers(0, 30)), st.integers(0, 25))
def test_differences_are_exactly_the_keys_that_differ(seqs: set[int], announced: int) -> None:
    def keys(ranges: tuple[tuple[int, int], ...]) -> list[int]:
        return [seq for first, last in ranges for seq in range(first, last + 1)]

    missing, unannounced = _differences(sorted(seqs), announced)
    assert keys(missing) == sorted(set(range(announced)) - seqs)
    assert keys(unannounced) == sorted(seqs - set(range(announced)))


def test_a_large_journal_is_audited_without_torch(tmp_path: Path) -> None:
    path = _journal(tmp_path / "j.sqlite", [PASS] * 20_000, 20_000)
    code = (
        "import sys; from pathlib import Path; from line_worker.auditing import run; "
        f"code = run(Path({str(path)!r})); assert not {{'torch', 'cv2'}} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
