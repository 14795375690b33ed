"""Recordings: what goes in comes out, for us and for other people's readers."""

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import zstandard
from mcap.reader import make_reader
from mcap_ros2.decoder import DecoderFactory

from line_worker.errors import RecordingError
from line_worker.verdicts import Reason
from line_worker.wire import delta
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey, Outcome, Region
from line_worker.wire.recording import OUTCOME, RecordedFrame, RecordingMeta, Trigger, read_recording
from line_worker.wire.recording_writer import RecordingWriter
from line_worker.wire.rosimage import KINDS, Compression

META = RecordingMeta("l", 1.7e9, 0.002, config='{"a": 1}')
PICTURES = [
    np.random.default_rng(0).integers(0, 2**8, (6, 5), np.uint8),
    np.random.default_rng(1).integers(0, 2**16, (6, 5), np.uint16),
    np.random.default_rng(2).integers(0, 2**8, (6, 5, 3), np.uint8),
    np.random.default_rng(3).integers(0, 2**16, (7, 1, 3), np.uint16),
]


def frame_of(picture: np.ndarray, seq: int, camera: str = "cam") -> Frame:
    colour = "gray" if picture.ndim == 2 else "bgr"
    fields = (picture.shape, str(picture.dtype), colour, checksum(picture), "ring", "x.ring", 4096, 6, 0)
    return Frame(FrameKey("l", camera, 2**60 + 1, seq), 1.5, 100.0, *fields, part_id=f"ü{seq}", trigger=seq * 3)


def outcome_of(key: FrameKey, **changes: object) -> Outcome:
    region = Region(1, 2, 3, 4, (6, 7), 0.1, 0.2, 0.3, 3.0)
    fields = {
        "row": key.seq + 1,
        "key": key,
        "verdict": "FAIL",
        "reason": 1,
        "score": 2.5,
        "threshold": 1.25,
        "regions": (region,),
        "bundle": "b" * 64,
        "worker": "w0",
        "attempt": 1,
        "part_id": "ü",
        "trigger": 3,
        "latency_ms": 12.5,
        "left_ms": 80.0,
        "wall": 1.7e9,
        "stages": {"locate": 1.5},
        "p_value": 0.0625,
    }
    return Outcome(**{**fields, **changes})  # type: ignore[arg-type]


def record(path: Path, compression: Compression) -> Path:
    """Record four pictures and their outcomes, 10 ms apart, each triggered 2 ms before it was recorded."""
    writer = RecordingWriter(path, META, compression)
    for seq, picture in enumerate(PICTURES):
        frame, at_ns = frame_of(picture, seq), 10**18 + seq * 10_000_000
        writer.frame(Trigger(frame), picture, at_ns, at_ns - 2_000_000)
        writer.outcome(outcome_of(frame.key), at_ns + 1_000_000)
    writer.close()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return record(tmp_path / "r.mcap", "none")


@pytest.mark.parametrize("compression", KINDS)
def test_what_was_recorded_is_read_back(tmp_path: Path, compression: Compression) -> None:
    recording = read_recording(record(tmp_path / "r.mcap", compression))
    items = list(recording)
    frames, outcomes = items[0::2], items[1::2]
    assert (recording.meta, recording.compression) == (META, compression)
    assert (recording.finished, recording.problems, recording.bundles) == (True, [], {"b" * 64})
    for seq, (picture, frame, outcome) in enumerate(zip(PICTURES, frames, outcomes, strict=True)):
        assert isinstance(frame, RecordedFrame)
        assert frame.pixels is not None
        assert (frame.pixels.dtype, frame.pixels.tolist()) == (picture.dtype, picture.tolist())
        sent = frame_of(picture, seq)
        assert (frame.frame.key, frame.frame.part_id, frame.frame.trigger) == (sent.key, sent.part_id, sent.trigger)
        assert frame.at == pytest.approx(1e9 - 0.002 + seq * 0.01, abs=1e-6)
        assert outcome == outcome_of(sent.key)


