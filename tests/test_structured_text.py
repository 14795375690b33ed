"""The printed PLC program: a real parser of IEC 61131-3 accepts it, and run, it decides as the simulated PLC does.

To run it, its statements are rewritten as Python line by line; timers and edges are those of the standard.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from line_worker.sink.plc.program import PlcProgram
from line_worker.sink.plc.registers import (
    FROM_PLC,
    TABLE,
    TO_PLC,
    Active,
    Code,
    Fault,
    Plc,
    Result,
    Station,
    Stop,
    decode,
    encode,
)
from line_worker.sink.plc.scl import as_scl
from line_worker.sink.plc.structured_text import as_structured_text
from line_worker.verdicts import StopCause

TEXT = as_structured_text(base=100, window_ms=250)


@pytest.mark.long
def test_a_real_parser_accepts_it() -> None:
    blark = pytest.importorskip("blark.parse", reason="blark is missing: pip install 'line-worker[test]'")
    assert blark.parse_source_code(TEXT).exception is None
    assert blark.parse_source_code(TEXT.replace("END_IF;", "", 1)).exception is not None


def test_every_row_is_a_constant_at_its_place() -> None:
    found = dict(re.findall(r"^    ([A-Z0-9_]+) : INT := (\d+);", TEXT, re.MULTILINE))
    assert len(found) == len(TABLE)
    assert found["VERDICT"] == "13"
    assert found["STOP_LINE"] == "48"
    assert found["ACK_TOGGLE"] == "6"


# ---- the program, run ------------------------------------------------------------------------------------------------


class Ton:
    """An on-delay timer: Q once IN has been TRUE for PT."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._since, self.Q = clock, None, False

    def __call__(self, *, IN: bool, PT: float) -> None:
        if not IN:
            self._since = None
        elif self._since is None:
            self._since = self._clock()
        self.Q = self._since is not None and self._clock() - self._since >= PT - 1e-9


class RTrig:
    """A rising edge."""

    def __init__(self) -> None:
        self._last, self.Q = False, False

    def __call__(self, *, CLK: bool) -> None:
        self.Q, self._last = CLK and not self._last, CLK


def to_python(text: str) -> str:
    """Return the statements of the function block as Python."""
    body = re.sub(r"\(\*.*?\*\)", "", text, flags=re.DOTALL).rsplit("END_VAR", 1)[1].replace("END_FUNCTION_BLOCK", "")
    lines, depth = [], 0
    for line in filter(None, map(str.strip, body.splitlines())):
        depth -= line.startswith(("END_IF", "ELSIF"))
        if line != "END_IF;":
            lines.append("    " * depth + _statement(line))
        depth += line.startswith(("IF ", "ELSIF "))
    assert depth == 0
    return "\n".join(lines)


def _statement(line: str) -> str:
    assignment = re.match(r"^([\w\[\] +]+) := (.*);$", line)
    condition = re.match(r"^(IF|ELSIF) (.*) THEN$", line)
    if assignment:
        return f"{assignment[1]} = {_expression(assignment[2])}"
    if condition:
        return f"{'if' if condition[1] == 'IF' else 'elif'} {_expression(condition[2])}:"
    call = re.match(r"^(\w+)\((.*)\);$", line)
    assert call, line
    return f"{call[1]}({_expression(call[2].replace(':=', '@'))})"


def _expression(text: str) -> str:
    text = re.sub(r"16#([0-9A-F]+)", r"0x\1", text)
    text = re.sub(r"T#(\d+)MS", lambda found: str(int(found[1]) / 1000), re.sub(r"T#(\d+)S\b", r"\1", text))
    text = text.replace("<>", "!=")
    text = re.sub(r"(?<![!<>])=", "==", text).replace("@", "=")
    if "SHL(" in text or ("0xFFFF)" in text and "AND 0xFFFF" in text):  # bits, not truth
        text = text.replace(" OR ", " | ").replace(" AND 0xFFFF", " & 0xFFFF")
    for word, python in (
        ("XOR", "^"),
        ("AND", "and"),
        ("OR", "or"),
        ("NOT", "not"),
        ("TRUE", "True"),
        ("FALSE", "False"),
    ):
        text = re.sub(rf"\b{word}\b", python, text)
    return text


