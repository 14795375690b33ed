"""Payloads of Sparkplug B (Eclipse Sparkplug 3.0, chapter 6): metrics as Protocol Buffers.

The messages are declared here, with the numbers of the specification, of what this sink sends and reads; protobuf does
the rest. Whoever decodes what we send uses the specification's own file.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_Field = descriptor_pb2.FieldDescriptorProto


class Type(IntEnum):
    """Data types of metrics."""

    INT64 = 4
    UINT64 = 8
    DOUBLE = 10
    BOOLEAN = 11
    STRING = 12


Value = int | float | bool | str | None


class Metric(NamedTuple):
    """A named value; None where there is none."""

    name: str
    type: Type
    value: Value
    historical: bool = False  # from before the birth that it comes after


_PAYLOAD = [("timestamp", 1, _Field.TYPE_UINT64), ("metrics", 2, _Field.TYPE_MESSAGE), ("seq", 3, _Field.TYPE_UINT64)]
_METRIC = [
    ("name", 1, _Field.TYPE_STRING),
    ("timestamp", 3, _Field.TYPE_UINT64),
    ("datatype", 4, _Field.TYPE_UINT32),
    ("is_historical", 5, _Field.TYPE_BOOL),
    ("is_null", 7, _Field.TYPE_BOOL),
    ("long_value", 11, _Field.TYPE_UINT64),
    ("double_value", 13, _Field.TYPE_DOUBLE),
    ("boolean_value", 14, _Field.TYPE_BOOL),
    ("string_value", 15, _Field.TYPE_STRING),
]
_HOLDERS = {
    Type.INT64: "long_value",
    Type.UINT64: "long_value",
    Type.DOUBLE: "double_value",
    Type.BOOLEAN: "boolean_value",
    Type.STRING: "string_value",
}


def _declared() -> Any:
    """Return the class of payloads."""
    file = descriptor_pb2.FileDescriptorProto(name="line_worker.proto", package="line_worker", syntax="proto2")
    for name, rows in (("Metric", _METRIC), ("Payload", _PAYLOAD)):
        message = file.message_type.add(name=name)
        for field, number, kind in rows:
            row = message.field.add(name=field, number=number, type=kind, label=_Field.LABEL_OPTIONAL)
            if kind == _Field.TYPE_MESSAGE:
                row.label, row.type_name = _Field.LABEL_REPEATED, ".line_worker.Metric"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("line_worker.Payload"))


_Payload = _declared()


def encode(metrics: Iterable[Metric], timestamp_ms: int, seq: int | None) -> bytes:
    """Return the payload; `timestamp_ms` (Unix time) is when the values were so, `seq` None for a death."""
    payload = _Payload(timestamp=timestamp_ms)
    if seq is not None:
        payload.seq = seq
    for metric in metrics:
        row = payload.metrics.add(name=metric.name, timestamp=timestamp_ms, datatype=metric.type)
        if metric.historical:
            row.is_historical = True
        if metric.value is None:
            row.is_null = True
        else:
            setattr(row, _HOLDERS[metric.type], metric.value)
    return bytes(payload.SerializeToString())


def commands(payload: bytes) -> dict[str, bool]:
    """Return the commands in `payload`, by name; none where it cannot be read."""
    try:
        decoded = _Payload.FromString(payload)
    except DecodeError:
        return {}
    return {metric.name: metric.boolean_value for metric in decoded.metrics}
