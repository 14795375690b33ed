"""Record a real line while it runs, then replay the recording through the real hub and worker."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from line_worker.comparing import survey
from line_worker.config import Config, parse
from line_worker.errors import BundleError, ConfigError, RecordingError
from line_worker.images import save_png
from line_worker.rehearsal import Rehearsal
from line_worker.replaying import line_of, replay
from line_worker.serving import with_recorder
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordedFrame, RecordingMeta, Trigger, read_recording
from line_worker.wire.recording_writer import RecordingWriter

PARTS = 12


def line(folder: Path, bundle: str, *sources: dict[str, object]) -> Config:
    for name in ("run", "data"):
        (folder / name).mkdir()
    cameras = [
        {"name": f"cam{n}", "deadline_ms": 20_000, "window": 64, "source": source} for n, source in enumerate(sources)
    ]
    return parse(
        {
            "line": {"name": "l", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": cameras,
            "workers": {"bundle": bundle, "threads": 1},
        }
    )


def record(folder: Path, bundle: str, *sources: dict[str, object]) -> Path:
    out = folder / "r.mcap"
    assert Rehearsal(with_recorder(line(folder, bundle, *sources), out), folder / "log").run() == 0
    return out


@pytest.fixture(scope="module")
def judged(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of drawn parts, good and bad, judged by the tiny bundle."""
    source = {"kind": "synthetic", "rate": 8, "parts": PARTS, "defects": 0.5, "width": 320, "height": 240, "seed": 3}
    return record(tmp_path_factory.mktemp("judged"), str(tiny_bundle), source)


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of two cameras that the stub has passed; one image cannot be decoded."""
    folder = tmp_path_factory.mktemp("passed")
    images = folder / "images"
    images.mkdir()
    for n in range(PARTS):
        save_png(images / f"{n:02d}.png", np.random.default_rng(n).integers(0, 256, (300, 300), np.uint8))
    (images / "05.png").write_bytes((images / "05.png").read_bytes()[:500])
    noise = {"kind": "synthetic", "part": "noise", "rate": 100, "parts": 40, "width": 300, "height": 300, "bits": 16}
    return record(folder, "stub", {"kind": "folder", "path": str(images), "rate": 50}, noise)


def result(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, dict)
    return found


def test_a_recorded_line_holds_every_frame_and_every_outcome(passed: Path) -> None:
    recording = read_recording(passed)
    found = survey(recording)
    assert (recording.problems, dict(found.missing)) == ([], {})
    assert {camera: len(frames) for camera, frames in found.frames.items()} == {"cam0": PARTS, "cam1": 40}
    assert len(found.outcomes) == PARTS + 40


def test_the_same_bundle_says_the_same_again(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(judged, check=True, as_json=True) == 0
    found = result(capsys)
    assert (found["same"], found["differences"], found["not_compared"]) == (PARTS, [], {})
    assert found["bundles_then"] == [found["bundle"]]


def test_another_bundle_is_found_out(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes = survey(read_recording(judged)).outcomes.values()
    assert all((o.p_value is None) == (o.score is None) for o in outcomes)
    verdicts = {o.verdict for o in outcomes}
    assert verdicts == {"PASS", "FAIL"}, "the recording must hold both"
    assert replay(judged, Path("stub"), check=True, as_json=True) == 1
    found = result(capsys)
    differences = found["differences"]
    assert isinstance(differences, list)
    assert {difference["what"] for difference in differences} == {"verdict", "score"}
    assert len(differences) == PARTS
    assert replay(judged, Path("stub"), check=False) == 0, "without --assert it only tells"
    assert "PASS 0 of 1" in capsys.readouterr().out


@pytest.mark.parametrize("rate", ["max", "recorded", 60.0])
def test_two_cameras_at_any_pace(passed: Path, rate: str | float, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(passed, Path("stub"), rate, check=True, as_json=True, workers=2) == 0
    found = result(capsys)
    assert (found["frames"], found["same"], found["missing"]) == (PARTS + 40, PARTS + 40, {})


def test_a_cut_recording_is_replayed_as_far_as_it_goes_and_says_what_is_missing(
    passed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(passed.read_bytes()[: passed.stat().st_size * 6 // 10])
    assert replay(cut, check=True, as_json=True) == 0
    found = result(capsys)
    frames, same = found["frames"], found["same"]
    assert isinstance(frames, int)
    assert isinstance(same, int)
    assert 20 < frames < PARTS + 40
    read = list(read_recording(cut))
    outcomes = {item.key for item in read if isinstance(item, Outcome)}
    assert same == len(outcomes & {item.frame.key for item in read if isinstance(item, RecordedFrame)})
    assert same > 0
    assert found["finished"] is False
    assert "bytes are lost" in str(found["problems"])


def test_a_damaged_recording_is_replayed_without_what_was_lost(
    passed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(passed.read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / "flipped.mcap").write_bytes(data)
    assert replay(tmp_path / "flipped.mcap", check=True) == 0
    text = capsys.readouterr().out
    assert "crc validation failed" in text
    assert "different: 0" in text
    frames = [item for item in read_recording(tmp_path / "flipped.mcap") if isinstance(item, RecordedFrame)]
    assert f"{len(frames)} frames replayed" in text


def test_a_replay_never_has_a_sink(passed: Path, tmp_path: Path) -> None:
    config = line_of(survey(read_recording(passed)), Path("stub"), "max", tmp_path)
    assert config.sinks == ()
    assert {camera.source.kind for camera in config.cameras} == {"replay"}


def test_a_replay_takes_the_same_pictures_twice_where_the_recorded_line_did(tmp_path: Path) -> None:
    config = line(tmp_path, "stub", {"kind": "synthetic", "part": "noise"})
    allowed = config.cameras[0].model_copy(update={"frozen": "allow"})
    config = config.model_copy(update={"cameras": (allowed,)})
    path = tmp_path / "r.mcap"
    pixels = np.zeros((4, 5), np.uint8)
    writer = RecordingWriter(path, RecordingMeta("l", 0.0, 0.0, config.public_json()))
    frame = Frame(FrameKey("l", "cam0", 1, 0), 0.0, 1.0, (4, 5), "uint8", "gray", checksum(pixels), "inline")
    writer.frame(Trigger(frame), pixels, 0, 0)
    writer.close()
    assert [c.frozen for c in line_of(survey(read_recording(path)), Path("stub"), "max", tmp_path).cameras] == ["allow"]


def test_what_cannot_be_replayed_is_refused_before_anything_starts(passed: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no recording")
    (tmp_path / "empty.bundle").mkdir()
    with pytest.raises(RecordingError, match="is not an MCAP file"):
        replay(tmp_path / "text")
    with pytest.raises(RecordingError, match="cannot be opened"):
        replay(tmp_path / "nowhere")
    with pytest.raises(BundleError):
        replay(passed, tmp_path / "empty.bundle")


def test_a_bundle_that_is_not_here_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.dumps({"workers": {"bundle": "/nowhere/screw.bundle"}})
    writer = RecordingWriter(tmp_path / "r.mcap", RecordingMeta("l", 0.0, 0.0, config))
    picture = np.zeros((8, 8), np.uint8)
    key = FrameKey("l", "cam", 1, 0)
    writer.frame(Trigger(Frame(key, 0.0, 1.0, (8, 8), "uint8", "gray", checksum(picture), "inline")), picture, 0, 0)
    writer.close()
    with pytest.raises(ConfigError, match=r"screw\.bundle\) is not on this machine; give one with --bundle"):
        replay(tmp_path / "r.mcap")
    assert replay(tmp_path / "r.mcap", Path("stub"), check=True) == 0
    assert "not compared: 1 recorded as no outcome" in capsys.readouterr().out


def test_a_killed_recorder_costs_frames_of_the_recording_and_no_decision(tmp_path: Path) -> None:
    noise = {"kind": "synthetic", "part": "noise", "rate": 50, "parts": 300, "width": 300, "height": 300}
    rehearsal = Rehearsal(with_recorder(line(tmp_path, "stub", noise), tmp_path / "r.mcap"), tmp_path / "log")
    killed: list[int] = []

    def kill_once() -> None:
        if not killed and len(rehearsal.watcher.outcomes) > 10:
            killed.extend(rehearsal.supervisor.pids("sink"))
            os.kill(killed[0], signal.SIGKILL)

    assert rehearsal.run(kill_once) == 0
    assert killed
    assert [outcome.verdict for outcome in rehearsal.watcher.outcomes] == ["PASS"] * 300
    before = survey(read_recording(tmp_path / "r.cut-1.mcap"))
    after = survey(read_recording(tmp_path / "r.mcap"))
    assert any("was not closed" in problem for problem in before.recording.problems)
    assert [frame.key.seq for frame in before.frames["cam0"]] == list(range(before.count))
    assert before.count > 5
    assert after.recording.problems == []
    assert after.frames["cam0"][-1].key.seq == 299
    assert after.missing["came before the recording began"] >= before.count
