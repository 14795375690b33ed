"""Reads what a damaged MCAP file still holds.

A file with an intact summary is read by its index of chunks, so that damage anywhere loses one chunk only. A file
without one (the writer was killed, the copy was cut) is read record by record until the records end. Every chunk's CRC
is checked; what cannot be read is named in `problems`.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import zstandard
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, McapRecord, Message, Metadata
from mcap.stream_reader import ReadDataStream, breakup_chunk

from line_worker.errors import RecordingError

MAGIC = b"\x89MCAP0\r\n"
HEAD = struct.Struct("<BQ")  # opcode, length of the record that follows
FOOTER = struct.Struct("<BQQQI")  # opcode, length, start of the summary, start of its offsets, CRC
MAX_CHUNK = 1 << 30  # bytes a chunk may decompress to
BROKEN = (McapError, ValueError, OverflowError, struct.error, zstandard.ZstdError, RuntimeError)  # lz4: RuntimeError


class McapScan:
    """An MCAP file, opened anew for every pass.

    `whole`: it has an intact end. `counts`: topic -> messages that were written, known for a whole file only.

    Raises:
        RecordingError: it cannot be opened or is not MCAP.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.problems = path, list[str]()
        self.counts: dict[str, int] = {}
        self._channels: dict[int, Channel] = {}
        self._chunks: list[tuple[int, int]] = []  # offset and length of the record, from the summary
        self._metadata: list[tuple[int, int]] = []
        with self._open() as file:
            self._size = file.seek(0, 2)
            file.seek(0)
            if file.read(len(MAGIC)) != MAGIC:
                raise RecordingError(f"{path}: is not an MCAP file; nothing was read; give a recording of line-worker")
            self.whole = self._summary_is_intact(file) and self._read_summary(file)

    def messages(self) -> Iterator[tuple[str, Message]]:
        """Yield (topic, message) of every message that can be read, in the order of the file."""
        self.problems = []
        with self._open() as file:
            for start, chunk in self._find_chunks(file):
                yield from self._unpack(start, chunk)

    def metadata(self) -> Iterator[Metadata]:
        """Yield every metadata record that can be read; MCAP does not protect them with a CRC."""
        with self._open() as file:
            for body in self._find_metadata(file):
                with contextlib.suppress(*BROKEN):
                    yield Metadata.read(ReadDataStream(BytesIO(body)))

    # ---- finding chunks -----------------------------------------------------------------------------------------

    def _find_chunks(self, file: BinaryIO) -> Iterator[tuple[int, bytes]]:
        if not self.whole:
            yield from ((at, file.read(length)) for at, length in self._records(file, Opcode.CHUNK))
            return
        for at, length in self._chunks:
            file.seek(at)
            opcode, announced = HEAD.unpack(file.read(HEAD.size))
            body = file.read(length - HEAD.size)
            if (opcode, announced) != (Opcode.CHUNK, len(body)):
                self.problems.append(f"chunk at byte {at}: its head is damaged; {length} bytes are lost")
            else:
                yield at, body

    def _find_metadata(self, file: BinaryIO) -> Iterator[bytes]:
        if not self.whole:
            yield from (file.read(length) for _, length in self._records(file, Opcode.METADATA))
            return
        for at, length in self._metadata:
            file.seek(at + HEAD.size)
            yield file.read(length - HEAD.size)

    def _records(self, file: BinaryIO, wanted: Opcode) -> Iterator[tuple[int, int]]:
        """Yield (offset, length of the body) of the wanted records, one after the other; `file` stands at the body."""
        at = len(MAGIC)
        while at + HEAD.size <= self._size:
            file.seek(at)
            opcode, length = HEAD.unpack(file.read(HEAD.size))
            if opcode in (0, Opcode.FOOTER) or at + HEAD.size + length > self._size:
                break
            if opcode == wanted:
                yield at, length
            at += HEAD.size + length
        if at < self._size and not self.whole:
            self.problems.append(f"the file is cut or damaged at byte {at}: {self._size - at} bytes are lost")

    def _unpack(self, at: int, body: bytes) -> Iterator[tuple[str, Message]]:
        try:
            records = _records_of(body)
        except BROKEN as error:
            self.problems.append(f"chunk at byte {at}: {error}; {len(body)} bytes are lost")
            return
        for record in records:
            if isinstance(record, Channel):
                self._channels[record.id] = record
            elif isinstance(record, Message) and record.channel_id in self._channels:
                yield self._channels[record.channel_id].topic, record
            elif isinstance(record, Message):
                self.problems.append(f"chunk at byte {at}: a message of a channel that is lost")

    # ---- the summary --------------------------------------------------------------------------------------------

    def _summary_is_intact(self, file: BinaryIO) -> bool:
        """Check the end of the file: magic, footer, CRC of everything from the summary to the CRC itself."""
        end = self._size - len(MAGIC) - FOOTER.size
        if end < len(MAGIC):
            return False
        file.seek(end)
        footer, magic = file.read(FOOTER.size), file.read()
        opcode, _, start, _, crc = FOOTER.unpack(footer)
        if magic != MAGIC or opcode != Opcode.FOOTER or not len(MAGIC) <= start < end:
            return False
        file.seek(start)
        return bool(crc == zlib.crc32(footer[:-4], zlib.crc32(file.read(end - start))))

    def _read_summary(self, file: BinaryIO) -> bool:
        file.seek(0)
        try:
            summary = SeekingReader(file).get_summary()
        except BROKEN:
            return False
        if summary is None or summary.statistics is None:
            return False
        self._channels = dict(summary.channels)
        self._chunks = [(index.chunk_start_offset, index.chunk_length) for index in summary.chunk_indexes]
        self._metadata = [(index.offset, index.length) for index in summary.metadata_indexes]
        written = summary.statistics.channel_message_counts
        self.counts = {channel.topic: written.get(number, 0) for number, channel in summary.channels.items()}
        return True

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise RecordingError(f"{self.path}: cannot be opened ({error.strerror}); check the path") from error


def _records_of(body: bytes) -> list[McapRecord]:
    """Return the records in a chunk; one of BROKEN when it is damaged, or would be too large unpacked."""
    chunk = Chunk.read(ReadDataStream(BytesIO(body)))
    check_size(chunk)
    records: list[McapRecord] = breakup_chunk(chunk, validate_crc=True)
    return records


def check_size(chunk: Chunk) -> None:
    """Refuse, with a ValueError, a chunk that would take too much memory unpacked."""
    size = zstandard.frame_content_size(chunk.data) if chunk.compression == "zstd" else 0
    if max(chunk.uncompressed_size, size) > MAX_CHUNK:
        raise ValueError(f"it would unpack to {chunk.uncompressed_size} bytes, at most {MAX_CHUNK} are read")
