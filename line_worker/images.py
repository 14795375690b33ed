"""Image files and encoded bytes to arrays and back, without trusting them.

The format and the dimensions are read from the header before anything is decoded, so that a small file cannot ask
for gigabytes; a cut file is an error, never a picture with a gray end. OpenCV does the decoding and is imported on
first use. Its own limit on pixels is set here as the second line of defence.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from line_worker.errors import ImageError

Image = NDArray[np.uint8] | NDArray[np.uint16]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
MAX_PIXELS = 100_000_000
BYTES_PER_PIXEL = 8  # 16-bit BGRA: no honest file is larger than this a pixel, plus its metadata
METADATA_BYTES = 16 << 20
WEBP_ROUNDING = 2  # gray levels by which the channels of a gray picture differ after lossy WebP

os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))  # OpenCV reads it when it is first imported


def read_image(path: str | Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Return the image in a file: uint8 or uint16, (H, W) gray or (H, W, 3) BGR; see `decode_image`."""
    try:
        size = os.stat(path).st_size
        if size > max_pixels * BYTES_PER_PIXEL + METADATA_BYTES:
            raise ImageError(f"{path}: {size:,} bytes is more than an image of {max_pixels:,} pixels needs; not opened")
        data = Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    return decode_image(data, str(path), max_pixels)


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Return the image in PNG, JPEG, WebP, BMP or TIFF bytes: uint8 or uint16, (H, W) gray or (H, W, 3) BGR.

    Bit depth is kept, an alpha channel is dropped, EXIF orientation is not applied; a WebP file, which has no gray, is
    gray when its channels are equal. `name` stands for the image in errors.
    Raises ImageError when it is another format, cut, damaged, or larger than `max_pixels`.
    """
    width, height = _dimensions(data, name)
    if width * height > max_pixels:
        raise ImageError(f"{name}: {width} x {height} pixels are more than the {max_pixels:,} allowed; scale it down")
    image = _decoded(data, name)
    if image.shape[:2] != (height, width):
        raise ImageError(f"{name}: its header says {width} x {height} but it holds {image.shape[1]} x {image.shape[0]}")
    return image


def encode_png(image: Image) -> bytes:
    """Return `image` (uint8 or uint16, gray or BGR) as PNG, lossless."""
    import cv2

    done, data = cv2.imencode(".png", image)  # the default level: level 1 is 2-3 times slower in OpenCV 5
    if not done:
        raise ImageError(f"an image of shape {image.shape} and type {image.dtype} cannot be written as PNG")
    return data.tobytes()


def save_png(path: str | Path, image: Image) -> None:
    """Write `image` as PNG; raises OSError when the file cannot be written."""
    Path(path).write_bytes(encode_png(image))


def _decoded(data: bytes, name: str) -> Image:
    import cv2

    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise _damaged(name) from error
    if image is None:
        raise _damaged(name)
    if image.dtype not in (np.uint8, np.uint16):
        raise ImageError(f"{name}: its pixels are {image.dtype}; save it with 8 or 16 bits a channel")
    if image.ndim == 3:
        image = image[..., 0] if image.shape[2] <= 2 else image[..., :3]
    if image.ndim == 3 and data.startswith(b"RIFF") and _is_gray(image):
        image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return cast(Image, np.ascontiguousarray(image))


def _is_gray(image: Image) -> bool:
    """Return whether the channels of (H, W, 3) are equal but for what WebP's colour conversion rounds."""
    import cv2

    blue, green, red = cv2.split(image)
    return max(cv2.norm(blue, green, cv2.NORM_INF), cv2.norm(red, green, cv2.NORM_INF)) <= WEBP_ROUNDING


def _damaged(name: str) -> ImageError:
    return ImageError(f"{name}: is cut off or damaged and was not used; copy or record it again")


def _dimensions(data: bytes, name: str) -> tuple[int, int]:
    """Return (width, height) as the header states them."""
    try:
        for magic, reader in _READERS.items():
            if data.startswith(magic):
                width, height = reader(data)
                break
        else:
            raise ImageError(f"{name}: is not PNG, JPEG, WebP, BMP or TIFF; convert it to one of them")
    except (struct.error, IndexError) as error:
        raise _damaged(name) from error
    if width <= 0 or height <= 0:
        raise _damaged(name)
    return width, height


def _png(data: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _jpeg(data: bytes) -> tuple[int, int]:
    """Walk the segments to the frame header (SOF); the end marker must follow it, or the file is cut."""
    at = 2
    while True:
        while data[at + 1] == 0xFF:  # fill bytes
            at += 1
        marker, length = struct.unpack_from(">xBH", data, at)
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return (width, height) if data.rfind(b"\xff\xd9") > at else (0, 0)
        if data[at] != 0xFF or marker == 0xDA:
            return 0, 0
        at += 2 + length


def _bmp(data: bytes) -> tuple[int, int]:
    if struct.unpack_from("<I", data, 14)[0] == 12:  # OS/2 header
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = struct.unpack_from("<ii", data, 18)
    return width, abs(height)  # a negative height means top row first


def _webp(data: bytes) -> tuple[int, int]:
    chunk = data[12:16]
    if data[8:12] != b"WEBP":
        return 0, 0
    if chunk == b"VP8X":
        fields = struct.unpack_from("<HBHB", data, 24)
        return fields[0] + (fields[1] << 16) + 1, fields[2] + (fields[3] << 16) + 1
    if chunk == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _tiff(data: bytes) -> tuple[int, int]:
    """Read ImageWidth (256) and ImageLength (257) from the first directory."""
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(order + "I", data, 4)[0]
    entries = struct.unpack_from(order + "H", data, start)[0]
    found = {}
    for at in range(start + 2, start + 2 + 12 * entries, 12):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in (256, 257):
            found[tag] = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, at + 8)[0]
    return found.get(256, 0), found.get(257, 0)


_READERS = {
    b"\x89PNG\r\n\x1a\n": _png,
    b"\xff\xd8\xff": _jpeg,
    b"BM": _bmp,
    b"RIFF": _webp,
    b"II*\x00": _tiff,
    b"MM\x00*": _tiff,
}
