"""The recorder as a sink: real shared memory, a real disk limit, and nothing that blocks."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from line_worker.config import Config, parse
from line_worker.errors import SinkError
from line_worker.sink import make_sink
from line_worker.sink.record import Recorder
from line_worker.verdicts import Reason
from line_worker.wire import recording_writer
from line_worker.wire.evidence import View
from line_worker.wire.frames import FrameRing, checksum
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordedFrame, Recording, read_recording

SIDE = 200
ENDED = "its writer has ended unexpectedly; nothing more is recorded; stderr says why"


def picture(seq: int) -> np.ndarray:
    return np.random.default_rng(seq).integers(0, 256, (SIDE, SIDE), np.uint8)


def header(seq: int, **place: object) -> Frame:
    fields = (picture(seq).shape, "uint8", "gray", checksum(picture(seq)))
    return Frame(FrameKey("l", "cam", 1, seq), 5.0, 100.0, *fields, **{"place": "inline", **place})  # type: ignore[arg-type]


def outcome(seq: int) -> Outcome:
    key = FrameKey("l", "cam", 1, seq)
    return Outcome(seq, key, "PASS", 0, 0.5, 1.0, (), "b", "w", 1, "", 0, 1.0, 1.0, 0.0, {})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    camera = {"name": "cam", "deadline_ms": 100, "source": {"kind": "camera", "device": "rtsp://me:s3cret@host/x"}}
    return parse(
        {
            "line": {"name": "l", "runtime": str(tmp_path / "run"), "data": str(tmp_path)},
            "cameras": [camera],
            "workers": {"bundle": "stub"},
            "sinks": [{"kind": "record", "path": str(tmp_path / "r.mcap"), "tolerance": 0.01}],
        }
    )


@pytest.fixture
def recorder(config: Config) -> Iterator[Recorder]:
    sink = make_sink(config.sinks[0], config)
    assert isinstance(sink, Recorder)
    yield sink
    sink.close()


@pytest.fixture
def ring() -> Iterator[FrameRing]:
    ring = FrameRing(f"line-worker-test-{os.getpid()}", 2, SIDE * SIDE)
    yield ring
    ring.close()


def _in_ring(ring: FrameRing, seq: int) -> Frame:
    slot = ring.put(picture(seq))
    assert slot is not None
    ring.free(slot)
    return header(seq, place="ring", ring=ring.ring, offset=slot.offset, generation=slot.generation)


def _read(path: Path) -> tuple[Recording, list[RecordedFrame], list[Outcome]]:
    recording = read_recording(path)
    items = list(recording)
    frames = [item for item in items if isinstance(item, RecordedFrame)]
    return recording, frames, [item for item in items if isinstance(item, Outcome)]


def test_frames_from_the_ring_and_inline_and_outcomes_are_recorded(
    recorder: Recorder, ring: FrameRing, tmp_path: Path
) -> None:
    recorder.open()
    before = time.time()
    for seq in range(0, 20, 2):
        recorder.tap(_in_ring(ring, seq), b"")
        recorder.tap(header(seq + 1), picture(seq + 1).tobytes())
        assert recorder.deliver(outcome(seq), time.monotonic())
    assert recorder.reachable() == (True, "")
    recorder.close()
    recording, frames, outcomes = _read(tmp_path / "r.mcap")
    assert recording.problems == []
    assert recording.meta.tolerance == 0.01
    assert [f.frame.key.seq for f in frames] == list(range(20))
    assert all(f.pixels is not None and np.array_equal(f.pixels, picture(f.frame.key.seq)) for f in frames)
    assert all(before - 0.1 < f.at + 0.005 < time.time() + 0.1 for f in frames), "age is taken off"
    assert outcomes == [outcome(seq) for seq in range(0, 20, 2)]


def test_pictures_are_compressed_where_that_is_asked_for(config: Config, tmp_path: Path) -> None:
    sink = config.sinks[0].model_copy(update={"compression": "png", "part_mb": 0.03})
    recorder = make_sink(sink, config)
    recorder.open()
    flat = np.full((SIDE, SIDE), 7, np.uint8)
    for seq in range(3):
        recorder.tap(dataclasses.replace(header(seq), checksum=checksum(flat)), flat.tobytes())
    recorder.close()
    [path] = tmp_path.glob("r-*.mcap")
    recording, frames, _ = _read(path)
    assert (recording.problems, recording.compression) == ([], "png")
    assert all(np.array_equal(frame.pixels, flat) for frame in frames)
    assert path.stat().st_size < SIDE * SIDE


def test_the_configuration_is_recorded_without_its_secrets(recorder: Recorder, tmp_path: Path) -> None:
    recorder.open()
    recorder.close()
    config = json.loads(read_recording(tmp_path / "r.mcap").meta.config)
    assert config["cameras"][0]["source"]["device"] == "rtsp://host/x"
    assert b"s3cret" not in (tmp_path / "r.mcap").read_bytes()


def test_a_picture_that_was_overwritten_is_missing_with_its_key(
    recorder: Recorder, ring: FrameRing, tmp_path: Path
) -> None:
    recorder.open()
    late = _in_ring(ring, 0)
    recorder.tap(_in_ring(ring, 1), b"")
    recorder.tap(_in_ring(ring, 2), b"")  # two slots: the third picture lies where the first one was
    recorder.tap(late, b"")
    assert recorder.reachable() == (True, "1 picture(s) missing")
    recorder.close()
    _, frames, _ = _read(tmp_path / "r.mcap")
    lost = {f.frame.key.seq: f.missing for f in frames if f.missing}
    assert list(lost) == [0]
    assert lost[0] == "its slot has been overwritten", "the same words for every frame, to be counted"
    assert recorder.missing == 1


def test_a_frame_that_never_had_a_picture_is_not_missing(recorder: Recorder, tmp_path: Path) -> None:
    recorder.open()
    key = FrameKey("l", "cam", 1, 0)
    recorder.tap(Frame(key, 0.0, 1.0, (), "", "", 0, "none", problem=int(Reason.DECODE), part_id="a.png"), b"")
    recorder.close()
    _, (frame,), _ = _read(tmp_path / "r.mcap")
    assert (frame.missing, frame.pixels, frame.frame.problem, frame.frame.part_id) == ("", None, 36, "a.png")
    assert recorder.missing == 0


def test_what_comes_twice_is_recorded_once(recorder: Recorder, tmp_path: Path) -> None:
    recorder.open()
    for _ in range(2):
        recorder.tap(header(0), picture(0).tobytes())
        recorder.deliver(outcome(0), 0.0)
    recorder.tap(header(1), b"short")
    recorder.tap(header(1), picture(1).tobytes())
    recorder.close()
    _, frames, outcomes = _read(tmp_path / "r.mcap")
    assert [(f.frame.key.seq, bool(f.missing)) for f in frames] == [(0, False), (1, True), (1, False)]
    assert len(outcomes) == 1


def test_a_queue_that_is_full_costs_pictures_and_no_time(config: Config, tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "r.mcap", config, 0.0, queue_bytes=3 * SIDE * SIDE)
    recorder.open()
    recorder.tap(header(0), b"")
    assert recorder._thread is not None
    waiting = recorder._thread.waiting_bytes = 3 * SIDE * SIDE  # as if the disk held three pictures up
    begin = time.monotonic()
    for seq in range(1, 51):
        recorder.tap(header(seq), picture(seq).tobytes())
        recorder.deliver(outcome(seq), 0.0)
    assert time.monotonic() - begin < 0.5
    recorder._thread.waiting_bytes -= waiting
    recorder.tap(header(51), picture(51).tobytes())
    recorder.close()
    _, frames, outcomes = _read(tmp_path / "r.mcap")
    assert [f.missing for f in frames[1:]] == ["the disk does not keep up"] * 50 + [""]
    assert len(outcomes) == 50, "outcomes are small and always fit"


def test_what_came_before_the_recording_is_acknowledged_and_left_out(recorder: Recorder, tmp_path: Path) -> None:
    recorder.open()
    assert recorder.deliver(outcome(0), 0.0)
    recorder.tap(header(2), picture(2).tobytes())
    for seq in range(5):  # 0 and 1 came before; 3 and 4 are gaps or lost frames
        assert recorder.deliver(outcome(seq), 0.0)
    recorder.close()
    assert [o.key.seq for o in _read(tmp_path / "r.mcap")[2]] == [2, 3, 4]


def test_parts_of_several_cameras_are_recorded_with_their_views(tmp_path: Path) -> None:
    cameras = [{"name": name, "deadline_ms": 100, "source": {"kind": "synthetic"}} for name in ("cam", "side")]
    config = parse(
        {
            "line": {"name": "l", "runtime": str(tmp_path / "run"), "data": str(tmp_path)},
            "cameras": cameras,
            "parts": [{"name": "pairs", "cameras": ["cam", "side"]}],
            "workers": {"bundle": "stub"},
            "sinks": [{"kind": "record", "path": str(tmp_path / "r.mcap")}],
        }
    )
    recorder = make_sink(config.sinks[0], config)
    recorder.open()

    def pair(seq: int, *views: int) -> Outcome:
        seen = tuple(View(FrameKey("l", "cam", 1, view), "PASS", 0, 0.5, 1.0) for view in views)
        return dataclasses.replace(outcome(seq), key=FrameKey("l", "pairs", 9, seq), views=seen)

    recorder.deliver(pair(6), 0.0)  # owed from before the recording began, like the next
    recorder.deliver(pair(7, 1), 0.0)
    recorder.tap(header(2), picture(2).tobytes())
    recorder.deliver(outcome(2), 0.0)
    recorder.deliver(pair(8, 2), 0.0)
    recorder.deliver(pair(9), 0.0)  # nobody has seen it
    recorder.close()
    _, _, outcomes = _read(tmp_path / "r.mcap")
    assert [(one.key.camera, one.key.seq) for one in outcomes] == [("cam", 2), ("pairs", 8), ("pairs", 9)]


def test_an_existing_recording_is_not_touched(recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "r.mcap").write_bytes(b"precious")
    with pytest.raises(SinkError, match="is there already and is not overwritten"):
        recorder.open()
    with pytest.raises(SinkError):
        recorder.deliver(outcome(0), 0.0)
    assert recorder.reachable()[0] is False
    assert (tmp_path / "r.mcap").read_bytes() == b"precious"


def test_closing_is_always_allowed(recorder: Recorder, tmp_path: Path) -> None:
    recorder.close()
    recorder.tap(header(0), picture(0).tobytes())
    recorder.open()
    recorder.close()
    recorder.close()
    assert _read(tmp_path / "r.mcap")[1] == []


DISK_FULL = """
import resource, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_recorder import *
sink = Recorder(Path(sys.argv[2]), parse(json.loads(sys.argv[3])), 0.0)
sink.open()
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
for seq in range(10):
    sink.tap(header(seq), picture(seq).tobytes())
    sink.poll(time.monotonic() + 1)
    while sink.reachable()[0] and not sink._thread.tasks.empty():  # or all would be one chunk, which is cut
        time.sleep(0.001)
