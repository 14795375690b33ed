"""Recordings looked into, checked, cut and exported; nothing is written over, and what is damaged is said."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from line_worker import recordings
from line_worker.cli import app
from line_worker.errors import ConfigError, RecordingError
from line_worker.images import read_image
from line_worker.recordings import Span
from line_worker.verdicts import Reason
from line_worker.wire.frames import checksum
from line_worker.wire.mcap_writer import McapWriter
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordedFrame, RecordingMeta, Trigger, read_recording
from line_worker.wire.recording_writer import RecordingWriter

START = 1_700_000_000.0
VERDICTS = {0: ("PASS", 0), 1: ("FAIL", 1), 2: ("NO_DECISION", int(Reason.TOO_LATE))}


def outcome(key: FrameKey, wall: float) -> Outcome:
    verdict, reason = VERDICTS[key.seq % 3]
    score = 1.0 if key.seq % 3 < 2 else None
    evidence = (score, 1.5, (), "b" * 64, "w", 1, "", 0)
    return Outcome(key.seq + 1, key, verdict, reason, *evidence, 12.0, 80.0, wall, {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a recording of two cameras, a part each second, ten parts each; seq 9 has no outcome."""
    writer = RecordingWriter(tmp_path / "r.mcap", RecordingMeta("l", START, 0.002))
    at_ns = 0
    for seq in range(10):
        for camera in ("left", "right"):
            picture = np.full((12, 16), 10 * seq + (camera == "right"), np.uint8)
            key, at = FrameKey("l", camera, 7, seq), START + seq
            fields = (picture.shape, "uint8", "gray", checksum(picture), "ring", "x.ring", 4096, 6, 0)
            at_ns = max(at_ns + 1, round(at * 1e9))
            missing = "the disk was slow" if (camera, seq) == ("right", 4) else ""
            trigger = Trigger(Frame(key, 1.5, 100.0, *fields), missing)
            writer.frame(trigger, None if missing else picture, at_ns, round(at * 1e9))
            if seq < 9:
                writer.outcome(outcome(key, at + 0.1), at_ns := at_ns + 1)
    writer.close()
    return writer.path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(one) for one in arguments], standalone_mode=False)
    if result.exception:
        raise result.exception
    return result.return_value, result.output


def test_info_says_what_is_in_it(path):
    code, words = run("recording", "info", path)
    assert code == 0
    assert "line      l" in words
    assert "10 frames, 9 pictures, 2023-11-14T22:13:20Z to 2023-11-14T22:13:29Z; 1 without: the disk was slow" in words
    assert "6 FAIL, 6 NO_DECISION, 6 PASS" in words
    found = json.loads(run("recording", "info", path, "--json")[1])
    assert found["cameras"]["left"]["pictures"] == 10
    assert found["problems"] == []


def test_verify_tells_a_whole_one_from_a_damaged_one(path, tmp_path):
    assert run("recording", "verify", path) == (0, f"{path}: whole, 20 frames and 18 outcomes\n")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(path.read_bytes()[:-2000])
    code, words = run("recording", "verify", cut)
    assert code == 1
    assert "was not closed" in words


def test_a_cut_holds_its_span_and_nothing_else(path, tmp_path):
    out = tmp_path / "cut.mcap"
    code, words = run(
        "recording", "cut", path, out, "--start", "2", "--end", "2023-11-14T22:13:25Z", "--camera", "left"
    )
    assert (code, words) == (0, f"{out}: 4 frames and 4 outcomes\n")
    whole = {str(item.frame.key): item for item in read_recording(path) if isinstance(item, RecordedFrame)}
    items = list(read_recording(out))
    frames = [item for item in items if isinstance(item, RecordedFrame)]
    assert [item.frame.key.seq for item in frames] == [2, 3, 4, 5]
    for item in frames:
        original = whole[str(item.frame.key)]
        assert np.array_equal(item.pixels, original.pixels)
        assert item.at == pytest.approx(original.at, abs=1e-6)
    assert [item.key.seq for item in items if isinstance(item, Outcome)] == [2, 3, 4, 5]
    assert recordings.look(out).problems == []


