"""Pictures out of a camera's buffer, by the names of GenICam's Pixel Format Naming Convention (PFNC 2.4).

What sensors give in 10, 12 or 14 bits comes back as uint16 with full scale at the top, so that brightness means the
same whatever the format. Bayer patterns are demosaiced to BGR.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from line_worker.errors import SourceError

Place = Callable[..., NDArray[Any]]  # (shape, dtype) -> room for a picture

MONO = re.compile(r"Mono(8|10|12|14|16)")
BAYER = re.compile(r"Bayer(RG|GR|GB|BG)(8|10|12|14|16)")
PACKED = re.compile(r"(p|Packed)$")
ROWS = {"RG": "RGGB", "GR": "GRBG", "GB": "GBRG", "BG": "BGGR"}  # PFNC names the first row, OpenCV all four pixels
COLOURS = {"BGR8": (3, False), "RGB8": (3, True), "BGRa8": (4, False), "RGBa8": (4, True)}
FORMATS = "Mono8/10/12/14/16, BayerRG/GR/GB/BG8/10/12/14/16, BGR8, RGB8, BGRa8, RGBa8"


def picture(data: NDArray[Any], width: int, height: int, pixel_format: str, place: Place = np.empty) -> NDArray[Any]:
    """Return a copy of a buffer as (H, W) gray or (H, W, 3) BGR, uint8 or uint16, made where `place` gives room.

    data: the buffer's samples in one row, uint8 or uint16. Raises SourceError for a format that is not one of FORMATS,
    for a buffer that is too short, and for a picture without pixels.
    """
    channels, bits = _layout(pixel_format)
    samples = _wide(data) if bits > 8 and data.dtype == np.uint8 else data
    if not 0 < width * height * channels <= samples.size:
        raise SourceError(
            f"the camera's buffer holds {samples.size} samples, a picture of {width} x {height} in {pixel_format} has "
            f"{width * height * channels}; parts cannot be seen; set another PixelFormat or size"
        )
    pixels = samples[: width * height * channels].reshape(height, width, channels)
    bayer = BAYER.fullmatch(pixel_format)
    room = place((height, width, 3) if bayer or channels > 1 else (height, width), samples.dtype)
    if bayer:
        _demosaiced(pixels[..., 0], bayer[1], room)
    elif channels == 1:
        np.copyto(room, pixels[..., 0])
    else:
        np.copyto(room, pixels[..., 2::-1] if COLOURS[pixel_format][1] else pixels[..., :3])
    return np.left_shift(room, 16 - bits, out=room) if 8 < bits < 16 else room


def unpacked(samples: NDArray[Any], pixel_format: str) -> NDArray[Any]:
    """Return what a driver has unpacked, (H, W) samples or (H, W, 3) RGB, as `picture` does; packed formats count, too.

    Raises SourceError for a format that the driver did not unpack, and for a picture without pixels.
    """
    if not samples.size:
        raise SourceError("the camera gives a picture without pixels; parts cannot be seen; set its width and height")
    if samples.ndim == 3:
        return np.ascontiguousarray(samples[..., ::-1])
    plain = PACKED.sub("", pixel_format)
    if samples.ndim != 2 or plain in COLOURS:
        raise _unknown(pixel_format)
    bits = _layout(plain)[1]
    if found := BAYER.fullmatch(plain):
        return _raised(_demosaiced(samples, found[1]), bits)
    return _raised(np.ascontiguousarray(samples), bits)


def _wide(data: NDArray[Any]) -> NDArray[Any]:
    """Return bytes as uint16; one too many, as a cut buffer has, is none."""
    return data[: data.size // 2 * 2].view(np.uint16)


def _layout(pixel_format: str) -> tuple[int, int]:
    """Return how many samples a pixel has, and of how many bits."""
    if found := MONO.fullmatch(pixel_format) or BAYER.fullmatch(pixel_format):
        return 1, int(found[found.lastindex or 1])
    if pixel_format in COLOURS:
        return COLOURS[pixel_format][0], 8
    raise _unknown(pixel_format)


def _unknown(pixel_format: str) -> SourceError:
    return SourceError(
        f"the camera gives {pixel_format}, which is not read here; parts cannot be seen; set its PixelFormat to one of "
        f"{FORMATS} (packed formats are read from `gige` cameras only)"
    )


def _demosaiced(pixels: NDArray[Any], row: str, room: NDArray[Any] | None = None) -> NDArray[Any]:
    import cv2

    code: int = getattr(cv2, f"COLOR_Bayer{ROWS[row]}2BGR")
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), code, dst=room))


def _raised(pixels: NDArray[Any], bits: int) -> NDArray[Any]:
    """Return samples of `bits` with full scale at the top of their type."""
    return pixels << (16 - bits) if 8 < bits < 16 else pixels
