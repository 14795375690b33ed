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


def threshold(
    config: ConfigPath,
    camera: Annotated[str, typer.Option(help="Which camera; may be left out where there is one.")] = "",
    at: Annotated[float | None, typer.Option(help="The score above which its parts fail from now on.")] = None,
    reset: Annotated[bool, typer.Option("--reset", help="Back to the bundle's own limit.")] = False,
    less_sensitive: Annotated[
        bool, typer.Option("--less-sensitive", help="Needed above the bundle's own limit: more defects may pass.")
    ] = False,
    who: Annotated[str, typer.Option(help="Who wants it; left out: the user of this command.")] = "",
    as_json: Json = False,
) -> int:
    """Show what parts are held against, or change it on the running line; each change is logged and kept."""
    import getpass
    import json

    if reset and at is not None:
        raise typer.BadParameter("--at sets a limit, --reset takes it back: give one of them")
    if reset or at is not None:
        who = who or getpass.getuser()
        _ask(config, "threshold", camera=camera, at=at, who=who, less_sensitive=less_sensitive)
    status = _ask(config, "status")
    found = {name: status[name] for name in ("thresholds", "threshold_changes")}
    typer.echo(json.dumps(found) if as_json else "\n".join(_limits(found)))
    return 0


def judgements(
    config: ConfigPath,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Write the judged pictures here.")] = None,
    as_json: Json = False,
) -> int:
    """Count what operators have said of parts on the page; with --out, as a folder that `recalibrate` takes."""
    import json
    from collections import Counter

    from line_worker.config import load
    from line_worker.live.judgements import Judgements, export

    said = Judgements(load(config).store_path)
    counts = dict(Counter(str(one.judgement) for one in said.newest()))
    pictures = export(said, out) if out else {}
    lines = [f"{what.replace('_', ' ')}: {count}" for what, count in sorted(counts.items())] or [
        "nothing was judged yet"
    ]
    lines += [
        f"{out}/{folder}: {count} pictures" for folder, count in sorted(pictures.items()) if out and "/" in folder
    ]
    lines += [f"without a picture: {count}" for name, count in pictures.items() if "/" not in name]
    if pictures.get("train/good") and counts.get("false_reject"):
        lines += ["false rejects are the most unusual good parts: add ordinary ones to train/good before `recalibrate`"]
    typer.echo(json.dumps({"judgements": counts, "pictures": pictures}) if as_json else "\n".join(lines))
    return 0


def _in_words(found: dict[str, Any]) -> str:
    cause = f" ({found['cause']})" if found["cause"] else ""
    counts = ", ".join(f"{verdict} {count}" for verdict, count in found["counts"].items())
    lines = [
        f"{found['line']}: {found['state']}{cause}",
        f"bundle {found['bundle'][:12] or 'none'}, {found['workers']} workers, {found['open_parts']} open parts",
        *(
            f"{what} {name}: {'well' if well else 'NOT WELL'}{_why(what, name, found)}"
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


def _why(what: str, name: str, found: dict[str, Any]) -> str:
    """Return what is wrong with a sink, and what waits for it; "" for one that is well, and for a camera."""
    trouble = found.get("sink_troubles", {}).get(name) if what == "sink" else None  # an older hub does not say
    if trouble is None:
        return ""
    return f": {trouble['why']}" + (f"; {trouble['waiting']} outcomes wait for it" if trouble["waiting"] else "")


def _limits(found: dict[str, Any]) -> list[str]:
    from datetime import UTC, datetime

    lines = []
    for camera, limit in found["thresholds"].items():
        own = "the bundle's own" if limit["at"] == limit["own"] else f"the bundle's own is {limit['own']:.4g}"
        marked = ", LESS SENSITIVE" if limit["less_sensitive"] else ""
        lines.append(f"camera {camera}: parts fail above {limit['at']:.4g} ({own}{marked})")
    for one in found["threshold_changes"]:
        at = datetime.fromtimestamp(one["wall"], UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        lines.append(f"   {at} {one['who']} changed {one['camera']} from {one['from']:.4g} to {one['to']:.4g}")
    return lines


def _alarm(alarm: dict[str, Any]) -> str:
    where = f"camera {alarm['camera']}: " if alarm["camera"] else ""
    return f"{alarm['cause']}: {where}{alarm['text']} (line-worker acknowledge)"


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    app.command()(status)
    app.command()(acknowledge)
    app.command()(challenge)
    app.command()(threshold)
    app.command()(judgements)
