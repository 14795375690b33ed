"""Recordings keep the rules that other programs rely on; whatever breaks one is found."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.records import Channel, Schema
from mcap.writer import CompressionType, Writer

from line_worker.wire.frames import checksum
from line_worker.wire.mcap_rules import MOST, examine
from line_worker.wire.mcap_writer import McapWriter, _encoded
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordingMeta, Trigger
from line_worker.wire.recording_writer import RecordingWriter
from line_worker.wire.rosimage import KINDS


@pytest.mark.parametrize("compression", KINDS)
def test_a_recording_breaks_none(tmp_path: Path, compression: Any) -> None:
    writer = RecordingWriter(tmp_path / "r.mcap", RecordingMeta("l", 0.0, 0.0), compression)
    for seq in range(6):
        pixels = np.full((300, 400), seq, np.uint8)
        for camera in ("left", "right"):
            key = FrameKey("l", camera, 1, seq)
            fields = (pixels.shape, "uint8", "gray", checksum(pixels), "inline")
            writer.frame(Trigger(Frame(key, 0.0, 100.0, *fields)), pixels, 2 * seq, 2 * seq)
            writer.outcome(Outcome(seq, key, "PASS", 0, 0.5, 1.0, (), "b", "w", 1, "", 0, 1.0, 1.0, 0.0, {}), 2 * seq)
    writer.close()
    assert examine(writer.path) == []


@pytest.mark.parametrize("compression", [CompressionType.NONE, CompressionType.ZSTD])
def test_what_another_writer_writes_breaks_none(tmp_path: Path, compression: CompressionType) -> None:
    with (tmp_path / "x.mcap").open("wb") as file:
        writer = Writer(file, chunk_size=200, compression=compression)
        writer.start("", "another")
        schema = writer.register_schema("S", "jsonschema", b'{"type": "object"}')
        channel = writer.register_channel("/s", "json", schema)
        for number in range(20):
            writer.add_message(channel, number, json.dumps({"number": number}).encode(), number)
        writer.finish()
    assert examine(tmp_path / "x.mcap") == []


def _write(path: Path, tamper: Callable[[McapWriter], None]) -> Path:
    """Write a small file of two chunks; `tamper` is called before the summary is written."""
    with path.open("wb") as file:
        writer = McapWriter(file, "ros2", "library")
        channel = writer.channel("/a", "json", writer.schema("S", "jsonschema", b"{}"))
        for at_ns in (1, 2, 3, 4):
            writer.message(channel, at_ns, at_ns, at_ns, b"{}")
            if at_ns == 2:
                writer.end_chunk()
        tamper(writer)
        writer.finish()
    return path


def _earlier(writer: McapWriter) -> None:
    writer.message(1, 0, 0, 0, b"{}")


def _renamed(writer: McapWriter) -> None:
    writer._channels[1] = Channel(id=1, topic="/b", message_encoding="json", schema_id=1, metadata={})


def _nameless_encoding(writer: McapWriter) -> None:
    writer._schemas[7] = Schema(id=7, name="S", encoding="", data=b"")
    writer.message(writer.channel("/c", "json", 7), 9, 9, 9, b"{}")


def _unknown_schema(writer: McapWriter) -> None:
    channel = Channel(id=2, topic="/c", message_encoding="json", schema_id=7, metadata={})
    writer._declarations = lambda channels: _encoded(writer._schemas[1], writer._channels[1], channel)  # type: ignore[method-assign]
    writer.message(1, 9, 9, 9, b"{}")


def _unshown(writer: McapWriter) -> None:
    writer.message(writer.channel("/c", "cdr", 1), 9, 9, 9, b"")


def _forgotten(writer: McapWriter) -> None:
    writer._chunks.clear()


def _twice(writer: McapWriter) -> None:
    writer._chunks *= 2


def _other_time(writer: McapWriter) -> None:
    writer._chunks[0].message_end_time = 3


def _other_place(writer: McapWriter) -> None:
    writer._chunks[0].chunk_start_offset += 1


def _other_count(writer: McapWriter) -> None:
    writer._counts[1] += 1


def _wrong_indexes(writer: McapWriter) -> None:
    indexes = writer._indexes
    writer._indexes = lambda at: {c: [(t, o + 1) for t, o in found] for c, found in indexes(at).items()}  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        (_earlier, "times go back by 0.000000 s"),
        (_renamed, "channel 1 is declared twice, differently"),
        (_nameless_encoding, r"schema 7 \('S'\) has no number or no encoding"),
        (_unknown_schema, r"channel 2 \(/c\) has schema 7, which is not declared before it"),
        (_unshown, "/c: cdr messages of a jsonschema schema are shown by no program"),
        (_forgotten, "is not in the summary's index"),
        (_twice, "is twice in the summary's index"),
        (_other_time, "the summary's index describes another one"),
        (_other_place, "is in the summary's index and is none"),
        (_other_count, "its statistics count 5 messages, there are 4"),
        (_wrong_indexes, "its message indexes do not point at its messages"),
    ],
)
def test_what_breaks_a_rule_is_found(tmp_path: Path, tamper: Callable[[McapWriter], None], words: str) -> None:
    problems = examine(_write(tmp_path / "x.mcap", tamper))
    assert any(re.search(words, problem) for problem in problems), problems


def test_a_sound_file_of_the_same_making_breaks_none(tmp_path: Path) -> None:
    assert examine(_write(tmp_path / "x.mcap", lambda writer: None)) == []


@settings(deadline=None, max_examples=150)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_damaged_file_is_no_crash(tmp_path_factory: pytest.TempPathFactory, share: float, flip: int) -> None:
    path = _write(tmp_path_factory.mktemp("d") / "x.mcap", lambda writer: None)
    data = bytearray(path.read_bytes())
    data[int(share * len(data))] ^= flip
    path.write_bytes(data)
    assert len(examine(path)) <= MOST


def test_a_cut_file_lacks_its_end(tmp_path: Path) -> None:
    path = _write(tmp_path / "x.mcap", lambda writer: None)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert examine(path)
    path.write_bytes(b"no")
    assert examine(path) == ["it is not an MCAP file"]