def test_outcomes_recorded_before_p_values_are_read(tmp_path: Path) -> None:
    outcome = outcome_of(FrameKey("l", "cam", 1, 0))
    writer = RecordingWriter(tmp_path / "r.mcap", META)
    channel = writer._json_channel("/outcomes", "line_worker.Outcome")
    text = OUTCOME.dump_json(outcome, exclude={"p_value"})
    assert b"p_value" not in text
    writer._writer.message(channel, 1, 1, 0, text)
    writer.close()
    recording = read_recording(tmp_path / "r.mcap")
    assert list(recording) == [dataclasses.replace(outcome, p_value=None)]
    assert recording.problems == []


def test_a_recording_can_be_read_twice(path: Path) -> None:
    recording = read_recording(path)
    assert len(list(recording)) == len(list(recording)) == 8
    assert recording.problems == []


def test_frames_without_a_picture_say_why(tmp_path: Path) -> None:
    picture, path = PICTURES[0], tmp_path / "r.mcap"
    undecoded = Frame(FrameKey("l", "cam", 1, 0), 0.0, 1.0, (), "", "", 0, "none", problem=int(Reason.DECODE))
    overload = Frame(FrameKey("l", "cam", 1, 1), 0.0, 1.0, (), "", "", 0, "none", problem=int(Reason.OVERLOAD))
    with_writer = RecordingWriter(path, META)
    with_writer.frame(Trigger(undecoded), None, 0, 0)
    with_writer.frame(Trigger(overload), None, 0, 0)
    with_writer.frame(Trigger(frame_of(picture, 2), missing="the disk is slow"), None, 0, 0)
    with_writer.close()
    frames = [item for item in read_recording(path) if isinstance(item, RecordedFrame)]
    assert [(f.pixels, f.missing, f.replayable) for f in frames] == [
        (None, "", True),
        (None, "", False),
        (None, "the disk is slow", False),
    ]


def test_another_ros_reader_sees_the_pictures(path: Path) -> None:
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        images = [found.decoded_message for found in reader.iter_decoded_messages(topics=["/cam/image"])]
    assert [image.encoding for image in images] == ["mono8", "mono16", "bgr8", "bgr16"]
    for image, picture in zip(images, PICTURES, strict=True):
        rebuilt = np.frombuffer(bytes(image.data), picture.dtype).reshape(picture.shape)
        assert np.array_equal(rebuilt, picture)
        assert (image.height, image.width) == picture.shape[:2]
        assert image.step == picture.nbytes // image.height
    assert images[1].header.frame_id == f"l/cam/{2**60 + 1}/1"
    assert (images[1].header.stamp.sec, images[1].header.stamp.nanosec) == (10**9, 8_000_000)


def test_another_ros_reader_sees_compressed_pictures(tmp_path: Path) -> None:
    with record(tmp_path / "r.mcap", "png").open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        images = [found.decoded_message for found in reader.iter_decoded_messages(topics=["/cam/image/compressed"])]
    assert [image.format for image in images] == ["png"] * 4
    for image, picture in zip(images, PICTURES, strict=True):
        assert np.array_equal(cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_UNCHANGED), picture)
    assert images[1].header.frame_id == f"l/cam/{2**60 + 1}/1"


def test_another_ros_reader_reads_the_fields_of_pictures_that_only_we_show(tmp_path: Path) -> None:
    with record(tmp_path / "r.mcap", "delta").open("rb") as file:
        reader = make_reader(file, validate_crcs=True, decoder_factories=[DecoderFactory()])
        images = [found.decoded_message for found in reader.iter_decoded_messages(topics=["/cam/image/delta"])]
    assert [(image.height, image.width) for image in images] == [picture.shape[:2] for picture in PICTURES]
    assert [image.encoding for image in images] == ["mono8", "mono16", "bgr8", "bgr16"]
    assert zstandard.frame_content_size(bytes(images[0].data)) == PICTURES[0].nbytes