class Block:
    """The function block on a PLC whose clock a test turns."""

    def __init__(self) -> None:
        self.now = 0.0
        same = lambda value: value  # noqa: E731 - the standard's conversions keep the bits
        conversions = dict.fromkeys(("WORD_TO_DWORD", "DWORD_TO_UDINT", "UINT_TO_WORD", "UDINT_TO_DWORD"), same)
        self.state: dict[str, Any] = conversions | {
            "DWORD_TO_WORD": lambda value: value & 0xFFFF,
            "SHL": lambda value, bits: value << bits,
            "SHR": lambda value, bits: value >> bits,
            **{name: Ton(lambda: self.now) for name in ("Silence", "Beat", "WindowTimer")},
            "PartEdge": RTrig(),
            "Window": 0.25,
            "ToStation": [0] * len(FROM_PLC),
            "PartId": [0] * 16,
            **dict.fromkeys(re.findall(r"^    (\w+) : (?:WORD|DWORD|UINT|UDINT);", TEXT, re.MULTILINE), 0),
            **dict.fromkeys(re.findall(r"^    (\w+) : BOOL;", TEXT, re.MULTILINE), False),
        }
        self.state |= {
            name: int(at) for name, at in re.findall(r"^    ([A-Z0-9_]+) : INT := (\d+);", TEXT, re.MULTILINE)
        }
        self._code = compile(to_python(TEXT), "FB_LineWorker", "exec")

    def cycle(self, words: list[int], *, part: bool = False, connected: bool = True) -> Plc:
        self.state |= {"FromStation": words, "Part": part, "Connected": connected}
        exec(self._code, self.state)  # our own program, rewritten
        return decode(Plc, [word & 0xFFFF for word in self.state["ToStation"]])

    def __getattr__(self, name: str) -> Any:
        return self.state[name]


class Both:
    """The printed program and the simulated PLC, side by side on the same registers."""

    def __init__(self) -> None:
        self.block, self.twin = Block(), PlcProgram(window_s=0.25)
        self.station, self.result, self.stop = Station(sync=9, state=2), Result(), Stop()
        self._part = False

    def cycles(self, count: int = 1, *, beating: bool = True, connected: bool = True) -> None:
        for _ in range(count):
            self.block.now += 0.01
            if beating:
                self.station = replace(self.station, heartbeat=(self.station.heartbeat + 1) & 0xFFFF)
            words = encode(self.station) + encode(self.result) + encode(self.stop) + encode(Active())
            assert len(words) == len(TO_PLC)
            told = self.told = self.block.cycle(words, part=self._part, connected=connected)
            self._part = False
            if connected:
                twin = self.twin.scan(words, self.block.now)
                assert (told.sync_echo, told.ack_seq, told.ack_toggle) == (
                    twin.sync_echo,
                    twin.ack_seq,
                    twin.ack_toggle,
                )
                assert told.triggers == twin.triggers
            else:
                self.twin.idle(self.block.now)

    def part(self) -> None:
        self.cycles()  # the sensor has been free
        self.twin.trigger(self.block.now)
        self._part = True
        self.cycles()
        assert (self.block.Accept, self.block.Decided) == (False, False)

    def show(self, seq: int, code: int = Code.PASS, **changes: int) -> None:
        changes = {"complement": 0xFFFF ^ code, "trigger": seq + 1} | changes
        self.result = replace(self.result, seq=seq, verdict=code, toggle=self.result.toggle + 1, **changes)
        self.cycles()

    @property
    def agreed(self) -> bool:
        """Return what both have decided about the last part."""
        assert self.block.Decided
        assert self.block.Accept == self.twin.booked[-1].accepted
        return self.block.Accept


@pytest.fixture
def both() -> Both:
    pair = Both()
    pair.cycles(3)
    assert pair.block.SyncEcho == 9
    return pair


def test_a_pass_is_accepted_and_whatever_else_is_rejected(both: Both) -> None:
    for seq, code in enumerate([Code.PASS, Code.FAIL, Code.NO_DECISION, Code.PASS, 0x5AA4, 0]):
        both.part()
        both.show(seq, code)
        assert both.agreed == (code == Code.PASS)


def test_a_verdict_without_its_complement_is_rejected(both: Both) -> None:
    both.part()
    both.show(0, complement=0xFFFF ^ Code.FAIL)
    assert not both.agreed


def test_a_part_for_which_nothing_comes_is_rejected_when_its_window_ends(both: Both) -> None:
    both.part()
    both.cycles(23)
    assert not both.block.Decided
    both.cycles(4)
    assert not both.agreed
    both.show(0)  # and what comes later changes nothing
    assert not both.block.Accept


def test_a_silent_station_is_not_trusted(both: Both) -> None:
    both.cycles(105, beating=False)
    assert not both.block.Trusted
    both.twin.trigger(both.block.now)
    both._part = True
    both.cycles(beating=False)
    both.result = replace(both.result, seq=0, verdict=Code.PASS, complement=0xFFFF ^ Code.PASS, trigger=1, toggle=5)
    both.cycles(beating=False)
    assert not both.agreed


