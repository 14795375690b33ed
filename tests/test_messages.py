"""Every message: there and back again, and nothing but a DecodeError for whatever else arrives."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.errors import DecodeError
from line_worker.verdicts import Reason, verdict_of
from line_worker.wire import messages as m
from line_worker.wire.links import LINKS

COUNTS = st.integers(0, 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def values(hint: Any) -> st.SearchStrategy[Any]:
    simple = {
        int: COUNTS,
        float: st.floats(allow_nan=False, allow_infinity=False),
        str: TEXTS,
        bool: st.booleans(),
        bytes: st.binary(max_size=40),
    }
    if hint in simple:
        return simple[hint]
    if dataclasses.is_dataclass(hint):  # inside another message, where pixels do not travel with it
        inner = instances(typing.cast(type, hint))
        return inner.map(lambda frame: dataclasses.replace(frame, pixels=b"")) if hint is m.Frame else inner
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is types.UnionType:
        return st.none() | values(arguments[0])
    if typing.get_origin(hint) is tuple:
        return st.lists(values(arguments[0]), max_size=5).map(tuple)
    return st.dictionaries(TEXTS, values(arguments[1]), max_size=4)


def instances(cls: type) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(cls)
    fields = {f.name: values(hints[f.name]) for f in dataclasses.fields(cls)}
    if cls is m.Outcome:
        reasons = st.sampled_from(Reason)
        return _judged(fields).flatmap(
            lambda fields: reasons.flatmap(
                lambda r: st.builds(cls, **fields | {"reason": st.just(int(r)), "verdict": st.just(str(verdict_of(r)))})
            )
        )
    if cls is m.Result:
        return _judged(fields).flatmap(lambda fields: st.builds(cls, **fields))
    return st.builds(cls, **fields)


def _judged(fields: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A p-value is a chance, and stands beside a score."""
    without = {"score": st.none(), "p_value": st.none()}
    scores = {"score": st.floats(allow_nan=False, allow_infinity=False), "p_value": st.none() | st.floats(0, 1)}
    return st.sampled_from([fields | without, fields | scores])


MESSAGES = st.sampled_from(sorted(m.KINDS.items())).flatmap(lambda item: instances(item[1]))
ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | TEXTS | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


@given(MESSAGES)
def test_every_message_comes_back_as_it_was(message: m.Message) -> None:
    assert m.from_parts(m.to_parts(message)) == message


@given(st.lists(st.binary(max_size=60), max_size=4))
def test_random_parts_are_refused(parts: list[bytes]) -> None:
    with pytest.raises(DecodeError):
        m.from_parts(parts)


@given(MESSAGES, st.data())
def test_a_message_with_one_odd_field_is_refused_or_still_a_message(message: m.Message, data: st.DataObject) -> None:
    head, body, *pixels = m.to_parts(message)
    fields = msgpack.unpackb(body)
    fields[data.draw(st.sampled_from(sorted(fields)) | TEXTS)] = data.draw(ODD)
    odd = [head, msgpack.packb(fields), *pixels]
    try:
        decoded = m.from_parts(odd)
    except DecodeError:
        return
    assert m.from_parts(m.to_parts(decoded)) == decoded


@given(MESSAGES, st.data())
def test_a_cut_or_flipped_message_is_refused_or_still_a_message(message: m.Message, data: st.DataObject) -> None:
    head, body, *pixels = m.to_parts(message)
    at = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(DecodeError):
        m.from_parts([head, body[:at], *pixels])
    flipped = bytearray(body)
    flipped[at] ^= 1 << data.draw(st.integers(0, 7))
    try:
        m.from_parts([head, bytes(flipped), *pixels])
    except DecodeError:
        return


HELLO = m.SourceHello("cam", 5, 0)
CROP = m.Crop(m.FrameKey("l", "c", 1, 2), "overlay", b"png")


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ([], "0 parts"),
        ([b"\x01\x01"], "1 parts"),
        ([b"\x01", m.to_parts(HELLO)[1]], "two-byte head"),
        ([b"\x01\x01", m.to_parts(HELLO)[1]], "protocol version 1: this side speaks 4"),
        ([bytes([m.VERSION, 255]), m.to_parts(HELLO)[1]], "unknown kind 255"),
        ([*m.to_parts(HELLO), b"pixels"], "SourceHello: 3 parts"),
        (m.to_parts(CROP)[:2], "Crop: 2 parts"),
        ([*m.to_parts(CROP), b""], "Crop: 4 parts"),
    ],
)
def test_wrong_parts_versions_and_kinds_are_refused(parts: list[bytes], says: str) -> None:
    with pytest.raises(DecodeError, match=says):
        m.from_parts(parts)


def repacked(message: m.Message, **changes: Any) -> list[bytes]:
    head, body, *pixels = m.to_parts(message)
    return [head, msgpack.packb(msgpack.unpackb(body) | changes), *pixels]


