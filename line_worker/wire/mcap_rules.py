"""Whether an MCAP file is what other programs expect of one: the rules of the specification (https://mcap.dev/spec), as
`mcap doctor` checks them, and that Foxglove and Rerun know how to show its pictures.

The file is taken record by record, apart from our reader, so that a mistake of the writer cannot hide in the reader. A
recording that was cut breaks these rules by nature; `line-worker recording cut` makes a whole one of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mcap import records as r
from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.stream_reader import get_chunk_data_stream

from line_worker.wire.mcap_scan import BROKEN, HEAD, MAGIC, check_size

MOST = 50  # problems that are told
PROFILES = ("", "ros1", "ros2")
SHOWN = {"ros2msg": "cdr", "jsonschema": "json"}  # encoding of a schema -> of its messages
TYPES = {
    Opcode.HEADER: r.Header,
    Opcode.FOOTER: r.Footer,
    Opcode.SCHEMA: r.Schema,
    Opcode.CHANNEL: r.Channel,
    Opcode.CHUNK: r.Chunk,
    Opcode.MESSAGE_INDEX: r.MessageIndex,
    Opcode.CHUNK_INDEX: r.ChunkIndex,
    Opcode.STATISTICS: r.Statistics,
    Opcode.METADATA: r.Metadata,
    Opcode.METADATA_INDEX: r.MetadataIndex,
    Opcode.SUMMARY_OFFSET: r.SummaryOffset,
    Opcode.DATA_END: r.DataEnd,
}


def examine(path: Path) -> list[str]:
    """Return what is wrong with the MCAP file at `path`, in words; OSError when it cannot be read."""
    examination = Examination()
    try:
        with path.open("rb") as file:
            for record in _records(file):
                examination.take(*record)
    except BROKEN as error:
        return [*examination.problems, str(error) or type(error).__name__][:MOST]
    examination.finish()
    return examination.problems[:MOST]


def _records(file: BinaryIO) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (offset, length, opcode, body) of every record; ValueError where they end before the file does."""
    size, at = file.seek(0, 2), len(MAGIC)
    file.seek(0)
    if file.read(at) != MAGIC:
        raise ValueError("it is not an MCAP file")
    while (head := file.read(HEAD.size)) != MAGIC:
        opcode, length = HEAD.unpack(head) if len(head) == HEAD.size else (0, 0)
        if not opcode or length > size - at:
            raise ValueError(f"it is cut or damaged at byte {at}")
        yield at, HEAD.size + length, opcode, file.read(length)
        at += HEAD.size + length


class Placed(NamedTuple):
    """A message in a chunk."""

    channel: int
    time: int
    offset: int


class Extent(NamedTuple):
    """What the summary says of a chunk."""

    length: int  # of the record
    first: int
    last: int
    compression: str
    compressed: int
    uncompressed: int


