"""A recording in parts: each a whole one, nothing lost between them, the oldest dropped beyond the quota."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from line_worker.config import parse
from line_worker.errors import ConfigError, RecordingError
from line_worker.sink import make_sink
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordedFrame, RecordingMeta, Trigger, read_recording
from line_worker.wire.recording_parts import Limits, RecordingParts, finished_parts

START = 1_700_000_000
SIDE = 100


def write(path: Path, limits: Limits, count: int, start: int = START) -> None:
    """Write a part a second, each a picture of 10 kB; its outcome comes half a second later."""
    begun(path, limits, count, start).close()


def write_and_die(path: Path, limits: Limits, count: int, start: int) -> None:
    """Write likewise, and leave what a writer leaves that is killed."""
    begun(path, limits, count, start).abandon()


def begun(path: Path, limits: Limits, count: int, start: int) -> RecordingParts:
    parts = RecordingParts(path, RecordingMeta("l", start, 0.002), limits)
    for seq in range(count):
        picture = np.random.default_rng(seq).integers(0, 256, (SIDE, SIDE), np.uint8)
        key, at_ns = FrameKey("l", "cam", start, seq), (start + seq) * 10**9
        fields = (picture.shape, "uint8", "gray", checksum(picture), "inline")
        parts.frame(Trigger(Frame(key, 1.5, 100.0, *fields)), picture, at_ns, at_ns)
        evidence = (0.5, 1.0, (), "b" * 64, "w", 1, "", 0)
        parts.outcome(Outcome(seq + 1, key, "PASS", 0, *evidence, 1.0, 1.0, start + seq + 0.5, {}), at_ns + 5 * 10**8)
        parts.flush()
    return parts


def seqs(path: Path) -> tuple[list[int], list[int]]:
    recording = read_recording(path)
    items = list(recording)
    assert recording.problems == []
    frames = [item.frame.key.seq for item in items if isinstance(item, RecordedFrame) and item.pixels is not None]
    return frames, [item.key.seq for item in items if isinstance(item, Outcome)]


@pytest.mark.parametrize("limits", [Limits(part_s=4), Limits(part_bytes=4 * SIDE * SIDE)])
def test_parts_are_whole_and_nothing_is_lost_between_them(tmp_path, limits):
    write(tmp_path / "shift.mcap", limits, 10)
    parts = list(finished_parts(tmp_path / "shift.mcap"))
    assert len(parts) == 3
    assert parts[0].name == "shift-20231114T221320.000Z.mcap"
    assert [seqs(part) for part in parts] == [([0, 1, 2, 3],) * 2, ([4, 5, 6, 7],) * 2, ([8, 9],) * 2]
    assert sorted(tmp_path.iterdir()) == parts
    assert read_recording(parts[1]).meta.created == START + 4


def test_the_oldest_are_dropped_beyond_the_quota(tmp_path):
    other = tmp_path / "shift-notes.mcap"
    other.touch()
    part = 4 * SIDE * SIDE
    write(tmp_path / "shift.mcap", Limits(part_bytes=part, quota_bytes=3.5 * part), 40)
    parts = list(finished_parts(tmp_path / "shift.mcap"))
    assert seqs(parts[-1])[0][-1] == 39
    assert sum(path.stat().st_size for path in parts) <= 3.5 * part
    assert len(parts) == 2  # and there is room for one that is being written
    assert other.exists()
    write(tmp_path / "shift.mcap", Limits(part_bytes=part, quota_bytes=3.5 * part), 40, START + 1000)  # another run
    again = list(finished_parts(tmp_path / "shift.mcap"))
    assert not set(again) & set(parts)


def test_what_killed_writers_left_counts_and_is_dropped(tmp_path):
    part, path = 4 * SIDE * SIDE, tmp_path / "shift.mcap"
    others = [tmp_path / name for name in ("notes.mcap.part", "shift.mcap.part", "shift-20231114T221320.000Z.mcap.txt")]
    for other in others:
        other.write_bytes(bytes(part))
    for run in range(6):  # each is killed when its part is full
        write_and_die(path, Limits(part_bytes=part, quota_bytes=2.5 * part), 4, START + 100 * run)
    left = [file for file in tmp_path.iterdir() if file not in others]
    assert sum(file.stat().st_size for file in left) <= 2.5 * part
    assert all(other.exists() for other in others)
    write(path, Limits(part_bytes=part, quota_bytes=2.5 * part), 40, START + 1000)
    assert not set(tmp_path.iterdir()) & set(left)


def test_a_part_that_another_process_writes_is_not_dropped(tmp_path):
    part, path = 4 * SIDE * SIDE, tmp_path / "shift.mcap"
    living = RecordingParts(path, RecordingMeta("l", START - 100, 0.002), Limits(part_bytes=part))
    write(path, Limits(part_bytes=part, quota_bytes=2 * part), 40)
    living.close()
    assert next(finished_parts(path)).name == "shift-20231114T221140.000Z.mcap"


def test_what_is_no_part_or_has_gone_does_not_stop_the_recording(tmp_path, monkeypatch):
    part, path = 4 * SIDE * SIDE, tmp_path / "shift.mcap"
    (tmp_path / "shift-20200101T000000.000Z.mcap").mkdir()
    gone = tmp_path / "shift-20200101T000000.001Z.mcap.part"
    listed = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda folder: [*listed(folder), gone])
    write(path, Limits(part_bytes=part, quota_bytes=2 * part), 40)
    assert seqs(list(finished_parts(path))[-1])[0][-1] == 39


def test_a_folder_that_lets_nothing_be_dropped_is_an_error_in_words(tmp_path, monkeypatch):
    part, path = 4 * SIDE * SIDE, tmp_path / "shift.mcap"
    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(RecordingError, match=f"{tmp_path}: cannot be written .Operation not permitted"):
        write(path, Limits(part_bytes=part, quota_bytes=2 * part), 40)


def refused(*path, **options):
    raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def test_the_sink_takes_its_limits_from_the_configuration(tmp_path):
    settings = {"kind": "record", "path": str(tmp_path / "r.mcap"), "part_minutes": 1}
    sink = make_sink(config(settings).sinks[0], config(settings))
    sink.open()
    sink.close()
    assert len(list(finished_parts(tmp_path / "r.mcap"))) == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quota_mb": 10}, "set part_mb"),
        ({"quota_mb": 10, "part_mb": 6}, "twice part_mb"),
        ({"part_mb": -1}, "part_mb"),
    ],
)
def test_limits_that_make_no_sense_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        config({"kind": "record", "path": "r.mcap", **settings})


def config(sink):
    camera = {"name": "cam", "deadline_ms": 100, "source": {"kind": "synthetic"}}
    line = {"name": "l", "runtime": "r", "data": "d"}
    return parse({"line": line, "cameras": [camera], "workers": {"bundle": "stub"}, "sinks": [sink]})
