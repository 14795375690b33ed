"""Pixels from one process to another on the same host: a ring of slots in shared memory.

A slot is a 64-byte head (generation, length) and the pixels. The generation is odd while the source writes and even
afterwards, so a reader that was overtaken notices; the checksum in the message proves the rest. The file is mapped
directly: Python's own shared memory destroys a segment when any reader exits (CPython issue 82300).
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import mmap
import os
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xxhash

from line_worker.errors import FrameError, SourceError
from line_worker.verdicts import Reason
from line_worker.wire.messages import DTYPES, Frame

if TYPE_CHECKING:
    from numpy.typing import NDArray

Empty = Callable[[tuple[int, ...], Any], "NDArray[Any]"]  # shape, dtype

SHM = Path("/dev/shm")
HEAD = 64
PAGE = 4096
_WORDS = struct.Struct("<QQ")


def checksum(pixels: NDArray[Any] | bytes) -> int:
    """Return xxh3-64 of the pixels' bytes in C order."""
    return xxhash.xxh3_64_intdigest(np.ascontiguousarray(pixels).data if isinstance(pixels, np.ndarray) else pixels)


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a picture was put: byte offset in the ring and the generation that it has there."""

    offset: int
    generation: int


class FrameRing:
    """The source's end: `put` copies a picture into a free slot, `free` gives the slot back.

    A picture that is made in the room of `reserve` is there already.

    `slots` is the window plus some slack for readers that copy late (a recorder): freed slots are reused oldest first.

    Raises:
        SourceError: there is no room for the ring.
    """

    def __init__(self, name: str, slots: int, slot_bytes: int) -> None:
        self.name, self.slot_bytes = name, slot_bytes
        self._stride = -(-(HEAD + slot_bytes) // PAGE) * PAGE
        self._file = -1
        size = slots * self._stride
        try:
            _sweep(name)
            self._path, self._file = _new_file(name)
            os.posix_fallocate(self._file, 0, size)  # a full /dev/shm fails here, not with SIGBUS later
        except OSError as error:
            self.close()
            raise SourceError(
                f"{SHM}: no room for {size / 1e6:.0f} MB of shared memory ({error.strerror}), so frames cannot travel; "
                'make it larger, or the camera\'s window or max_frame_mb smaller, or use transport = "inline"'
            ) from error
        self._map = mmap.mmap(self._file, slots * self._stride)
        self._free = list(range(slots))
        self._reserved: NDArray[Any] | None = None
        self._generation = [0] * slots

    @property
    def ring(self) -> str:
        """The file's name, as messages carry it."""
        return self._path.name

    @property
    def nbytes(self) -> int:
        """Bytes of shared memory held."""
        return len(self._map)

    def reserve(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any] | None:
        """Return room in the slot that `put` takes next, good until then or the next call; None when there is none."""
        self._reserved = None
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        if self._free and 0 < nbytes <= self.slot_bytes:
            self._reserved = self._begun(self._free[0], shape, np.dtype(dtype))
        return self._reserved

    def put(self, pixels: NDArray[Any]) -> Slot | None:
        """Copy `pixels` into the slot that has been free longest; None when every slot is in use."""
        if not self._free:
            return None
        if pixels.nbytes > self.slot_bytes:
            raise FrameError(f"frame of {pixels.nbytes} bytes, a slot holds {self.slot_bytes}", Reason.TOO_BIG)
        index = self._free.pop(0)
        if pixels is not self._reserved:
            np.copyto(self._begun(index, pixels.shape, pixels.dtype), pixels)
        self._reserved = None
        generation = self._generation[index] + 2
        start = index * self._stride
        _WORDS.pack_into(self._map, start, generation, pixels.nbytes)
        self._generation[index] = generation
        return Slot(start, generation)

    def free(self, slot: Slot) -> None:
        """Give `slot` back; one that has been reused since is left alone."""
        index = slot.offset // self._stride
        if self._generation[index] == slot.generation and index not in self._free:
            self._free.append(index)

    def close(self) -> None:
        """Remove the ring; readers that still map it keep what they have. May be called twice."""
        if self._file < 0:
            return
        if hasattr(self, "_map"):
            self._reserved = None
            with contextlib.suppress(BufferError):
                self._map.close()
        self._path.unlink(missing_ok=True)
        os.close(self._file)
        self._file = -1

    def _begun(self, index: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Say that a slot is being written; returns its pixels."""
        start, size = index * self._stride, math.prod(shape)
        _WORDS.pack_into(self._map, start, self._generation[index] + 1, size * dtype.itemsize)
        return np.frombuffer(self._map, dtype, size, start + HEAD).reshape(shape)


def _new_file(name: str) -> tuple[Path, int]:
    """Create and lock a ring's file; the lock is held while the source lives, and `_sweep` respects it."""
    while True:
        path = SHM / f"{name}.{os.getpid()}-{os.urandom(4).hex()}.ring"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file).st_nlink:  # else another line of this name has swept it before it was locked
            return path, file
        os.close(file)


