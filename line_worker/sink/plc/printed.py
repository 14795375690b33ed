"""The register table on paper: as documentation (Markdown) and as CSV for the PLC's tag import.

With the addresses of Modbus registers, of bytes in a Siemens data block, of OPC UA nodes or of elements of two arrays.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from line_worker.sink.plc.registers import CODES, FROM_PLC, TABLE, TO_PLC, Code, Row

REFERENCE = 400_001  # how many PLCs number holding registers: address 0 is 400001
NAMESPACE = "nsu=urn:line-worker"
_UA_TYPES = {"u16": "UInt16", "u32": "UInt32", "f32": "Float"}
_S7_TYPES = {"u16": "Word", "u32": "DWord", "f32": "Real"}
_S7_WIDTHS = {1: "DBW", 2: "DBD"}
COLUMNS = ("name", "address", "reference", "registers", "type", "direction", "codes", "meaning")
S7_COLUMNS = ("name", "address", "bytes", "type", "direction", "codes", "meaning")
NODE_COLUMNS = ("name", "node", "type", "direction", "codes", "meaning")
TAG_COLUMNS = ("name", "elements", "words", "type", "direction", "codes", "meaning")


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


def served_nodes(line: str) -> str:
    """Return the pattern of the nodes that the OPC UA server of `line` has."""
    return f"{NAMESPACE};s={line}/Registers/{{name}}"


def as_nodes(pattern: str) -> str:
    """Return the table as OPC UA nodes named by `pattern`, as Markdown."""
    lines = ["| node | type | direction | meaning |", "|---|---|---|---|"]
    nodes = ((f"`{pattern.format(name=row.name)}`", row) for row in TABLE)
    lines += (f"| {node} | {_ua_type(row)} | {row.direction} | {row.meaning} |" for node, row in nodes)
    return "\n".join([*lines, "", *_legend()])


def as_tags(to_plc: str, from_plc: str) -> str:
    """Return the table as elements of the arrays `to_plc` and `from_plc`, as Markdown."""
    lines = ["| elements | name | type | direction | meaning |", "|---|---|---|---|---|"]
    for row in TABLE:
        where = _elements(row, to_plc, from_plc)
        lines.append(f"| {where} | `{row.name}` | {row.kind} | {row.direction} | {row.meaning} |")
    return "\n".join([*lines, "", *_legend()])


def _ua_type(row: Row) -> str:
    return _UA_TYPES.get(row.kind, "String")


def _elements(row: Row, to_plc: str, from_plc: str) -> str:
    array, first = (to_plc, TO_PLC.start) if row.direction == "to PLC" else (from_plc, FROM_PLC.start)
    at = row.offset - first
    return f"{array}[{at}]" if row.width == 1 else f"{array}[{at}..{at + row.width - 1}]"


def as_csv(base: int = 0) -> str:
    """Return the table as CSV (RFC 4180), a row for each name, with the addresses of a map that begins at `base`."""
    places = ((base + row.offset, REFERENCE + base + row.offset, row.width, row.kind) for row in TABLE)
    return _csv(COLUMNS, places)


def as_blocks_csv(db: int, base: int = 0) -> str:
    """Return the table as CSV (RFC 4180), with the addresses in data block `db` from byte `base` on."""
    return _csv(S7_COLUMNS, ((_s7_address(row, db, base), 2 * row.width, _s7_type(row)) for row in TABLE))


def as_nodes_csv(pattern: str) -> str:
    """Return the table as CSV (RFC 4180), as OPC UA nodes named by `pattern`."""
    return _csv(NODE_COLUMNS, ((pattern.format(name=row.name), _ua_type(row)) for row in TABLE))


def as_tags_csv(to_plc: str, from_plc: str) -> str:
    """Return the table as CSV (RFC 4180), as elements of the arrays `to_plc` and `from_plc`."""
    return _csv(TAG_COLUMNS, ((_elements(row, to_plc, from_plc), row.width, row.kind) for row in TABLE))


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
