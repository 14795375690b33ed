"""The command that prints the PLC's registers: for people, for the PLC programmer's tag import, or as a program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from line_worker.errors import ConfigError

if TYPE_CHECKING:
    from line_worker.config import Config, PlcSink

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
    if len(sinks) > 1 and form != "table":
        names = ", ".join(sorted(sinks))
        raise ConfigError(str(config), [f"it has several PLC sinks ({names}); choose one with --sink"])
    for one in sinks.values():
        if form == "table":
            typer.echo(f"## {one.name}: Modbus TCP, {one.mode}, {one.host}:{one.port}, unit {one.unit}\n")
        typer.echo(_printed(form, one.base, int(max(camera.deadline_ms for camera in line.cameras))), nl=False)
    return 0


def _sinks(line: Config, where: str, name: str) -> dict[str, PlcSink]:
    found = {one.name: one for one in line.sinks if one.kind == "plc"}
    if name and name not in found:
        raise ConfigError(where, [f"it has no PLC sink {name!r} (there are: {', '.join(found) or 'none'})"])
    if not found:
        raise ConfigError(where, ['it has no PLC sink; add [[sinks]] kind = "plc", or leave the file out'])
    return {name: found[name]} if name else found


def _printed(form: Format, base: int, window_ms: int = 500) -> str:
    from line_worker.sink.plc.printed import as_csv, as_markdown
    from line_worker.sink.plc.structured_text import as_structured_text

    if form == "st":
        return as_structured_text(base, window_ms)
    return as_csv(base) if form == "csv" else as_markdown(base) + "\n"
