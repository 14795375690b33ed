"""What operators say of parts: who, when, and the part's own picture, beside the store.

<store>/judgements.sqlite                  a row for every judgement; of one part the newest counts
<store>/judged/<camera>/<epoch>/<seq>.png  the original, never dropped: it is what `recalibrate` learns from
"""

from __future__ import annotations

import csv
import os
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from line_worker.errors import SinkError
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.messages import FrameKey

FILE, FOLDER = "judgements.sqlite", "judged"
SCHEMA_VERSION = 1
MAX_WHO, MAX_NOTE = 64, 200

_SCHEMA = """
CREATE TABLE IF NOT EXISTS judgements (
  id INTEGER PRIMARY KEY, line TEXT NOT NULL, camera TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL,
  part_id TEXT NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL, score REAL, threshold REAL, bundle TEXT NOT NULL,
  judgement TEXT NOT NULL, who TEXT NOT NULL, note TEXT NOT NULL, wall REAL NOT NULL);
CREATE INDEX IF NOT EXISTS judgements_key ON judgements (line, camera, epoch, seq);
"""


class Judgement(StrEnum):
    """What a part was in truth, beside what the line made of it."""

    TRUE_DEFECT = "true_defect"
    FALSE_REJECT = "false_reject"
    GOOD = "good"
    MISSED_DEFECT = "missed_defect"


ALLOWED = {
    Verdict.PASS: (Judgement.GOOD, Judgement.MISSED_DEFECT),
    Verdict.FAIL: (Judgement.TRUE_DEFECT, Judgement.FALSE_REJECT),
    Verdict.NO_DECISION: (Judgement.TRUE_DEFECT, Judgement.FALSE_REJECT),
}


class Judged(NamedTuple):
    """One row."""

    key: FrameKey
    part_id: str
    verdict: str
    reason: str
    score: float | None
    threshold: float | None
    bundle: str
    judgement: str
    who: str
    note: str
    wall: float


_COLUMNS = "line, camera, epoch, seq, part_id, verdict, reason, score, threshold, bundle, judgement, who, note, wall"


class Judgements:
    """The judgements beside the store in the folder `store`. Each call opens the database anew: they are rare."""

    def __init__(self, store: Path) -> None:
        self._store = store

    def add(self, judged: Judged, original: Path | None) -> bool:
        """Write a judgement, and keep the `original` picture; returns whether there is a picture now.

        Raises:
            SinkError: it cannot be written.
        """
        try:
            kept = self._keep(judged.key, original)
            with closing(self._open()) as db, db:
                row = (*_key(judged.key), *judged[1:])
                db.execute(f"INSERT INTO judgements ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)
        except (OSError, sqlite3.Error) as error:
            raise SinkError(
                f"{self._store}: the judgement cannot be written ({error}); free the disk or correct the permissions"
            ) from error
        return kept

    def of(self, key: FrameKey) -> Judged | None:
        """Return what was said last of a part, None when nothing was."""
        where = " WHERE line = ? AND camera = ? AND epoch = ? AND seq = ? ORDER BY id DESC LIMIT 1"
        return next(self._read(where, _key(key)), None)

    def newest(self) -> list[Judged]:
        """Return the judgement that counts of every judged part, in the order of time."""
        return list(self._read(" WHERE id IN (SELECT max(id) FROM judgements GROUP BY line, camera, epoch, seq)"))

    def picture(self, key: FrameKey) -> Path:
        """Return where the original of a judged part lies, if it was kept."""
        return self._store / FOLDER / key.camera / str(key.epoch) / f"{key.seq}.png"

    def _keep(self, key: FrameKey, original: Path | None) -> bool:
        path = self.picture(key)
        if original is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            shutil.copyfile(original, part)
            os.replace(part, path)
        return path.exists()

    def _read(self, where: str, values: tuple[Any, ...] = ()) -> Iterator[Judged]:
        if not (self._store / FILE).exists():
            return
        try:
            with closing(self._open()) as db:
                for row in db.execute(f"SELECT {_COLUMNS} FROM judgements{where}", values).fetchall():
                    yield Judged(FrameKey(*row[:4]), *row[4:])
        except sqlite3.Error as error:
            raise SinkError(f"{self._store / FILE}: cannot be read ({error})") from error

    def _open(self) -> sqlite3.Connection:
        self._store.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(self._store / FILE, timeout=1.0)
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, SCHEMA_VERSION):
                raise sqlite3.DatabaseError(f"written by a newer version: schema {version}, this is {SCHEMA_VERSION}")
            db.executescript(f"PRAGMA journal_mode=WAL; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION};")
        except sqlite3.Error:
            db.close()
            raise
        return db


def _key(key: FrameKey) -> tuple[str, str, int, int]:
    return key.line, key.camera, key.epoch, key.seq


# ---- as a dataset ----------------------------------------------------------------------------------------------------


def folder_of(judged: Judged) -> str:
    """Return the folder of an exported picture; train/good is what `recalibrate` learns from.

    A good part that the line could not decide on is not learned from: its picture was dark, blurred or incomplete.
    """
    if judged.judgement in (Judgement.TRUE_DEFECT, Judgement.MISSED_DEFECT):
        return f"test/{judged.judgement}"
    learned = judged.verdict == Verdict.PASS or judged.reason == Reason.ANOMALY.name
    return "train/good" if learned else "test/undecided"


def export(judgements: Judgements, out: Path) -> dict[str, int]:
    """Write judged pictures below the empty folder `out`, and judgements.csv; returns pictures by folder.

    Raises:
        SinkError: `out` holds something, or cannot be written.
    """
    found = judgements.newest()
    try:
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            raise SinkError(f"{out}: is not empty, so nothing was written; give a new folder")
        return _write(judgements, found, out)
    except OSError as error:
        raise SinkError(f"{out}: cannot be written ({error}); give another folder") from error


def _write(judgements: Judgements, found: Iterable[Judged], out: Path) -> dict[str, int]:
    counts: dict[str, int] = {}
    with (out / "judgements.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", *_COLUMNS.split(", ")])
        for judged in found:
            source, name = judgements.picture(judged.key), ""
            if source.exists():
                folder = folder_of(judged)
                name = f"{folder}/{judged.key.camera}-{judged.key.epoch}-{judged.key.seq}.png"
                (out / folder).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, out / name)
                counts[folder] = counts.get(folder, 0) + 1
            else:
                counts["without a picture"] = counts.get("without a picture", 0) + 1
            table.writerow([name, *_key(judged.key), *judged[1:]])
    return counts
