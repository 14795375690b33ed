"""The store: every field comes back, the first outcome stands, pictures obey a quota, full disks cost no outcome."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from line_worker.errors import SinkError
from line_worker.sink.store import CROPS_AGAIN_S, FILE, Store, read_outcomes
from line_worker.wire.messages import Crop, FrameKey, Outcome, Region

REGIONS = (
    Region(x=1, y=2, w=3, h=4, zone=(0, 7), error=0.5, neighbours=0.1, limit=3.0, sigma=9.0),
    Region(x=9, y=8, w=7, h=6, zone=(), error=0.1, neighbours=0.2, limit=3.0, sigma=4.0),
)


def key(seq: int, camera: str = "top") -> FrameKey:
    return FrameKey("line-1", camera, 2**62, seq)


def outcome(seq: int, *, reason: int = 0) -> Outcome:
    verdict = {0: "PASS", 1: "FAIL"}.get(reason, "NO_DECISION")
    evidence = (1.5, 2.0) if reason < 2 else (None, None)
    return Outcome(
        *(seq + 1, key(seq), verdict, reason, *evidence, REGIONS if reason == 1 else (), "ab" * 32, "worker-0", 1),
        *("Teil-ß", seq, 12.5, 80.0, 1.7e9 + seq, {"locate": 1.0, "score": 0.25}, 0.125 if reason < 2 else None),
    )


def crop(seq: int, size: int = 1000, *, camera: str = "top", name: str = "overlay") -> Crop:
    return Crop(key(seq, camera), name, bytes([seq % 256]) * size)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    sink = Store(tmp_path / "store", quota_bytes=10_000)
    sink.open()
    yield sink
    sink.close()


def test_outcomes_come_back_as_they_were(store: Store) -> None:
    sent = [outcome(0), outcome(1, reason=1), outcome(2, reason=30)]
    assert all(store.deliver(one, 0.0) for one in sent)
    assert list(read_outcomes(store.path)) == sent


def test_the_first_outcome_of_a_key_stands(store: Store) -> None:
    store.deliver(outcome(0, reason=1), 0.0)
    assert store.deliver(outcome(0), 0.0)
    assert [one.verdict for one in read_outcomes(store.path)] == ["FAIL"]
    assert store.duplicates == 1


def test_outcomes_survive_a_restart_and_are_not_doubled(tmp_path: Path) -> None:
    for run in (range(5), range(3, 8)):
        sink = Store(tmp_path, 0)
        sink.open()
        for seq in run:
            sink.deliver(outcome(seq), 0.0)
        sink.close()
    assert [one.key.seq for one in read_outcomes(tmp_path)] == list(range(8))


KILLED = """
import os, signal, sys
from pathlib import Path
from line_worker.sink.store import Store
from line_worker.wire.messages import FrameKey, Outcome
sink = Store(Path(sys.argv[1]), 0)
sink.open()
for seq in range(50):
    key = FrameKey("l", "top", 1, seq)
    sink.deliver(Outcome(seq, key, "PASS", 0, 1.0, 2.0, (), "", "w", 1, "", 0, 1.0, 1.0, float(seq), {}), 0.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_acknowledged_survives_a_sigkill(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], timeout=60, check=False)
    assert done.returncode == -9
    assert [one.key.seq for one in read_outcomes(tmp_path)] == list(range(50))


def test_once_a_second_everything_is_brought_to_the_disk(store: Store, tmp_path: Path) -> None:
    def on_disk() -> int:
        """Count what a power failure would leave: the database without its log."""
        shutil.copy(store.path / FILE, tmp_path / FILE)
        return sum(1 for _ in read_outcomes(tmp_path))

    counts = []
    for seq, now in enumerate((10.0, 10.5, 11.0)):
        store.deliver(outcome(seq), now)
        store.poll(now)
        counts.append(on_disk())
    assert counts == [1, 1, 3]


def test_it_keeps_up_with_200_outcomes_a_second(store: Store) -> None:
    start = time.monotonic()
    for seq in range(600):
        store.deliver(outcome(seq, reason=1), time.monotonic())
        store.poll(time.monotonic())
    assert time.monotonic() - start < 3.0


def test_pictures_lie_where_people_look(store: Store) -> None:
    store.crop(crop(3))
    store.crop(crop(3, name="crop-0"))
    folder = store.path / "crops" / "top" / str(2**62)
    assert sorted(path.name for path in folder.iterdir()) == ["3-crop-0.png", "3-overlay.png"]
    assert (folder / "3-overlay.png").read_bytes() == bytes([3]) * 1000


def test_the_oldest_pictures_go_first(store: Store) -> None:
    for seq in range(25):
        store.crop(crop(seq))
    left = {int(path.name.split("-")[0]) for path in store.path.rglob("*.png")}
    assert left == set(range(15, 25))
    assert (store.crops.bytes, store.crops.dropped) == (10_000, 15)


def test_folders_without_pictures_are_cleared_away(store: Store) -> None:
    store.crop(crop(0, camera="side"))
    for seq in range(10):
        store.crop(crop(seq))
    assert not (store.path / "crops" / "side" / str(2**62)).exists()


def test_a_picture_that_cannot_be_deleted_stops_new_ones(store: Store) -> None:
    for seq in range(10):
        store.crop(crop(seq))
    oldest = store.path / "crops" / "top" / str(2**62) / "0-overlay.png"
    oldest.unlink()
    oldest.mkdir()
    store.crop(crop(10))
    assert "cannot be deleted" in store.reachable()[1]
    assert len(store.crops) == 10


