"""The register table: no overlaps, what is encoded is decoded, and the printed table is the one in force."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.sink.plc.registers import (
    FROM_PLC,
    RESULT_AT,
    SIZE,
    STOP_AT,
    TABLE,
    TO_PLC,
    Active,
    Code,
    Plc,
    Result,
    Station,
    Stop,
    decode,
    encode,
    fingerprint16,
    result_of,
    withdrawn,
)
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.messages import FrameKey, Outcome

U16, U32 = st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF)
F32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def text(size: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=size)


def outcome(**changes: object) -> Outcome:
    values: dict[str, object] = {
        "row": 1,
        "key": FrameKey("line-1", "top", 2**40 + 5, 2**33 + 9),
        "verdict": "PASS",
        "reason": 0,
        "score": 0.25,
        "threshold": 1.5,
        "regions": (),
        "bundle": "0a1b" + "0" * 60,
        "worker": "w",
        "attempt": 1,
        "part_id": "SN 42",
        "trigger": 2**32 + 3,
        "latency_ms": 1.0,
        "left_ms": 1.0,
        "wall": 0.0,
        "stages": {},
    }
    return Outcome(**(values | changes))  # type: ignore[arg-type]


def test_every_register_has_one_meaning() -> None:
    taken: list[int] = []
    for row in TABLE:
        here = range(row.offset, row.offset + row.width)
        assert all(offset in (TO_PLC if row.direction == "to PLC" else FROM_PLC) for offset in here)
        taken += here
    assert sorted(taken) == [*TO_PLC, *FROM_PLC]
    assert max(taken) < SIZE <= 125  # one Modbus request reads it all


def test_the_toggle_is_the_last_register_of_a_result_and_of_an_acknowledgement() -> None:
    ends = {row.name: row.offset + row.width for row in TABLE}
    assert (ends["toggle"], ends["ack_seq"]) == (STOP_AT, ends["ack_toggle"] - 1)
    assert len(encode(Station())) == RESULT_AT


def test_a_single_flipped_byte_never_makes_a_pass() -> None:
    assert Code.PASS == 0x5AA5
    assert set(Code.__members__) == set(Verdict.__members__)
    for one, other in combinations(Code, 2):
        assert (one ^ other).bit_count() == 8
        assert (one ^ other ^ 0xFFFF).bit_count() == 8


@given(st.builds(Station, *([U16] * len(fields(Station)))))
def test_station_round_trip(block: Station) -> None:
    assert decode(Station, encode(block)) == block


@given(st.builds(Result, U32, U16, U16, U16, U16, F32, F32, U16, U32, text(16), text(32), U16))
def test_result_round_trip(block: Result) -> None:
    assert decode(Result, encode(block)) == block


@given(st.builds(Stop, U16))
def test_stop_round_trip(block: Stop) -> None:
    assert decode(Stop, encode(block)) == block


@given(st.builds(Active, U16, U16))
def test_active_round_trip(block: Active) -> None:
    assert decode(Active, encode(block)) == block


@given(st.builds(Plc, U16, U16, U32, U32, U16, text(32), U16))
def test_plc_round_trip(block: Plc) -> None:
    assert decode(Plc, encode(block)) == block


def test_words_are_big_endian_and_text_reads_left_to_right() -> None:
    words = encode(Result(seq=0x00010002, score=1.0, camera="top"))
    assert words[:2] == [1, 2]
    assert words[6:8] == [0x3F80, 0]
    assert words[13:16] == [ord("t") << 8 | ord("o"), ord("p") << 8, 0]


def test_an_outcome_in_registers() -> None:
    shown = result_of(outcome(), 7)
    assert (shown.seq, shown.epoch16, shown.trigger, shown.toggle) == (9, 5, 3, 7)
    assert (shown.verdict, shown.complement, shown.reason16, shown.bundle16) == (0x5AA5, 0xA55A, 0, 0x0A1B)
    assert (shown.score, shown.threshold, shown.camera, shown.part_id) == (0.25, 1.5, "top", "SN 42")


@pytest.mark.parametrize("reason", list(Reason))
def test_only_a_pass_reads_as_pass(reason: Reason) -> None:
    verdict = "PASS" if reason is Reason.NONE else "FAIL" if reason is Reason.ANOMALY else "NO_DECISION"
    shown = result_of(outcome(verdict=verdict, reason=int(reason)))
    assert (shown.verdict == 0x5AA5) == (reason is Reason.NONE)
    taken_back = withdrawn(shown, Reason.DEADLINE)
    assert (taken_back.verdict, taken_back.complement) == (0x0FF0, 0xF00F)


@pytest.mark.parametrize(
    ("score", "shown"), [(None, 0.0), (1e300, 3.4e38), (-math.inf, -3.4e38), (math.nan, 0.0), (1e-300, 0.0)]
)
def test_a_score_always_fits(score: float | None, shown: float) -> None:
    found = decode(Result, encode(result_of(outcome(score=score)))).score
    assert found == pytest.approx(shown, rel=1e-6)


def test_long_and_foreign_text_is_cut_and_replaced() -> None:
    shown = decode(Result, encode(result_of(outcome(part_id="Größe-" + "x" * 40))))
    assert shown.part_id == "Gr??e-" + "x" * 26


@pytest.mark.parametrize(("bundle", "digits"), [("", 0), ("stub", 0), ("ffff" * 16, 0xFFFF), ("00ab" * 16, 0xAB)])
def test_fingerprint(bundle: str, digits: int) -> None:
    assert fingerprint16(bundle) == digits


def test_a_block_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="Plc has 24 registers, not 6"):
        decode(Plc, [0] * 6)
