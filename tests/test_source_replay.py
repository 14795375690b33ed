"""Frames out of a recording: order, pace, and what the recording lacks."""

from pathlib import Path

import numpy as np
import pytest

from line_worker.config import ReplaySource
from line_worker.errors import SourceError
from line_worker.source import Captured
from line_worker.source.replay import ReplayFrames
from line_worker.verdicts import Reason
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey
from line_worker.wire.recording import RecordingMeta, Trigger
from line_worker.wire.recording_writer import RecordingWriter


def _frame(camera: str, seq: int, epoch: int = 1, problem: Reason = Reason.NONE) -> tuple[Frame, np.ndarray | None]:
    picture = np.full((8, 8), seq, np.uint8)
    key = FrameKey("l", camera, epoch, seq)
    if problem:
        return Frame(key, 0.0, 100.0, (), "", "", 0, "none", problem=int(problem), part_id=f"p{seq}"), None
    fields = (picture.shape, "uint8", "gray", checksum(picture), "inline")
    return Frame(key, 0.0, 100.0, *fields, part_id=f"p{seq}"), picture


def _recording(path: Path, *frames: tuple[Frame, np.ndarray | None], missing: tuple[int, ...] = ()) -> Path:
    writer = RecordingWriter(path, RecordingMeta("l", 0.0, 1e-3))
    for number, (frame, picture) in enumerate(frames):
        lost = frame.key.seq in missing
        moment = number * 30_000_000
        writer.frame(Trigger(frame, "too slow" if lost else ""), None if lost else picture, moment, moment)
    writer.close()
    return path


def _read(path: Path, rate: str | float = "max", camera: str = "cam") -> list[Captured]:
    source = ReplayFrames(ReplaySource.model_validate({"kind": "replay", "path": path, "rate": rate}), camera)
    source.open()
    found: list[Captured] = []
    while not source.finished:
        found += [c for c in [source.read(0.1)] if c is not None]
    source.close()
    return found


def test_only_this_cameras_frames_come_in_order_with_their_old_numbers(tmp_path: Path) -> None:
    path = _recording(tmp_path / "r.mcap", *(_frame(camera, seq) for seq in range(4) for camera in ("cam", "other")))
    found = _read(path)
    assert [(c.trigger, c.part_id) for c in found] == [(seq, f"p{seq}") for seq in range(4)]
    assert [int(c.pixels[0, 0]) for c in found if c.pixels is not None] == [0, 1, 2, 3]


@pytest.mark.parametrize(("rate", "gap"), [("recorded", 0.03), (200.0, 0.005)])
def test_the_pace(tmp_path: Path, rate: str | float, gap: float) -> None:
    path = _recording(tmp_path / "r.mcap", *(_frame("cam", seq) for seq in range(5)))
    assert np.diff([c.at for c in _read(path, rate)]) == pytest.approx(gap, abs=1e-4)


def test_only_as_fast_as_possible_is_patient(tmp_path: Path) -> None:
    rates = ("recorded", 50.0, "max")
    sources = [ReplayFrames(ReplaySource(kind="replay", path=tmp_path, rate=rate), "cam") for rate in rates]
    assert [source.patient for source in sources] == [False, False, True]


def test_what_is_missing_is_skipped_and_what_never_had_a_picture_comes_again(tmp_path: Path) -> None:
    frames = [_frame("cam", 0), _frame("cam", 1, problem=Reason.DECODE), _frame("cam", 2), _frame("cam", 3)]
    frames.append(_frame("cam", 4, problem=Reason.OVERLOAD))
    found = _read(_recording(tmp_path / "r.mcap", *frames, missing=(2,)))
    assert [(c.trigger, c.problem, c.pixels is None) for c in found] == [
        (0, Reason.NONE, False),
        (1, Reason.DECODE, True),
        (3, Reason.NONE, False),
    ]


def test_a_frame_recorded_twice_is_replayed_once_and_epochs_are_kept_apart(tmp_path: Path) -> None:
    frames = [_frame("cam", 0), _frame("cam", 1), _frame("cam", 1), _frame("cam", 0, epoch=2)]
    assert [c.trigger for c in _read(_recording(tmp_path / "r.mcap", *frames))] == [0, 1, 0]


def test_a_cut_recording_is_replayed_as_far_as_it_goes(tmp_path: Path) -> None:
    path = _recording(tmp_path / "r.mcap", *(_frame("cam", seq) for seq in range(3)))
    writer = RecordingWriter(tmp_path / "s.mcap", RecordingMeta("l", 0.0, 1e-3))
    for seq in range(3):
        writer.frame(Trigger(_frame("cam", seq)[0]), _frame("cam", seq)[1], 0, 0)
    writer.flush()
    writer.abandon()
    assert [c.trigger for c in _read(tmp_path / "s.mcap.part")] == [c.trigger for c in _read(path)]


def test_a_camera_that_was_not_recorded_is_named(tmp_path: Path) -> None:
    path = _recording(tmp_path / "r.mcap", _frame("cam", 0))
    with pytest.raises(SourceError, match=r"r\.mcap: holds no frame of camera 'left'"):
        _read(path, camera="left")
