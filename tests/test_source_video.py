"""Videos: real files, whole and cut."""

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from line_worker.config import VideoSource
from line_worker.source import Captured
from line_worker.source.video import VideoFrames
from line_worker.verdicts import Reason


def write_video(path: Path, count: int, rate: float = 50.0, codec: str = "MJPG") -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, (64, 48))
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = rng.integers(0, 60, (48, 64, 3), np.uint8)
        picture[:, :32] = i * 8
        writer.write(picture)
    writer.release()
    return path


def _read(path: Path, **settings: object) -> list[Captured]:
    source = VideoFrames(VideoSource.model_validate({"kind": "video", "path": path, "rate": 500, **settings}))
    source.open()
    found = []
    while not source.finished and len(found) < 100:
        if (captured := source.read(0.05)) is not None:
            found.append(captured)
    source.close()
    return found


@pytest.mark.parametrize(("name", "codec"), [("v.avi", "MJPG"), ("v.mp4", "mp4v")])
def test_frames_come_in_order_with_their_number(tmp_path: Path, name: str, codec: str) -> None:
    found = _read(write_video(tmp_path / name, 20, codec=codec))
    assert [c.part_id for c in found] == [f"{name}:{i}" for i in range(20)]
    levels = [float(c.pixels[4:44, 4:28].mean()) for c in found if c.pixels is not None]
    assert levels == pytest.approx([i * 8 for i in range(20)], abs=5)


def test_without_a_rate_the_file_sets_the_pace(tmp_path: Path) -> None:
    found = _read(write_video(tmp_path / "v.avi", 6, rate=40.0), rate=None)
    assert np.diff([c.at for c in found]) == pytest.approx(0.025, abs=1e-6)


def test_a_cut_file_gives_what_it_holds_and_says_what_is_missing(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", 20)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    *whole, last = _read(path)
    assert 5 < len(whole) < 15
    assert all(c.pixels is not None for c in whole)
    assert (last.pixels, last.problem) == (None, Reason.NO_FRAME)
    assert last.part_id == f"v.avi:{len(whole)}-19"


def test_a_looped_video_goes_on_without_a_jump_in_time(tmp_path: Path) -> None:
    path = write_video(tmp_path / "v.avi", 3)
    source = VideoFrames(VideoSource.model_validate({"kind": "video", "path": path, "rate": 100, "loop": True}))
    source.open()
    found: list[Captured] = []
    until = time.monotonic() + 5
    while len(found) < 8 and time.monotonic() < until:
        found += [c for c in [source.read(0.05)] if c is not None]
    source.close()
    assert [c.trigger for c in found] == [0, 1, 2, 0, 1, 2, 0, 1]
    assert np.diff([c.at for c in found]) == pytest.approx(0.01, abs=1e-6)
