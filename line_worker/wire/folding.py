"""The parts of a message in one, for ends that connect.

libzmq 4.3.5 aborts the whole process ("Assertion failed: !_more (src/fq.cpp)") when an end that connects with IMMEDIATE
learns between two parts of a message that its connection is gone: after every hundredth part it looks. A role that had
many messages waiting died with its hub. A message of one part has no such moment.

    number of parts (1 byte), length of each (4 bytes, big-endian), the parts
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from line_worker.errors import DecodeError

MOST = 8


def fold(parts: Sequence[bytes]) -> bytes:
    """Return `parts`, at most `MOST`, as one."""
    return b"".join((struct.pack(f">B{len(parts)}I", len(parts), *map(len, parts)), *parts))


def unfold(folded: bytes) -> list[bytes]:
    """Return the parts in `folded`.

    Raises:
        DecodeError: it is not what `fold` returns.
    """
    count = folded[0] if folded else 0
    start = 1 + 4 * count
    if not 0 < count <= MOST or len(folded) < start:
        raise DecodeError(f"{len(folded)} bytes that hold no parts")
    lengths = struct.unpack_from(f">{count}I", folded, 1)
    if start + sum(lengths) != len(folded):
        raise DecodeError(f"{count} parts of {sum(lengths)} bytes in a message of {len(folded)}")
    parts = []
    for length in lengths:
        parts.append(folded[start : start + length])
        start += length
    return parts