class Examination:
    """Takes the records of a file in their order; `problems` is complete after `finish`."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._declared: dict[tuple[type, int], r.Schema | r.Channel] = {}
        self._summary: set[tuple[type, int]] = set()
        self._in_summary = False
        self._chunks: dict[int, Extent] = {}  # by offset
        self._indexed: set[int] = set()  # offsets of chunks
        self._messages: list[Placed] = []  # of the newest chunk
        self._indexes: dict[int, set[tuple[int, int]]] | None = None  # of the newest chunk, by channel
        self._counts: Counter[int] = Counter()
        self._times: list[int] = []  # first and last of all messages
        self._seen: set[int] = set()  # opcodes

    def take(self, at: int, length: int, opcode: int, body: bytes) -> None:
        """Take the record of `length` bytes at byte `at`; one of BROKEN when it cannot be decoded."""
        self._seen.add(opcode)
        if opcode != Opcode.MESSAGE_INDEX:
            self._end_indexes()
        if opcode == Opcode.MESSAGE:
            self._tell("there are messages outside of chunks: they cannot be found by index")
        if opcode not in TYPES:
            return  # a reader skips what it does not know
        record = TYPES[Opcode(opcode)].read(ReadDataStream(BytesIO(body)))
        match record:
            case r.Header():
                if not record.library or record.profile not in PROFILES:
                    self._tell(f"its header names library {record.library!r} and profile {record.profile!r}")
            case r.Schema() | r.Channel():
                self._declare(record)
            case r.Chunk():
                self._take_chunk(at, length, record)
            case r.MessageIndex():
                self._take_index(at, record)
            case r.DataEnd():
                self._in_summary = True
            case r.ChunkIndex():
                self._compare_chunk(record)
            case r.Statistics():
                self._compare_counts(record)

    def finish(self) -> None:
        """See what is missing."""
        self._end_indexes()
        for opcode in (Opcode.HEADER, Opcode.DATA_END, Opcode.STATISTICS, Opcode.FOOTER):
            if opcode not in self._seen:
                self._tell(f"it has no {opcode.name.lower()} record")
        for at in sorted(self._chunks.keys() - self._indexed):
            self._tell(f"chunk at byte {at}: is not in the summary's index")
        for kind, number in sorted(self._declared.keys() - self._summary, key=str):
            self._tell(f"{kind.__name__.lower()} {number} is not repeated in the summary")

    # ---- inside -------------------------------------------------------------------------------------------------

    def _declare(self, record: r.Schema | r.Channel) -> None:
        key = (type(record), record.id)
        name = f"{key[0].__name__.lower()} {record.id}"
        if self._declared.setdefault(key, record) != record:
            self._tell(f"{name} is declared twice, differently")
        if self._in_summary:
            self._summary.add(key)
        if isinstance(record, r.Schema):
            if not record.id or not record.encoding:
                self._tell(f"{name} ({record.name!r}) has no number or no encoding")
            return
        schema = self._declared.get((r.Schema, record.schema_id))
        if schema is None and record.schema_id:
            self._tell(f"{name} ({record.topic}) has schema {record.schema_id}, which is not declared before it")
        if isinstance(schema, r.Schema) and SHOWN.get(schema.encoding) != record.message_encoding:
            self._tell(
                f"{record.topic}: {record.message_encoding} messages of a {schema.encoding} schema are shown by no "
                "program"
            )

    def _take_chunk(self, at: int, length: int, chunk: r.Chunk) -> None:
        check_size(chunk)
        stream, size = get_chunk_data_stream(chunk, validate_crc=True)
        if size != chunk.uncompressed_size:
            self._tell(f"chunk at byte {at}: holds {size} bytes, {chunk.uncompressed_size} are announced")
        self._messages, self._indexes = [], {}
        latest = self._times[1] if self._times else 0
        while stream.count < size:
            offset = stream.count
            opcode, rest = stream.read1(), stream.read8()
            if opcode == Opcode.MESSAGE:
                message = r.Message.read(stream, rest)
                self._messages.append(Placed(message.channel_id, message.log_time, offset))
                if (r.Channel, message.channel_id) not in self._declared:
                    self._tell(f"chunk at byte {at}: a message of channel {message.channel_id}, which is not declared")
                if message.log_time < latest:
                    self._tell(f"chunk at byte {at}: times go back by {(latest - message.log_time) / 1e9:.6f} s")
                latest = max(latest, message.log_time)
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                self._declare(TYPES[Opcode(opcode)].read(stream))
            else:
                self._tell(f"chunk at byte {at}: a record of kind {opcode} has no place in a chunk")
                stream.read(rest)
        self._counts.update(message.channel for message in self._messages)
        times = [message.time for message in self._messages]
        if times and (min(times), max(times)) != (chunk.message_start_time, chunk.message_end_time):
            self._tell(f"chunk at byte {at}: its times are not those of its messages")
        ends = [*self._times, *times]
        self._times = [min(ends), max(ends)] if ends else []
        sizes = (len(chunk.data), chunk.uncompressed_size)
        self._chunks[at] = Extent(length, *_times(chunk), chunk.compression, *sizes)

    def _take_index(self, at: int, index: r.MessageIndex) -> None:
        if self._indexes is None:
            self._tell(f"message index at byte {at}: there is no chunk before it")
        elif index.channel_id in self._indexes:
            self._tell(f"message index at byte {at}: is the second one of channel {index.channel_id}")
        else:
            self._indexes[index.channel_id] = set(index.records)

    def _end_indexes(self) -> None:
        """Compare the newest chunk's messages with the indexes that followed it."""
        if self._indexes is None:
            return
        found: dict[int, set[tuple[int, int]]] = {}
        for message in self._messages:
            found.setdefault(message.channel, set()).add((message.time, message.offset))
        if found != self._indexes:
            self._tell(f"chunk at byte {max(self._chunks)}: its message indexes do not point at its messages")
        self._indexes = None

    def _compare_chunk(self, index: r.ChunkIndex) -> None:
        where = f"chunk at byte {index.chunk_start_offset}"
        if index.chunk_start_offset in self._indexed:
            self._tell(f"{where}: is twice in the summary's index")
        self._indexed.add(index.chunk_start_offset)
        if index.chunk_start_offset not in self._chunks:
            self._tell(f"{where}: is in the summary's index and is none")
            return
        sizes = (index.compressed_size, index.uncompressed_size)
        if self._chunks[index.chunk_start_offset] != (index.chunk_length, *_times(index), index.compression, *sizes):
            self._tell(f"{where}: the summary's index describes another one")

    def _compare_counts(self, found: r.Statistics) -> None:
        counts = {channel: count for channel, count in found.channel_message_counts.items() if count}
        if counts != self._counts or found.message_count != self._counts.total():
            self._tell(f"its statistics count {found.message_count} messages, there are {self._counts.total()}")
        if found.chunk_count != len(self._chunks):
            self._tell(f"its statistics count {found.chunk_count} chunks, there are {len(self._chunks)}")
        if self._times and list(_times(found)) != self._times:
            self._tell("its statistics give other times than its messages")

    def _tell(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def _times(record: r.Chunk | r.ChunkIndex | r.Statistics) -> tuple[int, int]:
    return record.message_start_time, record.message_end_time
