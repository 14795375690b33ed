"""Pictures as PNG at the speed of a camera: every row as its difference from the row above (PNG's filter "up"), then
deflate by ISA-L: 4.5 ms a megapixel with a sensor's noise, 12 ms by OpenCV's own encoder. Any reader of PNG reads it.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"\x89PNG\r\n\x1a\n"
GRAY, RGB = 0, 2  # colour types
UP = 2  # filter
LEVEL = 1  # ISA-L knows 0 to 3; above 1 it makes hardly anything smaller


def encode(pixels: NDArray[Any]) -> bytes:
    """Return `pixels`, (H, W) or (H, W, 3) BGR, uint8 or uint16, as a PNG file of the same depth."""
    from isal import isal_zlib

    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, GRAY if pixels.ndim == 2 else RGB, 0, 0, 0)
    body: bytes = isal_zlib.compress(_filtered(_samples(pixels)), LEVEL)
    return b"".join((MAGIC, *_chunk(b"IHDR", header), *_chunk(b"IDAT", body), *_chunk(b"IEND", b"")))


def _samples(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of each row in PNG's order: red first, the high byte first; (H, bytes of a row)."""
    if pixels.ndim == 3:
        import cv2

        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    if pixels.itemsize == 2:
        pixels = pixels.astype(">u2")
    return np.ascontiguousarray(pixels).view(np.uint8).reshape(len(pixels), -1)


def _filtered(rows: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return each row as the filter's number and the difference from the row above, modulo 256."""
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    return filtered


def _chunk(name: bytes, data: bytes) -> tuple[bytes, bytes, bytes]:
    crc = zlib.crc32(data, zlib.crc32(name))
    return struct.pack(">I", len(data)) + name, data, struct.pack(">I", crc)