def test_nothing_passes_without_a_connection(both: Both) -> None:
    both.part()
    both.cycles(40, connected=False)
    assert not both.agreed
    assert not both.block.Trusted


def test_a_fault_rejects_until_the_station_has_synchronised_anew(both: Both) -> None:
    both.station = replace(both.station, fault=Fault.WRONG_ACK)
    both.part()
    both.show(0)
    assert not both.agreed
    both.part()
    both.station = replace(both.station, fault=Fault.NONE, sync=10)
    both.cycles()
    assert (both.block.SyncEcho, both.agreed) == (10, False)
    both.part()
    both.show(1, trigger=3)
    assert both.agreed


def test_a_result_of_another_part_is_not_this_parts(both: Both) -> None:
    both.part()
    both.part()  # the first one has lost its chance
    both.show(0, trigger=1)
    assert not both.block.Decided
    both.show(1, trigger=2)
    assert both.block.Accept


def test_a_result_that_comes_again_is_rejected(both: Both) -> None:
    both.part()
    both.show(7, trigger=0)
    assert both.agreed
    both.part()
    both.show(7, trigger=0)
    assert not both.agreed


def test_the_line_stands_still_as_long_as_it_is_told_to(both: Both) -> None:
    for cause in (StopCause.CANARY, StopCause.NONE):
        both.stop = Stop(int(cause))
        both.cycles()
        assert both.block.StopLine == bool(both.twin.stop_line) == bool(cause)


def test_its_own_heartbeat_moves_ten_times_a_second(both: Both) -> None:
    before = both.block.OurHeartbeat
    both.cycles(110)
    assert 9 <= both.block.OurHeartbeat - before <= 11


def test_part_id_and_recipe_reach_the_station(both: Both) -> None:
    both.block.state["PartId"] = [0x4142, *[0] * 15]
    both.block.state["Recipe"] = 7
    both.cycles()
    assert (both.told.next_part, both.told.recipe_wanted) == ("AB", 7)


# ---- SCL, for TIA Portal ---------------------------------------------------------------------------------------------


def names(text: str) -> list[str]:
    """Return every name that the function block declares."""
    declared = re.sub(r"\(\*.*?\*\)", "", text, flags=re.DOTALL).rsplit("END_VAR", 1)[0]
    return re.findall(r"^ +(\w+)(?: \{[^}]*\})? :", declared, re.MULTILINE)


def test_no_two_names_differ_in_case_alone_for_a_plc_knows_no_case() -> None:
    found = [name.lower() for name in names(TEXT)]
    assert len(found) == len(set(found)) > 40


def block(source: str) -> str:
    """Return the function block of an SCL source."""
    return source.split('FUNCTION_BLOCK "FB_LineWorker"\n')[1].split("END_FUNCTION_BLOCK\n")[0]


def to_iec(source: str) -> str:
    """Return the function block of an SCL source as Structured Text."""
    text = re.sub(r" \{InstructionName := '(\w+)'; LibVersion := '1\.0'\}", "", block(source))
    text = text.split("VERSION : 0.1\n", 1)[1].replace("\nBEGIN\n", "\n").replace("TON_TIME", "TON")
    text = re.sub(r"(?<!16)#(?=[A-Za-z])", "", text)
    text = re.sub(r"\b(IN|N) := (?=WORD_TO|UDINT_TO|16\))", "", text)
    return re.sub(r"(=|<>) 16#([0-9A-F])\b", r"\1 \2", text) + "END_FUNCTION_BLOCK\n"


def test_the_scl_is_the_same_program() -> None:
    plain = as_structured_text(None, 250).split("FUNCTION_BLOCK FB_LineWorker\n")[1]
    assert to_iec(as_scl(7, 100, 250)).split() == plain.split()


def test_in_scl_every_variable_is_marked_and_nothing_else() -> None:
    source = as_scl(7, 100, 250)
    statements = re.sub(r"\(\*.*?\*\)", "", block(source).split("\nBEGIN\n")[1], flags=re.DOTALL)
    marked = set(re.findall(r"(?<!16)#([A-Za-z]\w*)", statements))
    assert marked <= set(names(block(source)))
    assert not marked & set(re.findall(r"(?<![#\w.])([A-Za-z]\w*)", statements))
    assert "Before : Array[0..99] of Byte;" in source
    assert "Before" not in as_scl(7, 0, 250)


def test_the_data_block_in_scl_is_as_long_as_the_table() -> None:
    sizes = [int(last) + 1 for last in re.findall(r"Array\[0\.\.(\d+)\] of Word", as_scl(7).split("END_STRUCT")[0])]
    assert sum(sizes) == FROM_PLC.stop
    assert sizes[0] == len(TO_PLC)
    assert sizes[2] == len(FROM_PLC)
