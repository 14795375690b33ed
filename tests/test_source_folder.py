"""Folders: order, unreadable images, and watching for finished files."""

import os
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.config import FolderSource
from line_worker.errors import SourceError
from line_worker.source import Captured
from line_worker.source.folder import FolderFrames, Settling
from line_worker.verdicts import Reason


def png(value: int) -> bytes:
    return bytes(cv2.imencode(".png", np.full((32, 32), value, np.uint8))[1])


def _source(path: Path, **settings: object) -> FolderFrames:
    return FolderFrames(FolderSource.model_validate({"kind": "folder", "path": path, "rate": 200, **settings}))


def _read(source: FolderFrames, count: int, within_s: float = 3.0) -> list[Captured]:
    until, found = time.monotonic() + within_s, []
    while len(found) < count and not source.finished and time.monotonic() < until:
        if (captured := source.read(0.02)) is not None:
            found.append(captured)
    return found


def test_images_come_in_the_order_of_their_names_and_only_images(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("c.png", "b.PNG", "a/z.png"):
        (tmp_path / name).write_bytes(png(1))
    (tmp_path / "notes.txt").write_text("no image")
    source = _source(tmp_path)
    source.open()
    found = _read(source, 9)
    source.close()
    assert [(c.part_id, c.trigger) for c in found] == [("a/z.png", 0), ("b.PNG", 1), ("c.png", 2)]


def test_a_name_that_is_not_utf_8_is_a_part_id_that_can_be_sent(tmp_path: Path) -> None:
    for name, data in ((b"teil_\xe4.png", png(1)), (b"teil_\xe5.png", b"no image")):
        (tmp_path / os.fsdecode(name)).write_bytes(data)
    source = _source(tmp_path)
    source.open()
    found = _read(source, 2)
    source.close()
    assert [(c.part_id.encode(), c.problem) for c in found] == [
        ("teil_\ufffd.png".encode(), Reason.NONE),
        ("teil_\ufffd.png".encode(), Reason.DECODE),
    ]


def test_an_unreadable_image_is_a_trigger_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1)[:60])
    (tmp_path / "b.png").write_bytes(png(2))
    (tmp_path / "c.jpg").write_bytes(b"")
    source = _source(tmp_path)
    source.open()
    found = _read(source, 9)
    source.close()
    assert [(c.part_id, c.problem, c.pixels is None) for c in found] == [
        ("a.png", Reason.DECODE, True),
        ("b.png", Reason.NONE, False),
        ("c.jpg", Reason.DECODE, True),
    ]


def test_an_image_that_disappears_before_its_turn_is_counted(tmp_path: Path) -> None:
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    source = _source(tmp_path, rate=20)
    source.open()
    found = _read(source, 1)
    (tmp_path / "3.png").unlink()
    found += _read(source, 9)
    source.close()
    assert [c.problem for c in found] == [Reason.NONE, Reason.NONE, Reason.NONE, Reason.DECODE]


def test_looped_images_keep_their_names_and_count_on(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    source = _source(tmp_path, loop=True)
    source.open()
    found = _read(source, 5)
    source.close()
    assert [(c.part_id, c.trigger) for c in found] == [(f"{i % 2}.png", i) for i in range(5)]


# ---- watching --------------------------------------------------------------------------------------------------------


def test_watching_takes_new_files_once_and_leaves_old_ones_alone(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(png(1))
    source = _source(tmp_path, watch=True, settle_ms=30)
    source.open()
    assert _read(source, 1, within_s=0.2) == []
    (tmp_path / "new.png").write_bytes(png(2))
    assert [c.part_id for c in _read(source, 2, within_s=0.5)] == ["new.png"]
    source.close()
    source.open()
    assert _read(source, 1, within_s=0.3) == [], "opening again does not give a file a second time"
    source.close()


def test_files_that_came_while_the_source_was_closed_are_taken(tmp_path: Path) -> None:
    source = _source(tmp_path, watch=True, settle_ms=30)
    source.open()
    source.close()
    (tmp_path / "meanwhile.png").write_bytes(png(2))
    source.open()
    assert [c.part_id for c in _read(source, 1)] == ["meanwhile.png"]
    source.close()


def test_a_file_is_taken_when_it_has_stopped_growing(tmp_path: Path) -> None:
    data, source = png(7), _source(tmp_path, watch=True, settle_ms=150)
    source.open()
    done = []

    def write_slowly() -> None:
        with (tmp_path / "slow.png").open("wb") as file:
            for byte in data:
                file.write(bytes([byte]))
                file.flush()
                time.sleep(0.004)
        done.append(time.monotonic())

    writer = threading.Thread(target=write_slowly)
    writer.start()
    (captured,) = _read(source, 1)
    writer.join()
    source.close()
    assert captured.pixels is not None
    assert captured.pixels[0, 0] == 7
    assert abs(captured.at - done[0]) < 0.12, "its moment is when it was finished, not when that was certain"


def test_a_file_that_is_renamed_into_place_is_taken_under_its_last_name(tmp_path: Path) -> None:
    source = _source(tmp_path, watch=True, settle_ms=60)
    source.open()
    (tmp_path / "x.png.tmp").write_bytes(png(3))
    (tmp_path / "x.png.tmp").rename(tmp_path / "x.png")
    (tmp_path / "y.png").write_bytes(png(4))
    time.sleep(0.01)
    (tmp_path / "y.png").rename(tmp_path / "z.png")
    found = _read(source, 3, within_s=0.6)
    source.close()
    assert sorted(c.part_id for c in found) == ["x.png", "z.png"]


def test_a_watched_folder_that_goes_away_is_an_error_and_can_come_back(tmp_path: Path) -> None:
    folder = tmp_path / "share"
    folder.mkdir()
    source = _source(folder, watch=True, settle_ms=20)
    source.open()
    folder.rmdir()
    with pytest.raises(SourceError, match=r"share: cannot be listed.*check that the folder exists"):
        _read(source, 1)
    source.close()
    folder.mkdir()
    source.open()
    (folder / "a.png").write_bytes(png(1))
    assert len(_read(source, 1)) == 1
    source.close()


Listing = dict[str, tuple[int, int]]


@given(st.lists(st.dictionaries(st.sampled_from("abc"), st.integers(1, 3).map(lambda n: (n, n))), max_size=20))
def test_settling_names_a_file_once_for_as_long_as_it_exists(listings: list[Listing]) -> None:
    settling, told = Settling(0.2), set[str]()
    history: list[Listing] = []
    for step, listing in enumerate(listings):
        now = step * 0.1
        told &= listing.keys()
        history.append(listing)
        for at, name in settling.update(listing, now):
            assert name in listing
            assert name not in told
            assert [seen.get(name) for seen in history[-3:]] == [listing[name]] * 3, "unchanged for 0.2 s"
            assert at <= now - 0.2 + 1e-9
            told.add(name)
