"""The register table as an SCL source for TIA Portal: a data block for the sink `s7`, and a function block.

The function block is the one of `structured_text.py`, in Siemens' dialect: variables of the block are marked (#), the
timer and the edge are the S7-1200/1500's own, bit strings are compared with bit strings, and parameters have names.
"""

from __future__ import annotations

import re

from line_worker.sink.plc.registers import FROM_PLC, TO_PLC
from line_worker.sink.plc.structured_text import as_structured_text

_SOURCE = """\
// One station of line-worker, register map version {version}, for one part at a time. In TIA Portal: External source
// files, add this one, generate blocks from it; then give the data block number {db}, as the station's line.toml says.
// In the cyclic program:
//     UMOVE_BLK(IN := "LineWorker".FromStation[0], COUNT := {words}, OUT => #Copy[0]);   // it is not interrupted
//     "LineWorkerBlock"(Connected := TRUE, Part := ..., FromStation := #Copy, ToStation => "LineWorker".ToStation);
// Whatever happens, Accept is FALSE until a PASS for this very part has come within Window. Stop the line while
// StopLine.

DATA_BLOCK "LineWorker"
{{ S7_Optimized_Access := 'FALSE' }}
VERSION : 0.1
NON_RETAIN
   STRUCT
{before}      FromStation : Array[0..{to_last}] of Word;
      Reserved : Array[0..{reserved}] of Word;
      ToStation : Array[0..{from_last}] of Word;
   END_STRUCT;

BEGIN

END_DATA_BLOCK

FUNCTION_BLOCK "FB_LineWorker"
{{ S7_Optimized_Access := 'TRUE' }}
VERSION : 0.1
{declarations}

BEGIN
{statements}
END_FUNCTION_BLOCK

DATA_BLOCK "LineWorkerBlock"
{{ S7_Optimized_Access := 'TRUE' }}
VERSION : 0.1
NON_RETAIN
"FB_LineWorker"

BEGIN

END_DATA_BLOCK
"""
_COMMENT = re.compile(r"(\(\*.*?\*\))", re.DOTALL)
_SHIFT = re.compile(r"\b(SH[LR])\((\w+\([^()]*\)), (\d+)\)")
_LITERAL = re.compile(r"(=|<>) (\d+)(?=\)| THEN|;)")  # what a bit string is compared with


def as_scl(db: int, base: int = 0, window_ms: int = 500) -> str:
    """Return the source for a table in data block `db` from byte `base` on; a part has `window_ms` to be decided."""
    head, rest = as_structured_text(None, window_ms).split("FUNCTION_BLOCK FB_LineWorker\n")
    text, statements = rest.rsplit("END_VAR\n", 1)
    declarations = text + "END_VAR"
    names = re.findall(r"^ +(\w+) :", _COMMENT.sub("", declarations), re.MULTILINE)
    version = re.search(r"version (\d+)", head)
    assert version is not None, "the head of the block says which version of the map it is for"
    return _SOURCE.format(
        version=version[1],
        db=db,
        words=len(TO_PLC),
        before=f"      Before : Array[0..{base - 1}] of Byte;\n" if base else "",
        to_last=len(TO_PLC) - 1,
        reserved=FROM_PLC.start - TO_PLC.stop - 1,
        from_last=len(FROM_PLC) - 1,
        declarations=_declared(declarations),
        statements=_marked(statements.removesuffix("END_FUNCTION_BLOCK\n").strip("\n"), names),
    )


def _declared(text: str) -> str:
    text = text.replace(" : TON;", " {InstructionName := 'TON_TIME'; LibVersion := '1.0'} : TON_TIME;")
    return text.replace(" : R_TRIG;", " {InstructionName := 'R_TRIG'; LibVersion := '1.0'} : R_TRIG;")


def _marked(statements: str, names: list[str]) -> str:
    """Return `statements` in Siemens' dialect; comments stay as they are."""
    marked = re.compile(rf"\b({'|'.join(names)})\b")
    parts = _COMMENT.split(statements)
    parts[::2] = [_SHIFT.sub(_named, _LITERAL.sub(_bits, marked.sub(r"#\1", part))) for part in parts[::2]]
    return "".join(parts)


def _named(found: re.Match[str]) -> str:
    return f"{found[1]}(IN := {found[2]}, N := {found[3]})"


def _bits(found: re.Match[str]) -> str:
    return f"{found[1]} 16#{int(found[2]):X}"
