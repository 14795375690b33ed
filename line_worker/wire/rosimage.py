"""A picture as a ROS 2 message in CDR, which Foxglove, Rerun and the ROS tools open as it is: `sensor_msgs/msg/Image`
as it was taken, `sensor_msgs/msg/CompressedImage` as PNG. Or, for line-worker alone, a message of its own.

CDR (OMG DDSI-RTPS 2.5, 10.2; here little-endian): four bytes of encapsulation, then every number aligned to its own
size counted from there, strings with length and closing NUL, the sequence of bytes with its length.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from line_worker.errors import ImageError
from line_worker.images import decode_image
from line_worker.wire import delta, png

if TYPE_CHECKING:
    from numpy.typing import NDArray

Compression = Literal["none", "png", "delta"]
_RULE = "=" * 80
_HEADER = f"""\
{_RULE}
MSG: std_msgs/Header
builtin_interfaces/Time stamp
string frame_id
{_RULE}
MSG: builtin_interfaces/Time
int32 sec
uint32 nanosec
"""
_IMAGE = f"""\
std_msgs/Header header
uint32 height
uint32 width
string encoding
uint8 is_bigendian
uint32 step
uint8[] data
{_HEADER}"""
_COMPRESSED_IMAGE = f"""\
std_msgs/Header header
string format
uint8[] data
{_HEADER}"""
_DELTA_IMAGE = f"""\
std_msgs/Header header
uint32 height
uint32 width
string encoding
# each row minus the row above; of 16 bits all low bytes first; Zstandard
uint8[] data
{_HEADER}"""
ENCODINGS = {("uint8", 2): "mono8", ("uint16", 2): "mono16", ("uint8", 3): "bgr8", ("uint16", 3): "bgr16"}
_KINDS = {encoding: kind for kind, encoding in ENCODINGS.items()}
_ENCAPSULATION = b"\x00\x01\x00\x00"
_FORMAT = "png"


class Kind(NamedTuple):
    """How pictures are stored: topic below the camera's (as ROS names it), name and text of the schema, codec."""

    topic: str
    schema: str
    definition: str
    encode: Callable[[NDArray[Any], int, str], tuple[bytes, bytes | memoryview]]
    decode: Callable[[bytes], tuple[str, NDArray[Any]]]