@pytest.mark.parametrize("number", [-1, 2**63, 2**64 - 1])
@pytest.mark.parametrize(
    ("message", "field"),
    [
        (HELLO, "epoch"),
        (HELLO, "next_seq"),
        (m.SourceAlive("c", 1, 2, True, ""), "next_seq"),
        (m.SourceBye("c", 1, 2), "epoch"),
    ],
)
def test_numbers_that_the_journal_cannot_hold_are_refused(message: m.Message, field: str, number: int) -> None:
    with pytest.raises(DecodeError, match="63 bits"):
        m.from_parts(repacked(message, **{field: number}))


def test_an_outcome_cannot_contradict_itself() -> None:
    key = m.FrameKey("l", "c", 1, 2)
    outcome = m.Outcome(1, key, "PASS", 0, 0.1, 1.0, (), "b", "w", 1, "", 0, 1.0, 1.0, 1.0, {})
    assert outcome.passed
    for verdict, reason in (("PASS", 1), ("FAIL", 10), ("NO_DECISION", 0), ("OK", 0), ("PASS", 999)):
        with pytest.raises(DecodeError):
            m.from_parts(repacked(outcome, verdict=verdict, reason=reason))


@pytest.mark.parametrize(
    ("score", "p_value"), [(0.1, -0.01), (0.1, 1.01), (None, 0.5), (0.1, float("nan")), (0.1, "0.5"), (0.1, True)]
)
def test_a_p_value_is_a_chance_beside_a_score(score: float | None, p_value: Any) -> None:
    key = m.FrameKey("l", "c", 1, 2)
    result = m.Result(key, 1, 1, "b", 1, 1, 0.1, 1.0, (), {}, p_value=0.5)
    outcome = m.Outcome(1, key, "FAIL", 1, 0.1, 1.0, (), "b", "w", 1, "", 0, 1.0, 1.0, 1.0, {}, p_value=0.5)
    for message in (result, outcome):
        assert m.from_parts(m.to_parts(message)) == message
        with pytest.raises(DecodeError, match=r"p.value"):
            m.from_parts(repacked(message, score=score, p_value=p_value))


def test_kinds_are_unique_and_every_message_has_its_place_in_the_table_of_links() -> None:
    classes = typing.get_args(m.Message)
    assert len(m.KINDS) == len(classes)
    carried = [name for link in LINKS for name in link.carries.replace("/", " ").split()]
    assert {cls.__name__ for cls in classes} == set(carried)
    assert len({link.name for link in LINKS}) == len({link.port_offset for link in LINKS}) == len(LINKS)


@pytest.mark.parametrize(
    ("shape", "dtype", "colour", "nbytes"),
    [
        ((4, 5), "uint8", "gray", 20),
        ((4, 5), "uint16", "gray", 40),
        ((4, 5, 3), "uint8", "bgr", 60),
        ((4, 5, 3), "uint16", "bgr", 120),
        ((4, 5), "float32", "gray", -1),
        ((4, 5), "uint8", "bgr", -1),
        ((4, 5, 3), "uint8", "gray", -1),
        ((4, 5, 4), "uint8", "bgr", -1),
        ((0, 5), "uint8", "gray", -1),
        ((), "uint8", "gray", -1),
        ((1, 2, 3, 4), "uint8", "bgr", -1),
    ],
)
def test_a_header_says_how_many_bytes_its_picture_has(
    shape: tuple[int, ...], dtype: str, colour: str, nbytes: int
) -> None:
    frame = m.Frame(m.FrameKey("l", "c", 1, 2), 0.0, 1.0, shape, dtype, colour, 0, "inline")
    assert frame.nbytes == nbytes


def test_the_largest_result_and_frame_still_travel_inside_an_outcome_and_a_lease() -> None:
    key = m.FrameKey("l", "c", 1, 2)
    stages = {f"{n:0500d}": 1.0 for n in range(63)}
    result = m.Result(key, 1, 1, "b", 1, 0, 0.1, 1.0, (), stages)
    assert 0.95 * m.Result.MAX_BODY < len(m.to_parts(m.from_parts(m.to_parts(result)))[1]) <= m.Result.MAX_BODY
    long = "x" * 4096
    outcome = m.Outcome(1, key, "PASS", 0, 0.1, 1.0, (), long, long, 1, long, 0, 1.0, 1.0, 1.0, stages)
    assert m.from_parts(m.to_parts(outcome)) == outcome
    frame = m.Frame(key, 0.0, 1.0, (4, 4), "uint8", "gray", 0, "ring", part_id=long, ring=long)
    assert m.from_parts(m.to_parts(m.Lease(1, 1, 1.0, frame))) == m.Lease(1, 1, 1.0, frame)