def test_the_quota_counts_what_earlier_runs_left(store: Store) -> None:
    for seq in range(10):
        store.crop(crop(seq))
        os.utime(store.path / "crops" / "top" / str(2**62) / f"{seq}-overlay.png", (1000 + seq, 1000 + seq))
    store.close()
    (store.path / "crops" / "top" / "torn.part").write_bytes(b"x")
    smaller = Store(store.path, quota_bytes=4_000)
    smaller.open()
    smaller.close()
    left = sorted(path.name for path in store.path.rglob("crops/**/*.p*"))
    assert left == [f"{seq}-overlay.png" for seq in (6, 7, 8, 9)]


def test_a_picture_sent_twice_counts_once(store: Store) -> None:
    store.crop(crop(1))
    store.crop(crop(1, size=50))
    assert (len(store.crops), store.crops.bytes) == (1, 1000)


@pytest.mark.parametrize(
    "odd", [crop(1, camera="../../etc"), crop(1, name="../x"), crop(1, name=""), crop(1, camera="."), crop(1, 10_001)]
)
def test_a_picture_with_a_bad_name_or_size_is_refused(store: Store, odd: Crop) -> None:
    store.crop(odd)
    assert store.crops_refused == 1
    assert not list(store.path.parent.rglob("*.png"))
    assert store.reachable() == (True, "")


def test_a_folder_that_takes_no_pictures_switches_them_off_for_a_while(store: Store) -> None:
    store.crop(crop(0))
    (store.path / "crops" / "side").touch()  # a file where a folder is needed
    store.poll(100.0)
    store.crop(crop(1, camera="side"))
    store.crop(crop(2))
    ok, why = store.reachable()
    assert ok
    assert "no pictures are kept" in why
    assert (store.crops_refused, len(store.crops)) == (2, 0)
    assert store.deliver(outcome(0), 100.0)
    store.poll(99.9 + CROPS_AGAIN_S)
    assert store.reachable()[1]
    store.poll(100.0 + CROPS_AGAIN_S)
    store.crop(crop(3))
    assert (store.reachable(), len(store.crops)) == ((True, ""), 1)


def limit_pages(store: Store, more: int) -> None:
    """Let the database grow by `more` pages and then answer as it does on a full disk."""
    assert store._db is not None
    (pages,) = store._db.execute("PRAGMA page_count").fetchone()
    store._db.execute(f"PRAGMA max_page_count = {pages + more}")


def deliver_all(store: Store, sent: list[int]) -> None:
    for seq in range(10_000):
        sent.append(seq)
        store.deliver(outcome(seq, reason=1), 0.0)


def test_a_full_database_gives_up_pictures_then_raises_and_takes_the_outcome_later(store: Store) -> None:
    store.crop(crop(0))
    limit_pages(store, 3)
    sent: list[int] = []
    with pytest.raises(SinkError, match=r"disk is full.*the hub keeps it"):
        deliver_all(store, sent)
    assert (len(store.crops), store.reachable()[1]) == (0, "no pictures are kept: the disk is full")
    store.crop(crop(1))
    assert store.crops_refused == 1
    limit_pages(store, 100)
    assert store.deliver(outcome(sent[-1], reason=1), 0.0)
    assert [one.key.seq for one in read_outcomes(store.path)] == sent


FULL_DISK = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from line_worker.errors import SinkError
from line_worker.sink.store import Store, read_outcomes
from line_worker.wire.messages import Crop, FrameKey, Outcome
root = Path(sys.argv[1])
sink = Store(root / "store", 800_000)
sink.open()
for seq in range(8):
    sink.crop(Crop(FrameKey("l", "top", 1, seq), "overlay", os.urandom(100_000)))
try:
    for seq in range(100_000):
        key = FrameKey("l", "top", 1, seq)
        sink.deliver(Outcome(seq, key, "PASS", 0, 1.0, 2.0, (), "", "w", 1, "", 0, 1.0, 1.0, float(seq), {}), 0.0)
except SinkError as error:
    assert "disk is full" in str(error), error
sink.close()
print(len(sink.crops), seq - sum(1 for _ in read_outcomes(root / "store")))
"""


def test_a_really_full_disk_costs_pictures_and_no_acknowledged_outcome(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("unshare may not mount a small disk here; as root: pytest tests/test_store.py")
    root = Path(__file__).resolve().parents[1]
    command = f'{mount} && exec "$0" -c "$1" {tmp_path} {root}'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command, sys.executable, FULL_DISK],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["0 0"], done.stderr


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database " * 100)
    with pytest.raises(SinkError, match=r"cannot be opened.*not a database"):
        Store(tmp_path, 0).open()
    assert (tmp_path / FILE).read_bytes().startswith(b"not a database")


def test_a_store_of_another_version_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("PRAGMA user_version=9")
    db.close()
    with pytest.raises(SinkError, match="schema 9, this one is 3"):
        Store(tmp_path, 0).open()


def test_a_store_of_the_first_schema_is_read_as_it_is_and_grows(tmp_path: Path) -> None:
    sink = Store(tmp_path, 0)
    sink.open()
    sink.deliver(outcome(0), 0.0)
    sink.close()
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:  # as it was before p-values
        db.execute("ALTER TABLE outcomes DROP COLUMN p_value")
        db.execute("ALTER TABLE outcomes DROP COLUMN views")
        db.execute("PRAGMA user_version=1")
    old = dataclasses.replace(outcome(0), p_value=None)
    assert list(read_outcomes(tmp_path)) == [old]
    sink.open()
    sink.deliver(outcome(1), 0.0)
    sink.close()
    assert list(read_outcomes(tmp_path)) == [old, outcome(1)]


def test_reading_a_store_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="give the folder of a store"):
        list(read_outcomes(tmp_path))