def encode(pixels: NDArray[Any], stamp_ns: int, frame_id: str) -> tuple[bytes, memoryview]:
    """Return the message of `pixels`, (H, W) or (H, W, 3) BGR, uint8 or uint16, taken at `stamp_ns`.

    It comes in two buffers, to be written one after the other; the second one is the pixels' own memory.
    """
    height, width = pixels.shape[:2]
    head = _header(stamp_ns, frame_id)
    _align(head)
    head += struct.pack("<II", height, width)
    _text(head, ENCODINGS[pixels.dtype.name, pixels.ndim])
    head.append(0)
    _align(head)
    head += struct.pack("<II", pixels.nbytes // height, pixels.nbytes)
    return _ENCAPSULATION + bytes(head), np.ascontiguousarray(pixels).data.cast("B")


def encode_png(pixels: NDArray[Any], stamp_ns: int, frame_id: str) -> tuple[bytes, bytes]:
    """Return the message of `pixels` as PNG, in two buffers; see `encode`."""
    head = _header(stamp_ns, frame_id)
    _text(head, _FORMAT)
    _align(head)
    data = png.encode(pixels)
    head += struct.pack("<I", len(data))
    return _ENCAPSULATION + bytes(head), data


def encode_delta(pixels: NDArray[Any], stamp_ns: int, frame_id: str) -> tuple[bytes, bytes]:
    """Return the message of `pixels` as differences between rows, in two buffers; see `encode`."""
    head = _header(stamp_ns, frame_id)
    _align(head)
    head += struct.pack("<II", *pixels.shape[:2])
    _text(head, ENCODINGS[pixels.dtype.name, pixels.ndim])
    _align(head)
    data = delta.encode(pixels)
    head += struct.pack("<I", len(data))
    return _ENCAPSULATION + bytes(head), data


def decode(data: bytes) -> tuple[str, NDArray[Any]]:
    """Return (frame_id, pixels) of a message that `encode` made; the pixels are a read-only view of `data`.

    Raises:
        ValueError: the bytes are no such message.
    """
    frame_id, shape, dtype, at = _read_head(data)
    (nbytes,) = _unpack("<4xI", data, at := _aligned(at + 1))
    if nbytes != len(data) - at - 8:
        raise ValueError(f"{len(data) - at - 8} bytes of pixels, {nbytes} announced")
    return frame_id, np.frombuffer(data, dtype, offset=at + 8).reshape(shape)


def decode_delta(data: bytes) -> tuple[str, NDArray[Any]]:
    """Return (frame_id, pixels) of a message that `encode_delta` made.

    Raises:
        ValueError: the bytes are no such message, or the picture is damaged or would be too large.
    """
    frame_id, shape, dtype, at = _read_head(data)
    (nbytes,) = _unpack("<I", data, at := _aligned(at))
    if nbytes != len(data) - at - 4:
        raise ValueError(f"{len(data) - at - 4} compressed bytes, {nbytes} announced")
    return frame_id, delta.decode(data[at + 4 :], shape, dtype)


def decode_png(data: bytes) -> tuple[str, NDArray[Any]]:
    """Return (frame_id, pixels) of a message that `encode_png` made.

    Raises:
        ValueError: the bytes are no such message, or the picture is damaged or would be too large.
    """
    frame_id, at = _read_frame_id(data)
    kind, at = _read_text(data, at)
    (nbytes,) = _unpack("<I", data, at := _aligned(at))
    if kind != _FORMAT or nbytes != len(data) - at - 4:
        raise ValueError(f"{len(data) - at - 4} bytes of {kind!r}, {nbytes} of {_FORMAT!r} announced")
    try:
        return frame_id, decode_image(data[at + 4 :], frame_id)
    except ImageError as error:
        raise ValueError(str(error)) from error


def _header(stamp_ns: int, frame_id: str) -> bytearray:
    head = bytearray(struct.pack("<iI", *divmod(stamp_ns, 1_000_000_000)))
    _text(head, frame_id)
    return head


def _align(buffer: bytearray) -> None:
    buffer += bytes(-len(buffer) % 4)


def _aligned(at: int) -> int:
    """Return the next offset that is aligned to 4; the encapsulation is 4 bytes long and does not matter."""
    return at + -at % 4


def _text(buffer: bytearray, text: str) -> None:
    _align(buffer)
    raw = text.encode() + b"\0"
    buffer += struct.pack("<I", len(raw)) + raw


def _read_head(data: bytes) -> tuple[str, tuple[int, ...], str, int]:
    """Return frame_id, shape and type of the pixels, and where the fields that follow their encoding begin."""
    frame_id, at = _read_frame_id(data)
    height, width = _unpack("<II", data, at := _aligned(at))
    encoding, at = _read_text(data, at + 8)
    if encoding not in _KINDS:
        raise ValueError(f"encoding {encoding!r} is not used by line-worker")
    dtype, dimensions = _KINDS[encoding]
    return frame_id, (height, width, 3)[:dimensions], dtype, at


def _read_frame_id(data: bytes) -> tuple[str, int]:
    if data[:4] != _ENCAPSULATION:
        raise ValueError("not little-endian CDR")
    return _read_text(data, 12)


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    at = _aligned(at)
    (length,) = _unpack("<I", data, at)
    end = at + 4 + length
    return data[at + 4 : end - 1].decode(), end


def _unpack(layout: str, data: bytes, at: int) -> tuple[Any, ...]:
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error as error:
        raise ValueError(f"cut: {error}") from error


KINDS: dict[Compression, Kind] = {
    "none": Kind("image", "sensor_msgs/msg/Image", _IMAGE, encode, decode),
    "png": Kind("image/compressed", "sensor_msgs/msg/CompressedImage", _COMPRESSED_IMAGE, encode_png, decode_png),
    "delta": Kind("image/delta", "line_worker/msg/DeltaImage", _DELTA_IMAGE, encode_delta, decode_delta),
}
