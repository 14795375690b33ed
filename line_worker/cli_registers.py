"""The command that prints the PLC's registers: for people, for the PLC programmer's tag import, or as a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from line_worker.errors import ConfigError

if TYPE_CHECKING:
    from line_worker.config import Config, OpcUaSink, PlcSink, WrittenPlc

    Tabled = PlcSink | WrittenPlc | OpcUaSink  # a sink that shows the table to a PLC

Format = Literal["table", "csv", "st", "scl"]
WHOSE = {
    "csv": ("plc", "s7", "opcua-client", "ethernet-ip"),
    "st": ("plc", "ethernet-ip"),
    "scl": ("s7",),
}  # the kinds of sinks that a format is for; `table` is for all


def register_map(
    config: Annotated[
        Path | None, typer.Argument(metavar="[LINE.TOML]", help="Whose PLC sinks; default: none.")
    ] = None,
    form: Annotated[
        Format,
        typer.Option("--format", help="Markdown, CSV, Structured Text (IEC 61131-3), or SCL for TIA Portal."),
    ] = "table",
    base: Annotated[int, typer.Option(min=0, max=65000, help="Without LINE.TOML: the first register's address.")] = 0,
    sink: Annotated[str, typer.Option(metavar="NAME", help="Only this sink.")] = "",
) -> int:
    """Print the PLC's registers, with the addresses that a line's PLC sinks have."""
    if config is None:
        from line_worker.config import PlcSink, S7Sink

        bare = S7Sink(kind="s7", host="plc", db=1) if form == "scl" else PlcSink(kind="plc", base=base)
        typer.echo(_printed(form, bare, "line", 500), nl=False)
        return 0
    from line_worker.config import load

    line = load(config)
    sinks = _sinks(line, str(config), sink)
    if form == "table":
        typer.echo(
            "\n".join(f"## {one.name}: {_title(one)}\n\n{_printed(form, one, *_of(line))}" for one in sinks), nl=False
        )
        return 0
    able = [one for one in sinks if one.kind in WHOSE[form]]
    if len(able) != 1:
        names = ", ".join(sorted(one.name for one in able)) or "none"
        kinds = ", ".join(WHOSE[form])
        raise ConfigError(
            str(config), [f"--format {form} is for one sink of kind {kinds}; choose one with --sink ({names})"]
        )
    typer.echo(_printed(form, able[0], *_of(line)), nl=False)
    return 0


def _of(line: Config) -> tuple[str, int]:
    """Return the line's name, and how long a part may wait for its answer, in ms."""
    return line.line.name, int(max(camera.deadline_ms for camera in line.cameras))


def _sinks(line: Config, where: str, name: str) -> list[Tabled]:
    from line_worker.config import OpcUaSink, PlcSink, WrittenPlc

    found = [
        one
        for one in line.sinks
        if isinstance(one, PlcSink | WrittenPlc | OpcUaSink) and getattr(one, "handshake", True)
    ]
    names = ", ".join(one.name for one in found) or "none"
    if name and name not in names.split(", "):
        raise ConfigError(where, [f"it has no PLC sink {name!r} (there are: {names})"])
    if not found:
        raise ConfigError(where, ['it has no PLC sink; add [[sinks]] kind = "plc", or leave the file out'])
    return [one for one in found if name in ("", one.name)]


def _title(sink: Tabled) -> str:
    match sink.kind:
        case "opcua":
            return f"OPC UA, opc.tcp://{sink.host}:{sink.port}"
        case "opcua-client":
            return f"OPC UA, client of {sink.url}"
        case "ethernet-ip":
            return f"EtherNet/IP, {sink.host}:{sink.port}, slot {sink.slot}"
        case "s7":
            return f"S7, {sink.host}:{sink.port}, rack {sink.rack}, slot {sink.slot}"
    return f"Modbus TCP, {sink.mode}, {sink.host}:{sink.port}, unit {sink.unit}"


def _printed(form: Format, sink: Tabled, line: str, window_ms: int) -> str:
    from line_worker.sink.plc import printed
    from line_worker.sink.plc.scl import as_scl
    from line_worker.sink.plc.structured_text import as_structured_text

    table = form == "table"
    if form == "st":
        return as_structured_text(sink.base if sink.kind == "plc" else None, window_ms)
    match sink.kind:
        case "s7" if form == "scl":
            return as_scl(sink.db, sink.base, window_ms)
        case "opcua":
            return printed.as_nodes(printed.served_nodes(line)) + "\n"
        case "opcua-client":
            return printed.as_nodes(sink.nodes) + "\n" if table else printed.as_nodes_csv(sink.nodes)
        case "ethernet-ip":
            arrays = sink.to_plc, sink.from_plc
            return printed.as_tags(*arrays) + "\n" if table else printed.as_tags_csv(*arrays)
        case "s7":
            place = sink.db, sink.base
            return printed.as_blocks(*place) + "\n" if table else printed.as_blocks_csv(*place)
        case _:
            return printed.as_markdown(sink.base) + "\n" if table else printed.as_csv(sink.base)
