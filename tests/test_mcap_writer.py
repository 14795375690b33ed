"""Our MCAP files, read by the mcap package: structure, indexes and checksums are what the specification asks for."""

import io
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.opcode import Opcode
from mcap.reader import SeekingReader, make_reader
from mcap.records import Channel, Chunk, Message, MessageIndex, Schema
from mcap.stream_reader import StreamReader, breakup_chunk

from line_worker.wire.mcap_writer import McapWriter

Steps = list[tuple[str, int, bytes]]


def write(steps: Steps) -> bytes:
    """Write messages ("a" or "b", time, data) and end chunks (""); returns the finished file."""
    file = io.BytesIO()
    writer = McapWriter(file, "profile", "library")
    channels = {
        "a": writer.channel("/a", "json"),
        "b": writer.channel("/b", "cdr", writer.schema("S", "ros2msg", b"x")),
    }
    for number, (topic, at_ns, data) in enumerate(steps):
        if topic:
            writer.message(channels[topic], at_ns, at_ns + 1, number, data[:2], memoryview(data)[2:])
        else:
            writer.end_chunk()
    writer.metadata("about", {"steps": str(len(steps))})
    writer.finish()
    return file.getvalue()


STEP = st.tuples(st.sampled_from(["a", "b", ""]), st.integers(0, 2**40), st.binary(max_size=30))


@settings(deadline=None)
@given(st.lists(STEP, max_size=20))
def test_every_message_is_read_back_by_another_reader(steps: Steps) -> None:
    reader = make_reader(io.BytesIO(write(steps)), validate_crcs=True)
    found = [
        (channel.topic, message.log_time, message.publish_time, message.sequence, message.data)
        for _, channel, message in reader.iter_messages(log_time_order=False)
    ]
    assert found == [(f"/{topic}", at, at + 1, n, data) for n, (topic, at, data) in enumerate(steps) if topic]
    assert [record.metadata for record in reader.iter_metadata()] == [{"steps": str(len(steps))}]


@settings(deadline=None)
@given(st.lists(STEP, max_size=20))
def test_the_summary_describes_the_file(steps: Steps) -> None:
    summary = SeekingReader(io.BytesIO(write(steps))).get_summary()
    assert summary is not None
    assert summary.statistics is not None
    times = [at for topic, at, _ in steps if topic]
    assert summary.statistics.message_count == len(times)
    assert summary.statistics.chunk_count == len(summary.chunk_indexes)
    assert (summary.statistics.message_start_time, summary.statistics.message_end_time) == (
        min(times, default=0),
        max(times, default=0),
    )
    for number, topic in ((1, "a"), (2, "b")):
        count = sum(step[0] == topic for step in steps)
        assert summary.statistics.channel_message_counts.get(number, 0) == count
    assert {channel.topic for channel in summary.channels.values()} == {"/a", "/b"}


@settings(deadline=None)
@given(st.lists(STEP, min_size=1, max_size=20))
def test_message_indexes_point_at_the_messages(steps: Steps) -> None:
    data = write(steps)
    summary = SeekingReader(io.BytesIO(data)).get_summary()
    assert summary is not None
    for index in summary.chunk_indexes:
        chunk = next(_records(data[index.chunk_start_offset :], index.chunk_length))
        assert isinstance(chunk, Chunk)
        after = index.chunk_start_offset + index.chunk_length
        indexes = list(_records(data[after:], index.message_index_length))
        assert all(data[offset] == Opcode.MESSAGE_INDEX for offset in index.message_index_offsets.values())
        for found in indexes:
            assert isinstance(found, MessageIndex)
            for at_ns, offset in found.records:
                opcode, channel, _, time = struct.unpack_from("<B8xHIQ", chunk.data, offset)
                assert (opcode, channel, time) == (Opcode.MESSAGE, found.channel_id, at_ns)


def _records(data: bytes, length: int):  # type: ignore[no-untyped-def]
    """Yield the records in the first `length` bytes."""
    reader = StreamReader(io.BytesIO(data[:length]), skip_magic=True, emit_chunks=True)
    stream = reader._stream
    while stream.count < length:
        opcode, size = stream.read1(), stream.read8()
        yield reader._read_record(opcode, size)


def test_every_chunk_stands_alone() -> None:
    data = write([("b", 1, b"one"), ("", 0, b""), ("b", 2, b"two"), ("a", 3, b"three")])
    chunks = [r for r in StreamReader(io.BytesIO(data), emit_chunks=True).records if isinstance(r, Chunk)]
    kinds = [[type(record) for record in breakup_chunk(chunk, validate_crc=True)] for chunk in chunks]
    assert kinds == [[Schema, Channel, Message], [Schema, Channel, Channel, Message, Message]]


def test_a_picture_is_not_copied_on_its_way() -> None:
    class Sink(io.BytesIO):
        """Notes which buffers it was given."""

        def __init__(self) -> None:
            super().__init__()
            self.given: list[object] = []

        def write(self, data, /) -> int:  # type: ignore[no-untyped-def]
            self.given.append(data)
            return super().write(data)

    file, picture = Sink(), np.zeros((4, 4), np.uint8)
    writer = McapWriter(file, "", "")
    writer.message(writer.channel("/a", "cdr"), 0, 0, 0, b"head", picture.data.cast("B"))
    picture[:] = 7  # whoever copied it before has the old one
    writer.end_chunk()
    assert any(isinstance(data, memoryview) and data.obj is picture for data in file.given)
    assert bytes([7]) * 16 in file.getvalue()
