"""`line-worker shadow report`: what a second bundle says of the line's parts; no logic lives here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from line_worker.errors import ConfigError

if TYPE_CHECKING:
    from line_worker.config import Config, ShadowSink

shadow_app = typer.Typer(help="A second bundle that judges the same parts and decides nothing.")


@shadow_app.callback()
def _group() -> None:
    """A second bundle that judges the same parts and decides nothing."""


@shadow_app.command("report")
def report(
    config: Annotated[Path, typer.Argument(metavar="LINE.TOML", help="The line's configuration.")],
    name: Annotated[str, typer.Option(help="Which shadow; may be left out where there is one.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")] = False,
) -> int:
    """Say where the shadow disagrees; exit code 1 when it does anywhere, 2 when nothing was compared yet."""
    import json

    from line_worker.config import load
    from line_worker.sink.shadow import report as reporting
    from line_worker.sink.shadow.book import read_book

    line = load(config)
    folder = line.shadow_path(_shadow(line, name))
    found = reporting.report(read_book(folder.with_suffix(".sqlite")))
    typer.echo(json.dumps(reporting.to_json(found)) if as_json else reporting.render(found, str(folder)))
    return 2 if not found.kept else int(found.differ > 0)


def _shadow(line: Config, name: str) -> ShadowSink:
    shadows = {sink.name: sink for sink in line.sinks if sink.kind == "shadow"}
    if not shadows:
        raise ConfigError("sinks", ['there is no shadow: add [[sinks]] with kind = "shadow" and a bundle'])
    if name not in shadows and (name or len(shadows) > 1):
        raise ConfigError(f"shadow {name!r}", [f"is not in the configuration; choose one of: {', '.join(shadows)}"])
    return shadows[name] if name else next(iter(shadows.values()))
