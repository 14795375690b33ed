"""The codec: a field's annotation is its schema, and whatever does not fit exactly is a DecodeError."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgpack
import pytest

from line_worker.errors import DecodeError
from line_worker.wire.codec import MAX_BODY, pack, unpack


@dataclass(frozen=True)
class Point:
    x: int
    y: int


@dataclass(frozen=True)
class Everything:
    name: str
    flag: bool
    count: int
    share: float
    limit: float | None
    point: Point
    points: tuple[Point, ...]
    stages: dict[str, float]
    pixels: bytes = field(default=b"")


@dataclass(frozen=True)
class Small:
    MAX_BODY: ClassVar[int] = 16
    text: str


WHOLE = Everything("n", True, 3, 0.5, None, Point(1, 2), (Point(3, 4), Point(5, 6)), {"a": 1.0}, b"px")


def body(**changes: Any) -> bytes:
    return bytes(msgpack.packb(msgpack.unpackb(pack(WHOLE)) | changes))


def decode(data: bytes) -> Everything:
    return unpack(Everything, data, pixels=b"px")


def test_what_is_packed_comes_back_and_bytes_travel_beside() -> None:
    assert decode(pack(WHOLE)) == WHOLE
    assert b"px" not in pack(WHOLE)


def test_an_integer_is_a_number_where_a_float_is_expected() -> None:
    value = decode(body(share=2)).share
    assert (value, type(value)) == (2.0, float)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": 1}, "Everything.name: expected str, got int"),
        ({"name": None}, "Everything.name"),
        ({"flag": 1}, "Everything.flag: expected bool, got int"),
        ({"count": True}, "Everything.count: expected int, got bool"),
        ({"count": 1.0}, "Everything.count: expected int, got float"),
        ({"share": "1"}, "Everything.share: expected a finite number"),
        ({"share": True}, "Everything.share: expected a finite number"),
        ({"share": float("nan")}, "Everything.share: expected a finite number, got nan"),
        ({"limit": float("inf")}, "Everything.limit: expected a finite number, got inf"),
        ({"point": [1, 2]}, "Everything.point: expected fields, got list"),
        ({"point": {"x": 1}}, "Everything.point: missing or unknown fields: y"),
        ({"points": [{"x": 1, "y": 2, "z": 3}]}, "Everything.points: missing or unknown fields: z"),
        ({"points": {}}, "Everything.points: expected tuple"),
        ({"stages": []}, "Everything.stages: expected dict"),
        ({"stages": {"a": "b"}}, "Everything.stages: expected a finite number"),
        ({"pixels": 1}, "unknown fields: pixels"),
        ({"name": "x" * 5000}, "not msgpack"),
        ({"stages": dict.fromkeys(map(str, range(5000)), 1.0)}, "at most|not msgpack"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        decode(body(**changes))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack(WHOLE)[:-1],
        pack(WHOLE) + b"\x00",
        b"\x91" * 3000,
        b"\x81\xa1a" * 3000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        msgpack.packb({1: 2}),
        msgpack.packb({"name": msgpack.ExtType(1, b"x")}),
        b"\x81\xa2\xff\xff\x01",
        b"\x82\xa1a\x01\xa1a\x01",
    ],
)
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(data)


def test_bodies_are_bounded_before_they_are_parsed() -> None:
    with pytest.raises(DecodeError, match=f"at most {MAX_BODY}"):
        decode(b"\x00" * (MAX_BODY + 1))
    assert unpack(Small, pack(Small("x" * 8))) == Small("x" * 8)
    with pytest.raises(DecodeError, match="at most 16"):
        unpack(Small, pack(Small("x" * 16)))
