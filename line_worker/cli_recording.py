"""`line-worker recording info|verify|cut|export|film`: the commands, and the words for what `recordings` found."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from line_worker.recordings import Info, Span

recording_app = typer.Typer(help="Look into recordings, check and cut them, take their pictures out.")

Source = Annotated[Path, typer.Argument(metavar="X.MCAP", help="What `record` wrote.")]
Start = Annotated[str, typer.Option(metavar="TIME", help="Seconds from the first part, or an ISO time.")]
End = Annotated[str, typer.Option(metavar="TIME", help="Likewise.")]
Cameras = Annotated[list[str] | None, typer.Option(metavar="NAME", help="Only this camera; may be given again.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]


@recording_app.command()
def info(source: Source, as_json: Json = False) -> int:
    """Say what a recording holds."""
    from line_worker.recordings import look

    found = look(source)
    typer.echo(json.dumps(found.as_json()) if as_json else "\n".join(_shown(found)))
    return 0


@recording_app.command()
def verify(source: Source, as_json: Json = False) -> int:
    """Read everything and say what is damaged, lost, or what other programs could not read; exit code 1 if anything."""
    from line_worker.recordings import look
    from line_worker.wire.mcap_rules import examine

    found = look(source)
    problems = [*found.problems, *(examine(source) if found.finished else [])]
    if as_json:
        typer.echo(json.dumps({"path": found.path, "problems": problems}))
    else:
        frames, outcomes = sum(c.frames for c in found.cameras.values()), sum(found.outcomes.values())
        whole = f"{source}: whole, {frames} frames and {outcomes} outcomes"
        typer.echo("\n".join(f"{source}: {problem}" for problem in problems) or whole)
    return 1 if problems else 0


@recording_app.command()
def cut(
    source: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT.MCAP", help="The recording to write.")],
    start: Start = "",
    end: End = "",
    camera: Cameras = None,
    compression: Annotated[
        Literal["none", "png", "delta"] | None,
        typer.Option(help="Of its pictures; all are lossless; default: as they are."),
    ] = None,
) -> int:
    """Write a span of a recording, frames with their outcomes, to a new one; without a span all of it."""
    from line_worker import recordings

    frames, outcomes = recordings.cut(source, out, _wanted(source, start, end, camera or ()), compression)
    typer.echo(f"{out}: {frames} frames and {outcomes} outcomes")
    return 0


@recording_app.command()
def export(
    source: Source,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to write, laid out as MVTec AD's.")],
    start: Start = "",
    end: End = "",
    camera: Cameras = None,
) -> int:
    """Write pictures as files, by verdict: what passed to train/good, what failed to test/fail."""
    from line_worker import recordings

    written = recordings.export(source, folder, _wanted(source, start, end, camera or ()))
    typer.echo("\n".join(f"{folder / place}: {count}" for place, count in sorted(written.items())))
    return 0


@recording_app.command()
def film(
    source: Source,
    out: Annotated[Path, typer.Argument(metavar="OUT.MP4", help="The video to write.")],
    camera: Annotated[str, typer.Option(help="Which camera; may be left out where there is one.")] = "",
    rate: Annotated[float, typer.Option(min=0.1, help="Pictures a second.")] = 10.0,
    start: Start = "",
    end: End = "",
) -> int:
    """Write a camera's pictures as a video, with the verdict on each."""
    from line_worker import recordings
    from line_worker.errors import ConfigError

    names = [camera] if camera else list(recordings.look(source).cameras)
    if len(names) != 1:
        raise ConfigError(str(source), [f"holds cameras {', '.join(names) or 'none'}: name one with --camera"])
    count = recordings.film(source, out, names[0], rate, _wanted(source, start, end, names))
    typer.echo(f"{out}: {count} pictures of {names[0]}")
    return 0


def _wanted(source: Path, start: str, end: str, cameras: Collection[str]) -> Span:
    """Return what is to be written of a recording; what it lacks is told, because what is written looks whole."""
    from line_worker.recordings import look, span

    found = look(source)
    for problem in found.problems:
        typer.echo(f"{source}: {problem}", err=True)
    return span(found, start, end, cameras)


def _shown(found: Info) -> Iterator[str]:
    yield found.path
    yield f"   line      {found.line}, recorded {_time(found.created)} by line-worker {found.version}"
    how = {"none": "as taken", "png": "as PNG", "delta": "as differences"}[found.compression]
    end = "closed in good order" if found.finished else "cut"
    yield f"   size      {found.bytes / 1e6:.1f} MB, pictures {how}, {end}"
    for name, camera in found.cameras.items():
        lost = ", ".join(f"{count} without: {why}" for why, count in camera.missing.items())
        span = f"{_time(camera.first)} to {_time(camera.last)}"
        yield f"   {name:<9} {camera.frames} frames, {camera.pictures} pictures, {span}{'; ' + lost if lost else ''}"
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.outcomes.items()))
    yield f"   outcomes  {counts or 'none'}"
    yield f"   bundles   {', '.join(sha[:12] for sha in found.bundles) or 'none'}"
    yield from (f"   damaged   {problem}" for problem in found.problems)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
