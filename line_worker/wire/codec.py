"""Frozen dataclass <-> msgpack, strict in both directions.

A field's annotation is its schema: `int`, `float`, `str`, `bool`, another dataclass, `tuple[X, ...]`, `dict[str, X]`
and `X | None`. Whatever does not fit exactly (a missing or unknown field, a wrong type, NaN or infinity, a string or
list beyond the bounds) is one `DecodeError`; nothing of such a message is used.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from functools import lru_cache
from typing import Any, TypeVar

import msgpack

from line_worker.errors import DecodeError

MAX_BODY = 64 * 1024  # bytes of a msgpack body, unless its class has a MAX_BODY; pixels travel beside it, not in it
MAX_ITEMS = 4096
MAX_TEXT = 4096

T = TypeVar("T")


def pack(value: Any) -> bytes:
    """Return the msgpack bytes of a dataclass instance; its `bytes` fields travel beside the body and are left out."""
    return bytes(msgpack.packb(_plain(value)))


def unpack(cls: type[T], body: bytes, **beside: Any) -> T:
    """Return a `cls` decoded from `body`, with the fields of `beside` set as they are.

    Raises:
        DecodeError: the body is not exactly a `cls`.
    """
    return _build(cls, _raw(cls, body), cls.__name__, beside)


def unpack_field(cls: type, body: bytes, name: str, field: type[T]) -> T:
    """Return the `field` under `name` in `body`, however little the rest of it is a `cls`.

    Raises:
        DecodeError: it is not there, or not exactly a `field`.
    """
    raw = _raw(cls, body)
    return _build(field, raw.get(name) if isinstance(raw, dict) else None, f"{cls.__name__}.{name}", {})


def _raw(cls: type, body: bytes) -> Any:
    limit = getattr(cls, "MAX_BODY", MAX_BODY)
    if len(body) > limit:
        raise DecodeError(f"{cls.__name__}: body of {len(body)} bytes, at most {limit} are allowed")
    try:
        return msgpack.unpackb(
            body, max_str_len=MAX_TEXT, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS, max_bin_len=0, max_ext_len=0
        )
    except (ValueError, msgpack.exceptions.UnpackException, TypeError) as error:
        raise DecodeError(f"{cls.__name__}: not msgpack: {error}") from error


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        pairs = ((f.name, getattr(value, f.name)) for f in fields)
        return {name: _plain(item) for name, item in pairs if not isinstance(item, bytes)}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@lru_cache(maxsize=64)
def _schema(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls) if hints[f.name] is not bytes}


def _build(cls: type[T], raw: Any, where: str, beside: dict[str, Any]) -> T:
    if not isinstance(raw, dict):
        raise DecodeError(f"{where}: expected fields, got {type(raw).__name__}")
    schema = _schema(typing.cast(type, cls))
    if raw.keys() != schema.keys():
        odd = sorted(str(name) for name in raw.keys() ^ schema.keys())
        raise DecodeError(f"{where}: missing or unknown fields: {', '.join(odd)[:200]}")
    values = {name: _check(hint, raw[name], f"{where}.{name}") for name, hint in schema.items()}
    try:
        return cls(**values, **beside)
    except ValueError as error:
        raise DecodeError(f"{where}: {error}") from error


def _check(hint: Any, raw: Any, where: str) -> Any:
    if hint is float:
        return _number(raw, where)
    if hint in (int, str, bool):
        if type(raw) is not hint:
            raise DecodeError(f"{where}: expected {hint.__name__}, got {type(raw).__name__}")
        return raw
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), raw, where, {})
    return _check_container(hint, raw, where)


def _check_container(hint: Any, raw: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if raw is None else _check(args[0], raw, where)
    if origin is tuple and isinstance(raw, list):
        return tuple(_check(args[0], item, where) for item in raw)
    if origin is dict and isinstance(raw, dict):
        return {_check(str, key, where): _check(args[1], item, where) for key, item in raw.items()}
    raise DecodeError(f"{where}: expected {hint}, got {type(raw).__name__}")


def _number(raw: Any, where: str) -> float:
    if type(raw) not in (int, float) or not math.isfinite(raw):
        raise DecodeError(f"{where}: expected a finite number, got {raw!r:.40}")
    return float(raw)
