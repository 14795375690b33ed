"""Writes MCAP files in which pictures are never copied and every chunk stands alone.

The `mcap` package's own writer joins messages into a chunk, and the chunk into a record, which copies a picture four
times while holding Python's lock: beside a busy line that delays the thread that takes pictures in. Here a chunk is a
list of buffers until it goes to the file. Every chunk repeats the schemas and channels that it uses, so that a lost one
takes nothing with it. Records are encoded by `mcap.records`; the format is https://mcap.dev/spec.
"""

from __future__ import annotations

import struct
import zlib
from collections import Counter
from collections.abc import Iterable
from typing import BinaryIO, NamedTuple

from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)

MAGIC = b"\x89MCAP0\r\n"
_RECORD = struct.Struct("<BQ")  # opcode, length of the rest
_MESSAGE = struct.Struct("<HIQQ")  # channel, sequence, log time, publish time; the data follow
_CHUNK = struct.Struct("<QQQIIQ")  # first and last time, size, CRC, length of the compression's name (none), size
NO_SCHEMA = 0

Buffer = bytes | memoryview


class Waiting(NamedTuple):
    """A message of the chunk in progress."""

    channel: int
    at_ns: int
    nbytes: int


class McapWriter:
    """An MCAP file being written to `file` (binary, at its start). OSError when it cannot be written."""

    def __init__(self, file: BinaryIO, profile: str, library: str) -> None:
        self._file, self._at = file, 0
        self._schemas: dict[int, Schema] = {}
        self._channels: dict[int, Channel] = {}
        self._waiting: list[Waiting] = []
        self._buffers: list[Buffer] = []
        self._chunks: list[ChunkIndex] = []
        self._metadata: list[MetadataIndex] = []
        self._counts: Counter[int] = Counter()
        self.waiting_bytes = 0  # in the chunk in progress
        self._put(MAGIC, _encoded(Header(profile, library)))

    def schema(self, name: str, encoding: str, definition: bytes) -> int:
        """Return the number of a new schema."""
        number = len(self._schemas) + 1
        self._schemas[number] = Schema(id=number, name=name, encoding=encoding, data=definition)
        return number

    def channel(self, topic: str, encoding: str, schema: int = NO_SCHEMA) -> int:
        """Return the number of a new channel."""
        number = len(self._channels) + 1
        self._channels[number] = Channel(
            id=number, topic=topic, message_encoding=encoding, schema_id=schema, metadata={}
        )
        return number

    def message(self, channel: int, at_ns: int, published_ns: int, sequence: int, *data: Buffer) -> None:
        """Add a message, whose data are the buffers one after the other; they must not change until `end_chunk`."""
        size = _MESSAGE.size + sum(map(len, data))
        head = _RECORD.pack(Opcode.MESSAGE, size) + _MESSAGE.pack(channel, sequence & 0xFFFFFFFF, at_ns, published_ns)
        self._waiting.append(Waiting(channel, at_ns, _RECORD.size + size))
        self._buffers += [head, *data]
        self._counts[channel] += 1
        self.waiting_bytes += _RECORD.size + size

    def metadata(self, name: str, fields: dict[str, str]) -> None:
        """Write a metadata record."""
        record = _encoded(Metadata(name=name, metadata=fields))
        self._metadata.append(MetadataIndex(offset=self._at, length=len(record), name=name))
        self._put(record)

    def end_chunk(self) -> None:
        """Write the chunk in progress, if it holds anything, and hand everything to the operating system."""
        if self._waiting:
            self._write_chunk()
            self._waiting, self._buffers, self.waiting_bytes = [], [], 0
        self._file.flush()

    def finish(self) -> None:
        """Write what is left, and the summary; the file stays open."""
        self.end_chunk()
        self._put(_encoded(DataEnd(0)))
        start = self._at
        groups = [_encoded(*group) for group in self._summary()]
        offsets, at = [], start
        for group in filter(None, groups):
            offsets.append(SummaryOffset(group_opcode=group[0], group_start=at, group_length=len(group)))
            at += len(group)
        summary = b"".join((*groups, _encoded(*offsets)))
        footer = _encoded(Footer(start, at, 0))[:-4]
        self._put(summary, footer, struct.pack("<I", zlib.crc32(footer, zlib.crc32(summary))), MAGIC)
        self._file.flush()

    # ---- inside -------------------------------------------------------------------------------------------------

    def _write_chunk(self) -> None:
        used = sorted({message.channel for message in self._waiting})
        declared = self._declarations(used)
        size = len(declared) + self.waiting_bytes
        crc = zlib.crc32(declared)
        for buffer in self._buffers:
            crc = zlib.crc32(buffer, crc)
        times = [message.at_ns for message in self._waiting]
        offset = self._at
        head = _CHUNK.pack(min(times), max(times), size, crc, 0, size)
        self._put(_RECORD.pack(Opcode.CHUNK, len(head) + size), head, declared, *self._buffers)
        length, index_offsets = self._at - offset, {}
        for channel, records in self._indexes(len(declared)).items():
            index_offsets[channel] = self._at
            self._put(_encoded(MessageIndex(channel_id=channel, records=records)))
        self._chunks.append(
            ChunkIndex(
                chunk_start_offset=offset,
                chunk_length=length,
                compression="",
                compressed_size=size,
                uncompressed_size=size,
                message_start_time=min(times),
                message_end_time=max(times),
                message_index_offsets=index_offsets,
                message_index_length=self._at - offset - length,
            )
        )

    def _declarations(self, channels: Iterable[int]) -> bytes:
        """Return the records of these channels and of their schemas."""
        found = [self._channels[number] for number in channels]
        schemas = sorted({channel.schema_id for channel in found} - {NO_SCHEMA})
        return _encoded(*(self._schemas[number] for number in schemas), *found)

    def _indexes(self, at: int) -> dict[int, list[tuple[int, int]]]:
        """Return channel -> (time, offset within the chunk) of its messages; the first message lies at `at`."""
        found: dict[int, list[tuple[int, int]]] = {}
        for message in self._waiting:
            found.setdefault(message.channel, []).append((message.at_ns, at))
            at += message.nbytes
        return found

    def _summary(self) -> list[list[McapRecord]]:
        """Return the groups of records that let a reader find everything without reading the whole file."""
        times = [(chunk.message_start_time, chunk.message_end_time) for chunk in self._chunks]
        statistics = Statistics(
            attachment_count=0,
            metadata_count=len(self._metadata),
            chunk_count=len(self._chunks),
            schema_count=len(self._schemas),
            channel_count=len(self._channels),
            message_count=self._counts.total(),
            channel_message_counts=dict(self._counts),
            message_start_time=min((first for first, _ in times), default=0),
            message_end_time=max((last for _, last in times), default=0),
        )
        declared: list[list[McapRecord]] = [list(self._schemas.values()), list(self._channels.values())]
        return [*declared, [statistics], list(self._chunks), list(self._metadata)]

    def _put(self, *buffers: Buffer) -> None:
        for buffer in buffers:
            self._file.write(buffer)
            self._at += len(buffer)


def _encoded(*records: McapRecord) -> bytes:
    builder = RecordBuilder()
    for record in records:
        record.write(builder)
    return bytes(builder.end())
