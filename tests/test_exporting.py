"""The journal as Parquet: every outcome once, in the file of its day; what is over is not written again."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from line_worker.cli import app
from line_worker.errors import JournalError
from line_worker.exporting import export
from line_worker.hub import journal as journal_module
from line_worker.hub.journal import Journal
from line_worker.hub.ledger import Decision, Part
from line_worker.verdicts import Reason
from line_worker.wire.messages import FrameKey

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC).timestamp()
HOUR, DAY = 3600.0, 86400.0


def write(path: Path, monkeypatch: pytest.MonkeyPatch, moments: Sequence[float]) -> None:
    """Write an outcome at each of these moments: PASS, FAIL, GAP and again; each is decided half a second before."""
    for seq, at in enumerate(moments):
        reason = (Reason.NONE, Reason.ANOMALY, Reason.GAP)[seq % 3]
        monkeypatch.setattr(journal_module.time, "time", lambda at=at: at)
        hub = Journal(path, "l")
        part = Part(FrameKey("l", "cam", 1, seq), 0.0, 1.0)
        score, bundle = (None, "") if reason is Reason.GAP else (0.5 + seq, "b")
        part.decision = Decision(reason, 0.5, score, score and 1.0, bundle=bundle)
        hub.write([part], {("cam", 1): seq + 1}, {})
        hub.close()


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a journal with a PASS, a FAIL and a GAP at noon, 23:30 and two days later."""
    path = tmp_path / "journal.sqlite"
    write(path, monkeypatch, [NOON, NOON + 11.5 * HOUR, NOON + 2 * DAY])
    return path


def files(found: Sequence[tuple[Path, int]]) -> list[tuple[str, int]]:
    return [(path.name, count) for path, count in found]


def test_each_day_that_has_rows_has_its_file(journal, tmp_path):
    found = list(export(journal, tmp_path / "out"))
    assert files(found) == [
        ("outcomes-2026-11-24.parquet", 2),
        ("outcomes-2026-11-26.parquet", 1),
    ]
    rows = pq.read_table(found[0][0]).to_pylist()
    assert [(row["seq"], row["verdict"], row["reason"], row["score"]) for row in rows] == [
        (0, "PASS", "NONE", 0.5),
        (1, "FAIL", "ANOMALY", 1.5),
    ]
    assert rows[0]["at"] == datetime.fromtimestamp(
        NOON - 0.5, UTC
    )  # it was decided half a second before it was written
    assert pq.read_table(found[1][0]).to_pylist()[0]["score"] is None


def test_a_day_is_one_of_the_place(journal, tmp_path):
    found = list(export(journal, tmp_path / "out", ZoneInfo("Europe/Vienna")))
    assert files(found)[:2] == [("outcomes-2026-11-24.parquet", 1), ("outcomes-2026-11-25.parquet", 1)]


def test_a_clock_that_was_set_costs_no_days_and_no_rows(tmp_path, monkeypatch):
    """A dead clock begins in 1970 at every start, and a clock that is set goes back over midnight."""
    path, midnight = tmp_path / "journal.sqlite", NOON + 12 * HOUR
    write(path, monkeypatch, [10.0, NOON, 20.0, midnight + 1, midnight - 1, midnight + 2, 0.2, midnight + 0.5 - 4e-7])
    assert files(list(export(path, tmp_path / "out"))) == [
        ("outcomes-1969-12-31.parquet", 1),
        ("outcomes-1970-01-01.parquet", 2),
        ("outcomes-2026-11-24.parquet", 3),
        ("outcomes-2026-11-25.parquet", 2),
    ]
    rows = [row for file in sorted((tmp_path / "out").iterdir()) for row in pq.read_table(file).to_pylist()]
    assert [row["seq"] for row in rows] == [6, 0, 2, 1, 4, 7, 3, 5]


def test_a_day_that_is_over_is_written_once(journal, tmp_path):
    out = tmp_path / "out"
    (first, _), *_ = list(export(journal, out))
    for path in out.iterdir():  # written long before the last day was over
        os.utime(path, (NOON + 2 * DAY, NOON + 2 * DAY))
    before = first.stat().st_ino
    assert files(list(export(journal, out))) == [("outcomes-2026-11-26.parquet", 1)]
    assert first.stat().st_ino == before


def test_a_journal_without_p_values_is_read(journal, tmp_path):
    with sqlite3.connect(journal) as db:
        db.execute("ALTER TABLE outcomes DROP COLUMN p_value")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
    db.close()
    found = list(export(journal, tmp_path / "out"))
    assert {row["p_value"] for row in pq.read_table(found[0][0]).to_pylist()} == {None}


def test_an_empty_journal_gives_nothing_and_none_is_refused(tmp_path):
    Journal(tmp_path / "j.sqlite", "l").close()
    assert list(export(tmp_path / "j.sqlite", tmp_path / "out")) == []
    with pytest.raises(JournalError, match="there is no journal"):
        list(export(tmp_path / "nowhere.sqlite", tmp_path / "out"))


def test_the_command(journal, tmp_path):
    result = CliRunner().invoke(app, ["export", str(journal), str(tmp_path / "out"), "--zone", "Asia/Tokyo"])
    assert "outcomes-2026-11-24.parquet: 1 outcomes" in result.output
    assert "no time zone" in str(CliRunner().invoke(app, ["export", str(journal), ".", "--zone", "Mars"]).output)
