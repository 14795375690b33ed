"""Makes hostile input: samples of every message by its own schema, and damage to bytes. A function of the generator."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from random import Random
from typing import Any

import msgpack

from line_worker.verdicts import Reason, verdict_of
from line_worker.wire import messages as m

KINDS = tuple(m.KINDS[number] for number in sorted(m.KINDS))
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"), float("inf"), -0.0, "", "x" * 5000, b"\0" * 9),
    *([], {}, [[]], [1] * 5000, {"a": {"b": {}}}, ["\ud7ff"], {"seq": -1}),
)


def sample(cls: type, rng: Random) -> Any:
    """Return a sound message of `cls`."""
    values = {name: _value(hint, rng) for name, hint in _fields(cls).items()}
    if cls is m.Outcome:
        reason = rng.choice(list(Reason))
        values |= {"reason": int(reason), "verdict": str(verdict_of(reason))}
    if "p_value" in values:  # it stands beside a score
        values |= {"score": rng.random(), "p_value": rng.choice((None, rng.random()))}
    return cls(**values)


@functools.cache
def _fields(cls: type) -> dict[str, Any]:
    """Return the types of a message's fields; found once, as that takes longer than all the rest of a case."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


SIMPLE: dict[Any, Callable[[Random], Any]] = {
    int: lambda rng: rng.choice((0, 1, rng.getrandbits(16), rng.getrandbits(63))),
    float: lambda rng: rng.uniform(-1e6, 1e6),
    str: lambda rng: "".join(rng.choices("abcdefgh/.\0é", k=rng.randrange(12))),
    bool: lambda rng: rng.random() < 0.5,
    bytes: lambda rng: rng.randbytes(rng.randrange(64)),
}


def _value(hint: Any, rng: Random) -> Any:
    if hint in SIMPLE:
        return SIMPLE[hint](rng)
    if dataclasses.is_dataclass(hint):
        inner = sample(typing.cast(type, hint), rng)
        return dataclasses.replace(inner, pixels=b"") if isinstance(inner, m.Frame) else inner
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return None if rng.random() < 0.3 else _value(arguments[0], rng)
    if origin is tuple:
        return tuple(_value(arguments[0], rng) for _ in range(rng.randrange(4)))
    return {_value(str, rng): _value(arguments[1], rng) for _ in range(rng.randrange(4))}


def hostile_parts(rng: Random) -> list[bytes]:
    """Return the parts of a message in which something is wrong, or nothing."""
    head, body, *pixels = m.to_parts(sample(rng.choice(KINDS), rng))
    match rng.randrange(9):
        case 0:
            return [head, body, *pixels]
        case 1:
            return [head, damaged(body, rng), *pixels]
        case 2:
            return [bytes((rng.choice((0, 1, 2, 255)), rng.randrange(256))), body, *pixels]
        case 3:
            return [head, body, *pixels, rng.randbytes(rng.randrange(9))][: rng.randrange(5)]
        case 4:
            return [rng.randbytes(rng.randrange(40)) for _ in range(rng.randrange(5))]
        case 5:
            depth = rng.randrange(1, 3000)
            return [head, rng.choice((b"\x91", b"\x81\xa1a")) * depth + b"\xc0", *pixels]
        case 6:
            return [m.to_parts(sample(rng.choice(KINDS), rng))[0], body, *pixels]
        case _:
            return [head, _repacked(body, rng), *pixels]


def _repacked(body: bytes, rng: Random) -> bytes:
    """Return the body with one field odd, gone, doubled or unknown, at any depth."""
    fields = msgpack.unpackb(body)
    inner = fields
    while (nested := [v for v in inner.values() if isinstance(v, dict) and v]) and rng.random() < 0.5:
        inner = rng.choice(nested)
    name = rng.choice(list(inner)) if inner else "x"
    match rng.randrange(4):
        case 0:
            inner.pop(name, None)
        case 1:
            inner[f"{name}_"] = rng.choice(ODD)
        case _:
            inner[name] = rng.choice(ODD)
    return bytes(msgpack.packb(fields))


def damaged(data: bytes, rng: Random) -> bytes:
    """Return `data` cut, flipped, doubled, or with a piece of itself in another place."""
    if not data:
        return rng.randbytes(4)
    at, size = rng.randrange(len(data)), rng.randrange(1, 1 + min(len(data), 64))
    match rng.randrange(6):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + rng.randbytes(size) + data[at + size :]
        case 2:
            return data[:at] + data[at + size :]
        case 3:
            return data[: at + size] + data[at:]
        case 4:
            value = rng.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0"))
            return data[:at] + value + data[at + 4 :]
        case _:
            flipped = bytearray(data)
            for _ in range(rng.choice((1, 1, 1, 4, 32))):
                flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            return bytes(flipped)
