"""The commands for a line that runs: ask its hub, or have it do something, through its control socket."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

ConfigPath = Annotated[Path, typer.Argument(metavar="LINE.TOML", help="The line's configuration.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]


def _ask(config: Path, command: str, **arguments: Any) -> dict[str, Any]:
    from line_worker.config import load
    from line_worker.wire.control import ask

    return ask(load(config).line.runtime, command, **arguments)


def status(config: ConfigPath, as_json: Json = False) -> int:
    """Tell how a running line is; exit code 1 unless it is RUNNING with no alarm to acknowledge."""
    import json

    found = _ask(config, "status")
    typer.echo(json.dumps(found) if as_json else _in_words(found))
    return 0 if found["state"] == "RUNNING" and not found["alarms"] else 1


def acknowledge(
    config: ConfigPath,
    cause: Annotated[str, typer.Argument(help="Only the alarms of this cause, as `status` names it.")] = "",
    as_json: Json = False,
) -> int:
    """Acknowledge alarms, so that the line may run again; tells what was cleared."""
    import json

    found = _ask(config, "acknowledge", cause=cause)
    lines = [f"acknowledged: {alarm}" for alarm in found["cleared"]] or ["there was nothing to acknowledge"]
    typer.echo(json.dumps(found) if as_json else "\n".join(lines))
    return 0


def challenge(
    config: ConfigPath,
    camera: Annotated[str, typer.Option(help="Which camera; may be left out where there is one.")] = "",
    parts: Annotated[int, typer.Option(min=0, help="How many parts; 0: as configured.")] = 0,
    as_json: Json = False,
) -> int:
    """Announce known-bad parts: the next ones of the camera must FAIL, or nothing passes until that is acknowledged."""
    import json

    found = _ask(config, "challenge", camera=camera, parts=parts)
    words = f"the next {found['parts']} parts of camera {found['camera']} must fail; `line-worker status` counts them"
    typer.echo(json.dumps(found) if as_json else words)
    return 0


def _in_words(found: dict[str, Any]) -> str:
    cause = f" ({found['cause']})" if found["cause"] else ""
    counts = ", ".join(f"{verdict} {count}" for verdict, count in found["counts"].items())
    lines = [
        f"{found['line']}: {found['state']}{cause}",
        f"bundle {found['bundle'][:12] or 'none'}, {found['workers']} workers, {found['open_parts']} open parts",
        *(
            f"{what} {name}: {'well' if well else 'NOT WELL'}"
            for what in ("camera", "sink")
            for name, well in found[f"{what}s"].items()
        ),
        counts,
        *(
            f"canaries of camera {name}: {one['failed']} failed as they must, {one['missed']} missed"
            for name, one in found["canaries"].items()
        ),
        *(
            f"challenge of camera {name}: {one['failed']} of {one['parts']} failed, {one['left']} to come"
            for name, one in found["challenges"].items()
            if one["parts"]
        ),
        *(f"WARNING {warning}" for warning in found["warnings"]),
        *(f"ALARM {_alarm(alarm)}" for alarm in found["alarms"]),
    ]
    return "\n".join(lines)


def _alarm(alarm: dict[str, Any]) -> str:
    where = f"camera {alarm['camera']}: " if alarm["camera"] else ""
    return f"{alarm['cause']}: {where}{alarm['text']} (line-worker acknowledge)"


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(status)
    app.command()(acknowledge)
    app.command()(challenge)