def test_a_cut_compresses_and_back_without_loss(path, tmp_path):
    small, back, again, quick = (tmp_path / f"{name}.mcap" for name in ("small", "back", "again", "quick"))
    run("recording", "cut", path, small, "--compression", "png")
    run("recording", "cut", small, back, "--compression", "none")
    run("recording", "cut", small, again)
    run("recording", "cut", again, quick, "--compression", "delta")
    originals = [item.pixels for item in read_recording(path) if isinstance(item, RecordedFrame)]
    for out, how in ((small, "png"), (back, "none"), (again, "png"), (quick, "delta")):
        assert recordings.look(out).compression == how
        assert run("recording", "verify", out)[0] == 0
        found = [item.pixels for item in read_recording(out) if isinstance(item, RecordedFrame)]
        assert all((a is None and b is None) or np.array_equal(a, b) for a, b in zip(found, originals, strict=True))
    assert "pictures as PNG, closed in good order" in run("recording", "info", small)[1]


def test_verify_tells_what_other_programs_could_not_read(path, tmp_path, monkeypatch):
    monkeypatch.setattr(McapWriter, "_indexes", lambda self, at: {})
    recordings.cut(path, tmp_path / "x.mcap", Span())
    code, words = run("recording", "verify", tmp_path / "x.mcap")
    assert code == 1
    assert "its message indexes do not point at its messages" in words


def test_an_export_is_laid_out_by_verdict(path, tmp_path):
    code, words = run("recording", "export", path, tmp_path / "out")
    assert code == 0
    counts = {
        "train/good": 6,
        "test/fail": 5,
        "test/no_decision": 6,
        "test/without_outcome": 2,
    }  # one had no picture
    for place, count in counts.items():
        assert len(list((tmp_path / "out" / place).iterdir())) == count
        assert f"{place}: {count}" in words
    assert read_image(tmp_path / "out" / "train" / "good" / "right_7_000003.png")[0, 0] == 31


def test_a_film_shows_every_picture(path, tmp_path):
    assert run("recording", "film", path, tmp_path / "f.mp4", "--camera", "right")[0] == 0
    video = cv2.VideoCapture(str(tmp_path / "f.mp4"))
    count = 0
    while video.read()[0]:
        count += 1
    assert count == 9


@pytest.mark.parametrize("what", [("cut", "x.mcap"), ("export", "x"), ("film", "x.mp4", "--camera", "left")])
def test_what_the_source_lacks_is_told_because_what_is_written_looks_whole(path, tmp_path, what):
    command, out, *options = what
    damaged = tmp_path / "damaged.mcap"
    damaged.write_bytes(path.read_bytes()[:-2000])
    problems = run("recording", "verify", damaged)[1]
    assert "bytes are lost" in problems
    result = CliRunner().invoke(app, ["recording", command, str(damaged), str(tmp_path / out), *options])
    assert (result.exit_code, result.stderr) == (0, problems)
    result = CliRunner().invoke(app, ["recording", command, str(path), str(tmp_path / f"2{out}"), *options])
    assert (result.exit_code, result.stderr) == (0, "")


def test_nothing_is_written_over(path, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ConfigError, match="holds files already"):
        recordings.export(path, tmp_path / "full", Span())
    with pytest.raises(RecordingError, match="is there already"):
        recordings.cut(path, path, Span())
    (tmp_path / "f.mp4").touch()
    with pytest.raises(ConfigError, match="is there already"):
        recordings.film(path, tmp_path / "f.mp4", "left", 10, Span())


@pytest.mark.parametrize(
    ("start", "cameras", "words"),
    [("soon", (), "'soon' is no time"), ("", ("top",), "no camera 'top'; there are left, right")],
)
def test_a_span_that_makes_no_sense_is_refused(path, start, cameras, words):
    with pytest.raises(ConfigError, match=words):
        recordings.span(recordings.look(path), start, "", cameras)


def test_an_empty_span_writes_nothing(path, tmp_path):
    with pytest.raises(RecordingError, match="lies in that span"):
        recordings.cut(path, tmp_path / "cut.mcap", Span(start=START + 100))
    with pytest.raises(RecordingError, match="lies in that span"):
        recordings.export(path, tmp_path / "out", Span(start=START + 100))
    assert list(tmp_path.iterdir()) == [path], "or the corrected run would be refused"


def test_an_export_where_nothing_can_be_written_is_an_error_in_words(path, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file.*\n.*cannot be used .Not a directory.; give a folder"):
        recordings.export(path, tmp_path / "file", Span())
    with pytest.raises(RecordingError, match=r"left_7_000000\.png: cannot be written .Not a directory"):
        recordings.export(path, tmp_path / "file" / "out", Span())


def test_two_cameras_do_not_make_one_film(path, tmp_path):
    with pytest.raises(ConfigError, match="name one with --camera"):
        run("recording", "film", path, tmp_path / "f.mp4")