def _sweep(name: str) -> None:
    """Remove rings of sources with this name that died without closing them."""
    ours = re.compile(re.escape(name) + r"\.\d+-[0-9a-f]{8}\.ring")
    for path in (path for path in SHM.iterdir() if ours.fullmatch(path.name)):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(handle)


class FrameReader:
    """The reading end in a worker or recorder: maps rings as they appear in messages.

    empty: makes the arrays (shape, dtype) that pictures are copied to; a GPU wants them in memory of its own choice.
    """

    def __init__(self, keep: int = 8, empty: Empty = np.empty) -> None:
        self._rings: dict[str, mmap.mmap] = {}
        self._keep, self._empty = keep, empty

    def read(self, frame: Frame, inline: bytes) -> NDArray[Any]:
        """Return a private copy of the frame's pixels, (H, W) or (H, W, 3), uint8 or uint16.

        Raises:
            FrameError: with reason SHAPE, LENGTH or CRC when they are not what the header says.
        """
        if frame.nbytes < 0:
            raise FrameError(f"{frame.key}: no picture: {frame.shape} {frame.dtype} {frame.colour}", Reason.SHAPE)
        pixels = self._from_ring(frame) if frame.place == "ring" else _inline(frame, inline)
        if checksum(pixels) != frame.checksum:
            raise FrameError(f"{frame.key}: checksum differs: the pixels were damaged or overwritten", Reason.CRC)
        return pixels

    def close(self) -> None:
        """Unmap everything."""
        for ring in self._rings.values():
            with contextlib.suppress(BufferError):
                ring.close()
        self._rings.clear()

    def _from_ring(self, frame: Frame) -> NDArray[Any]:
        ring = self._rings.get(frame.ring) or self._open(frame.ring)
        if frame.offset < 0 or frame.offset + HEAD + frame.nbytes > len(ring):
            raise FrameError(f"{frame.key}: {frame.nbytes} bytes at {frame.offset} lie outside its ring", Reason.LENGTH)
        head = (frame.generation, frame.nbytes)
        self._expect(frame, _WORDS.unpack_from(ring, frame.offset), head)
        count = frame.nbytes // DTYPES[frame.dtype]
        pixels = self._empty(frame.shape, np.dtype(frame.dtype))
        np.copyto(pixels, np.frombuffer(ring, frame.dtype, count, frame.offset + HEAD).reshape(frame.shape))
        self._expect(frame, _WORDS.unpack_from(ring, frame.offset), head)
        return pixels

    @staticmethod
    def _expect(frame: Frame, found: tuple[int, ...], head: tuple[int, int]) -> None:
        if found[0] != head[0]:
            raise FrameError(f"{frame.key}: its slot has been overwritten", Reason.CRC)
        if found[1] != head[1]:
            raise FrameError(f"{frame.key}: slot holds {found[1]} bytes, header says {head[1]}", Reason.LENGTH)

    def _open(self, name: str) -> mmap.mmap:
        if "/" in name or not name.endswith(".ring"):
            raise FrameError(f"{name!r} names no ring", Reason.HEADER)
        try:
            with open(SHM / name, "rb") as file:
                ring = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            raise FrameError(f"ring {name} is gone: its source has stopped ({error})", Reason.CRC) from error
        for dead in [known for known in self._rings if not (SHM / known).exists()]:
            del self._rings[dead]  # a ring's memory is freed when the last one who maps it lets go
        while len(self._rings) >= self._keep:
            del self._rings[next(iter(self._rings))]
        self._rings[name] = ring
        return ring


def _inline(frame: Frame, data: bytes) -> NDArray[Any]:
    if len(data) != frame.nbytes:
        raise FrameError(f"{frame.key}: {len(data)} bytes came, header says {frame.nbytes}", Reason.LENGTH)
    return np.frombuffer(data, frame.dtype).reshape(frame.shape)
