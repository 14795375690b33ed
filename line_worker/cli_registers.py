"""The command that prints the PLC's registers: for people, for the PLC programmer's tag import, or as a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from line_worker.errors import ConfigError

if TYPE_CHECKING:
    from line_worker.config import Config, OpcUaSink, PlcSink, S7Sink

Format = Literal["table", "csv", "st"]


def register_map(
    config: Annotated[
        Path | None, typer.Argument(metavar="[LINE.TOML]", help="Whose PLC sinks; default: none.")
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="Markdown, CSV, or Structured Text (IEC 61131-3).")
    ] = "table",
    base: Annotated[int, typer.Option(min=0, max=65000, help="Without LINE.TOML: the first register's address.")] = 0,
    sink: Annotated[str, typer.Option(metavar="NAME", help="Only this sink.")] = "",
) -> int:
    """Print the PLC's registers, with the addresses that a line's PLC sinks have."""
    if config is None:
        typer.echo(_printed(form, base), nl=False)
        return 0
    from line_worker.config import load

    line = load(config)
    sinks = _sinks(line, str(config), sink)
    if form == "table":
        typer.echo("\n".join(_titled(one, line) for one in sinks), nl=False)
        return 0
    able = [one for one in sinks if one.kind == "plc" or (one.kind == "s7" and form == "csv")]
    if len(able) != 1:
        names = ", ".join(sorted(one.name for one in able)) or "none"
        what = "one Modbus or S7 sink" if form == "csv" else "one Modbus sink"
        raise ConfigError(str(config), [f"--format {form} is for {what}; choose one with --sink ({names})"])
    if able[0].kind == "s7":
        typer.echo(_block(form, able[0]), nl=False)
    else:
        window_ms = int(max(camera.deadline_ms for camera in line.cameras))
        typer.echo(_printed(form, able[0].base, window_ms), nl=False)
    return 0


def _sinks(line: Config, where: str, name: str) -> list[PlcSink | S7Sink | OpcUaSink]:
    found = [one for one in line.sinks if one.kind in ("plc", "s7") or (one.kind == "opcua" and one.handshake)]
    names = ", ".join(one.name for one in found) or "none"
    if name and name not in names.split(", "):
        raise ConfigError(where, [f"it has no PLC sink {name!r} (there are: {names})"])
    if not found:
        raise ConfigError(where, ['it has no PLC sink; add [[sinks]] kind = "plc", or leave the file out'])
    return [one for one in found if name in ("", one.name)]


def _titled(sink: PlcSink | S7Sink | OpcUaSink, line: Config) -> str:
    if sink.kind == "opcua":
        from line_worker.sink.plc.printed import as_nodes

        return f"## {sink.name}: OPC UA, opc.tcp://{sink.host}:{sink.port}\n\n{as_nodes(line.line.name)}\n"
    if sink.kind == "s7":
        where = f"S7, {sink.host}:{sink.port}, rack {sink.rack}, slot {sink.slot}"
        return f"## {sink.name}: {where}\n\n{_block('table', sink)}"
    where = f"Modbus TCP, {sink.mode}, {sink.host}:{sink.port}, unit {sink.unit}"
    return f"## {sink.name}: {where}\n\n{_printed('table', sink.base)}"


def _block(form: Format, sink: S7Sink) -> str:
    from line_worker.sink.plc.printed import as_blocks, as_blocks_csv

    return as_blocks_csv(sink.db, sink.base) if form == "csv" else as_blocks(sink.db, sink.base) + "\n"


def _printed(form: Format, base: int, window_ms: int = 500) -> str:
    from line_worker.sink.plc.printed import as_csv, as_markdown
    from line_worker.sink.plc.structured_text import as_structured_text

    if form == "st":
        return as_structured_text(base, window_ms)
    return as_csv(base) if form == "csv" else as_markdown(base) + "\n"
