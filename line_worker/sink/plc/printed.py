"""The register table on paper: as documentation (Markdown), as CSV for the PLC's tag import, as OPC UA nodes."""

from __future__ import annotations

import csv
import io

from line_worker.sink.plc.registers import CODES, TABLE, Code, Row

REFERENCE = 400_001  # how many PLCs number holding registers: address 0 is 400001
NAMESPACE = "nsu=urn:line-worker"
_UA_TYPES = {"u16": "UInt16", "u32": "UInt32", "f32": "Float"}
COLUMNS = ("name", "address", "reference", "registers", "type", "direction", "codes", "meaning")


def as_markdown(base: int = 0) -> str:
    """Return the table and its codes as Markdown, with the addresses of a map that begins at `base`."""
    lines = ["| address | name | registers | type | direction | meaning |", "|---|---|---|---|---|---|"]
    for row in TABLE:
        last = base + row.offset + row.width - 1
        address = str(last) if row.width == 1 else f"{base + row.offset}-{last}"
        lines.append(f"| {address} | `{row.name}` | {row.width} | {row.kind} | {row.direction} | {row.meaning} |")
    named = (f"- `{name}`: {', '.join(f'{value} {word}' for value, word in codes(name))}" for name in CODES)
    return "\n".join([*lines, "", *named])


def as_nodes(line: str) -> str:
    """Return the table as the OPC UA sink of `line` serves it, a node for each row, as Markdown."""
    lines = ["| node | type | direction | meaning |", "|---|---|---|---|"]
    for row in TABLE:
        kind = _UA_TYPES.get(row.kind, "String")
        lines.append(f"| `{NAMESPACE};s={line}/Registers/{row.name}` | {kind} | {row.direction} | {row.meaning} |")
    return "\n".join(lines)


def as_csv(base: int = 0) -> str:
    """Return the table as CSV (RFC 4180), a row for each name, with the addresses of a map that begins at `base`."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(_cells(row, base) for row in TABLE)
    return text.getvalue()


def _cells(row: Row, base: int) -> tuple[str | int, ...]:
    address = base + row.offset
    words = " ".join(f"{value}={word}" for value, word in codes(row.name))
    return row.name, address, REFERENCE + address, row.width, row.kind, row.direction, words, row.meaning


def codes(name: str) -> list[tuple[str, str]]:
    """Return the values that the row `name` may hold, with their words; none where it holds a number or text."""
    kind = CODES.get(name)
    form = "0x{:04X}" if kind is Code else "{:d}"
    return [(form.format(one.value), one.name) for one in kind or ()]