while sink.reachable()[0]:
    time.sleep(0.01)
print(sink.reachable()[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert sink.deliver(outcome(9), 0.0), "opens a new file"
sink.tap(header(11), picture(11).tobytes())
assert sink.deliver(outcome(11), 0.0)
assert sink.reachable()[0]
sink.close()
"""


def test_after_a_full_disk_recording_goes_on_in_a_new_file(config: Config, tmp_path: Path) -> None:
    raw = config.model_dump_json()
    arguments = [str(Path(__file__).parent), str(tmp_path / "r.mcap"), raw]
    done = subprocess.run([sys.executable, "-c", DISK_FULL, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "r.mcap: cannot be written (File too large)" in done.stdout
    cut, frames, _ = _read(tmp_path / "r.cut-1.mcap")
    assert [f.frame.key.seq for f in frames] == list(range(len(frames)))
    assert len(frames) >= 5
    assert any("was not closed" in problem for problem in cut.problems)
    whole, frames, outcomes = _read(tmp_path / "r.mcap")
    assert (whole.problems, [f.frame.key.seq for f in frames], len(outcomes)) == ([], [11], 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # it still says why on stderr
def test_a_writer_that_ends_for_whatever_reason_is_told_and_replaced(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.open()
    assert recorder._thread is not None
    monkeypatch.setattr(recorder._thread.writer, "frame", lambda *_: 1 / 0)
    recorder.tap(header(0), picture(0).tobytes())
    recorder._thread.join()
    assert recorder.reachable() == (False, f"{tmp_path / 'r.mcap'}: {ENDED}")
    assert "recording has stopped" in capsys.readouterr().out
    recorder.tap(header(1), picture(1).tobytes())
    assert recorder.deliver(outcome(1), 0.0)
    assert recorder.reachable() == (True, "")


def test_no_recording_is_begun_on_a_full_disk(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_writer, "MIN_FREE", 1 << 60)
    with pytest.raises(SinkError, match=r"only \d+ MB are free.*make room"):
        recorder.deliver(outcome(0), 0.0)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert recorder.deliver(outcome(0), 0.0)
    recorder.close()
    assert _read(tmp_path / "r.mcap")[0].problems == []


def test_a_header_is_recorded_without_its_address(recorder: Recorder, ring: FrameRing, tmp_path: Path) -> None:
    recorder.open()
    sent = _in_ring(ring, 0)
    recorder.tap(sent, b"")
    recorder.close()
    _, (frame,), _ = _read(tmp_path / "r.mcap")
    assert frame.frame == dataclasses.replace(sent, place="inline", ring="", offset=0, generation=0)


def test_missing_pictures_are_logged_in_sum_and_not_one_by_one(
    recorder: Recorder, capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.open()
    for seq in range(30):
        recorder.tap(header(seq), b"short")
        recorder.poll(10.0 + seq / 100)
    recorder.poll(11.1)
    recorder.poll(20.0)
    text = capsys.readouterr().out
    assert text.count("pictures are missing from the recording") == 2
    assert "count=1 " in text
    assert "count=29 " in text
