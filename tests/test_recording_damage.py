"""Damaged recordings: they give what they hold, never a wrong picture, and say what they lost."""

import functools
import inspect
import itertools
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from line_worker.errors import RecordingError
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordedFrame, Recording, RecordingMeta, Trigger, read_recording
from line_worker.wire.recording_writer import CHUNK_BYTES, RecordingWriter

COUNT = 12
SIDE = 300  # three such pictures share a chunk


SHARE = st.floats(0, 1, exclude_max=True)  # of the file's length


@functools.cache
def picture(seq: int) -> np.ndarray:
    return np.random.default_rng(seq).integers(0, 256, (SIDE, SIDE), np.uint8)


def fill(writer: RecordingWriter, count: int = COUNT) -> None:
    for seq in range(count):
        key = FrameKey("l", "cam", 1, seq)
        fields = (picture(seq).shape, "uint8", "gray", checksum(picture(seq)), "inline")
        writer.frame(Trigger(Frame(key, 0.0, 100.0, *fields)), picture(seq), seq, seq)
        outcome = Outcome(seq, key, "PASS", 0, 0.5, 1.0, (), "b", "w", 1, "", 0, 1.0, 1.0, 0.0, {})
        writer.outcome(outcome, seq)


@functools.cache
def recorded(finished: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        writer = RecordingWriter(Path(folder, "r.mcap"), RecordingMeta("l", 0.0, 0.0))
        fill(writer)
        writer.flush()
        if not finished:
            writer.abandon()
            return writer.part.read_bytes()
        writer.close()
        return writer.path.read_bytes()


def read(data: bytes) -> tuple[Recording, list[int], list[int]]:
    """Return the recording, the frames that have their picture (each checked) and the outcomes."""
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        recording = read_recording(Path(file.name))
        frames, outcomes = [], []
        for item in recording:
            if not isinstance(item, RecordedFrame):
                outcomes.append(item.key.seq)
            elif item.pixels is not None:
                assert np.array_equal(item.pixels, picture(item.frame.key.seq)), "never a wrong picture"
                frames.append(item.frame.key.seq)
        return recording, frames, outcomes


@settings(deadline=None, max_examples=60)
@given(SHARE)
def test_a_cut_file_gives_everything_before_the_cut_and_says_so(share: float) -> None:
    cut = int(share * len(recorded(True)))
    data = recorded(True)[:cut]
    try:
        recording, frames, outcomes = read(data)
    except RecordingError:
        assert cut < 2000, "only a file without its description is refused"
        return
    assert not recording.finished
    assert recording.problems
    assert frames == list(range(len(frames)))
    per_chunk = CHUNK_BYTES // SIDE**2 + 1
    assert len(frames) >= cut // (SIDE**2 + 2000) - per_chunk
    assert abs(len(outcomes) - len(frames)) <= 1


@settings(deadline=None, max_examples=120)
@given(SHARE, st.integers(1, 255))
def test_a_flipped_byte_in_a_finished_file_loses_one_chunk_at_most(share: float, flip: int) -> None:
    data = bytearray(recorded(True))
    where = int(share * len(data))
    data[where] ^= flip
    try:
        recording, frames, outcomes = read(bytes(data))
    except RecordingError:
        assert where < 9, "only a file that does not begin as one is refused"
        return
    lost = COUNT - len(frames)
    assert lost <= CHUNK_BYTES // SIDE**2 + 1
    assert frames == sorted(frames)
    assert COUNT - len(outcomes) <= lost + 1
    if lost or not recording.finished:
        assert recording.problems


@settings(deadline=None, max_examples=60)
@given(SHARE, st.integers(1, 255))
def test_a_flipped_byte_in_a_cut_file_gives_no_wrong_picture_and_is_said(share: float, flip: int) -> None:
    data = bytearray(recorded(False))
    where = int(share * len(data))
    data[where] ^= flip
    try:
        recording, frames, _ = read(bytes(data))
    except RecordingError:
        assert where < 2000
        return
    assert recording.problems
    assert frames == sorted(frames)


def test_lost_messages_are_counted_by_topic() -> None:
    data = bytearray(recorded(True))
    data[len(data) // 2] ^= 1
    recording, frames, outcomes = read(bytes(data))
    text = "; ".join(recording.problems)
    assert "crc validation failed" in text
    assert f"{COUNT - len(frames)} message(s) of /cam/image are lost" in text
    assert f"{COUNT - len(outcomes)} message(s) of /outcomes are lost" in text


def test_a_damaged_description_is_replaced_by_its_copy_or_refused() -> None:
    for finished, refused in ((True, False), (False, True)):
        data = bytearray(recorded(finished))
        data[data.index(b'"tolerance"') + 14] ^= 1
        if refused:
            with pytest.raises(RecordingError, match="description is damaged"):
                read(bytes(data))
        else:
            assert read(bytes(data))[0].meta == RecordingMeta("l", 0.0, 0.0)


PRELUDE = f"""
import resource, sys
import numpy as np
from pathlib import Path
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordingMeta, Trigger
from line_worker.wire.recording_writer import RecordingWriter
COUNT, SIDE = {COUNT}, {SIDE}
{inspect.getsource(picture)}
{inspect.getsource(fill)}
writer = RecordingWriter(Path(sys.argv[1]), RecordingMeta("l", 0.0, 0.0))
""".replace("@functools.cache", "")


def test_a_killed_writer_loses_nothing_that_was_flushed(tmp_path: Path) -> None:
    path = tmp_path / "r.mcap"
    code = PRELUDE + "fill(writer); writer.flush(); print('flushed', flush=True)\nwhile True: fill(writer)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"flushed\n"
        os.kill(process.pid, signal.SIGKILL)
    _, frames, outcomes = read(path.with_name("r.mcap.part").read_bytes())
    assert frames[:COUNT] == outcomes[:COUNT] == list(range(COUNT))


def test_a_full_disk_is_an_error_and_what_was_written_stays_readable(tmp_path: Path) -> None:
    code = PRELUDE + "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\nfill(writer)"
    path = tmp_path / "r.mcap"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert "RecordingError" in done.stderr
    assert "cannot be written (File too large); nothing more is recorded" in done.stderr
    _, frames, _ = read(path.with_name("r.mcap.part").read_bytes())
    assert frames == list(itertools.takewhile(lambda seq: seq < len(frames), range(COUNT)))
    assert len(frames) >= 3
