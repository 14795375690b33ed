"""The register table on paper: as documentation (Markdown), as CSV for the PLC's tag import, as OPC UA nodes,
as addresses in a Siemens data block."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from line_worker.sink.plc.registers import CODES, TABLE, Code, Row

REFERENCE = 400_001  # how many PLCs number holding registers: address 0 is 400001
NAMESPACE = "nsu=urn:line-worker"
_UA_TYPES = {"u16": "UInt16", "u32": "UInt32", "f32": "Float"}
_S7_TYPES = {"u16": "Word", "u32": "DWord", "f32": "Real"}
_S7_WIDTHS = {1: "DBW", 2: "DBD"}
COLUMNS = ("name", "address", "reference", "registers", "type", "direction", "codes", "meaning")
S7_COLUMNS = ("name", "address", "bytes", "type", "direction", "codes", "meaning")


def as_markdown(base: int = 0) -> str:
    """Return the table and its codes as Markdown, with the addresses of a map that begins at `base`."""
    lines = ["| address | name | registers | type | direction | meaning |", "|---|---|---|---|---|---|"]
    for row in TABLE:
        last = base + row.offset + row.width - 1
        address = str(last) if row.width == 1 else f"{base + row.offset}-{last}"
        lines.append(f"| {address} | `{row.name}` | {row.width} | {row.kind} | {row.direction} | {row.meaning} |")
    return "\n".join([*lines, "", *_legend()])


def as_blocks(db: int, base: int = 0) -> str:
    """Return the table and its codes as Markdown, with the addresses in data block `db` from byte `base` on."""
    lines = ["| address | name | bytes | type | direction | meaning |", "|---|---|---|---|---|---|"]
    for row in TABLE:
        address, kind = _s7_address(row, db, base), _s7_type(row)
        lines.append(f"| {address} | `{row.name}` | {2 * row.width} | {kind} | {row.direction} | {row.meaning} |")
    return "\n".join([*lines, "", *_legend()])


def _legend() -> list[str]:
    return [f"- `{name}`: {', '.join(f'{value} {word}' for value, word in codes(name))}" for name in CODES]


def _s7_address(row: Row, db: int, base: int) -> str:
    return f"DB{db}.{_S7_WIDTHS.get(row.width, 'DBB')}{base + 2 * row.offset}"


def _s7_type(row: Row) -> str:
    return _S7_TYPES.get(row.kind, f"Array[0..{2 * row.width - 1}] of Char")


def as_nodes(line: str) -> str:
    """Return the table as the OPC UA sink of `line` serves it, a node for each row, as Markdown."""
    lines = ["| node | type | direction | meaning |", "|---|---|---|---|"]
    for row in TABLE:
        kind = _UA_TYPES.get(row.kind, "String")
        lines.append(f"| `{NAMESPACE};s={line}/Registers/{row.name}` | {kind} | {row.direction} | {row.meaning} |")
    return "\n".join(lines)


def as_csv(base: int = 0) -> str:
    """Return the table as CSV (RFC 4180), a row for each name, with the addresses of a map that begins at `base`."""
    places = ((base + row.offset, REFERENCE + base + row.offset, row.width, row.kind) for row in TABLE)
    return _csv(COLUMNS, places)


def as_blocks_csv(db: int, base: int = 0) -> str:
    """Return the table as CSV (RFC 4180), with the addresses in data block `db` from byte `base` on."""
    return _csv(S7_COLUMNS, ((_s7_address(row, db, base), 2 * row.width, _s7_type(row)) for row in TABLE))


def _csv(columns: tuple[str, ...], places: Iterable[tuple[str | int, ...]]) -> str:
    """Return a line for each row of the table: its name, its place, and what it means."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(columns)
    for row, place in zip(TABLE, places, strict=True):
        words = " ".join(f"{value}={word}" for value, word in codes(row.name))
        writer.writerow((row.name, *place, row.direction, words, row.meaning))
    return text.getvalue()


def codes(name: str) -> list[tuple[str, str]]:
    """Return the values that the row `name` may hold, with their words; none where it holds a number or text."""
    kind = CODES.get(name)
    form = "0x{:04X}" if kind is Code else "{:d}"
    return [(form.format(one.value), one.name) for one in kind or ()]
