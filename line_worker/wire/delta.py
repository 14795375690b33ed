"""Pictures as differences between rows, compressed by Zstandard: as small as PNG, for a third of the processor's time
where pictures carry a sensor's noise. No other program shows them.

Every row is stored minus the row above, modulo the type's range; of 16 bits all low bytes first, then all high ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import zstandard

from line_worker.images import MAX_PIXELS

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 1


def encode(pixels: NDArray[Any]) -> bytes:
    """Return `pixels`, (H, W) or (H, W, 3), uint8 or uint16, as one Zstandard frame."""
    difference = np.empty(pixels.shape, pixels.dtype.newbyteorder("<"))
    difference[0] = pixels[0]
    np.subtract(pixels[1:], pixels[:-1], out=difference[1:])
    planes = np.ascontiguousarray(difference.view(np.uint8).reshape(-1, pixels.itemsize).T)
    return zstandard.ZstdCompressor(level=LEVEL).compress(planes.data)


def decode(data: bytes, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return the pixels that `encode` was given.

    Raises:
        ValueError: the bytes are damaged, or the shape has more than MAX_PIXELS or is not theirs.
    """
    if shape[0] * shape[1] > MAX_PIXELS:
        raise ValueError(f"{shape[1]} x {shape[0]} pixels are more than the {MAX_PIXELS:,} allowed")
    kind = np.dtype(dtype).newbyteorder("<")
    nbytes = int(np.prod(shape)) * kind.itemsize
    try:
        size = zstandard.frame_content_size(data)
        if size != nbytes:
            raise ValueError(f"{size} bytes of pixels, a picture of {shape} has {nbytes}")
        planes = zstandard.ZstdDecompressor().decompress(data)
    except zstandard.ZstdError as error:
        raise ValueError(f"damaged: {error}") from error
    low_first = np.frombuffer(planes, np.uint8).reshape(kind.itemsize, -1)
    pixels = np.ascontiguousarray(low_first.T).view(kind).reshape(shape).astype(dtype)
    for row in range(1, shape[0]):  # faster than a cumulative sum along the columns
        pixels[row] += pixels[row - 1]
    return pixels