def test_another_reader_sees_outcomes_and_the_description(path: Path) -> None:
    with path.open("rb") as file:
        reader = make_reader(file, validate_crcs=True)
        outcomes = [json.loads(message.data) for _, _, message in reader.iter_messages(topics=["/outcomes"])]
        names = {record.name: record.metadata for record in reader.iter_metadata()}
    assert [outcome["verdict"] for outcome in outcomes] == ["FAIL"] * 4
    assert names["line-worker.end"]["bundles"] == "b" * 64
    assert json.loads(names["line-worker"]["meta"])["tolerance"] == 0.002


def test_the_file_has_its_name_only_when_it_is_whole(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "sub" / "r.mcap", META)
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["r.mcap.part"]
    writer.close()
    writer.close()
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["r.mcap"]


def test_a_finished_recording_is_never_overwritten(path: Path) -> None:
    with pytest.raises(RecordingError, match=r"r\.mcap: is there already"):
        RecordingWriter(path, META)


def test_two_writers_do_not_share_a_file(tmp_path: Path) -> None:
    first = RecordingWriter(tmp_path / "r.mcap", META)
    with pytest.raises(RecordingError, match="another process is recording"):
        RecordingWriter(tmp_path / "r.mcap", META)
    first.close()


def test_what_a_dead_writer_left_is_set_aside_and_readable(tmp_path: Path) -> None:
    for count in (1, 2):
        writer = RecordingWriter(tmp_path / "r.mcap", META)
        for seq in range(count):
            writer.frame(Trigger(frame_of(PICTURES[0], seq)), PICTURES[0], 0, 0)
        writer.flush()
        writer.abandon()
    RecordingWriter(tmp_path / "r.mcap", META).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.cut-1.mcap", "r.cut-2.mcap", "r.mcap"]
    for count in (1, 2):
        recording = read_recording(tmp_path / f"r.cut-{count}.mcap")
        assert len(list(recording)) == count
        assert any("was not closed" in problem for problem in recording.problems)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not an MCAP file"),
        (b"#!/bin/sh\n", "is not an MCAP file"),
        (b"\x89MCAP0\r\n", "is no recording of line-worker"),
    ],
)
def test_what_is_no_recording_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RecordingError, match=says):
        read_recording(tmp_path / "x")


def test_a_recording_of_another_format_is_refused_with_its_version(tmp_path: Path) -> None:
    RecordingWriter(tmp_path / "r.mcap", RecordingMeta("l", 0.0, 0.0, version="9.9", format=2)).close()
    with pytest.raises(RecordingError, match=r"format 2, this version reads 1; use line-worker 9\.9"):
        read_recording(tmp_path / "r.mcap")


@pytest.mark.parametrize("compression", KINDS)
def test_a_cut_image_message_is_a_value_error(compression: Compression) -> None:
    kind = KINDS[compression]
    data = b"".join(kind.encode(PICTURES[2], 5, "l/cam/1/2"))
    for cut in range(len(data)):
        with pytest.raises(ValueError):
            kind.decode(data[:cut])


@pytest.mark.parametrize(
    ("shape", "says"), [((6, 4), "a picture of"), ((2**31, 2**31), "are more than"), ((0, 0), "a picture of")]
)
def test_differences_of_another_shape_are_a_value_error(shape: tuple[int, int], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        delta.decode(delta.encode(PICTURES[0]), shape, "uint8")


def test_a_png_of_another_name_or_damaged_is_a_value_error() -> None:
    data = b"".join(KINDS["png"].encode(PICTURES[0], 5, "l/cam/1/2"))
    for old, new in ((b"png", b"jpg"), (b"IDAT", b"IDOT"), (b"\x89PNG", b"xPNG")):
        with pytest.raises(ValueError):
            KINDS["png"].decode(data.replace(old, new))
