"""The commands. Each one reads its arguments, calls one function and returns its exit code; no logic lives here.

Exit codes, the same for all commands: 0 all is well, 1 the answer is no (a part fails, a replay differs, books do not
balance), 2 undecided, 3 wrong usage, configuration or input. This module is the composition root: `cli_learn`,
`cli_bench` and `demo` alone may import `calib` and `bench`, and whatever is heavy is imported only inside the command
that needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from line_worker import __version__, cli_init, cli_learn, cli_operate, cli_registers
from line_worker.cli_bench import bench_app
from line_worker.cli_bundle import bundle_app
from line_worker.cli_keys import keys_app
from line_worker.cli_recording import recording_app
from line_worker.cli_shadow import shadow_app
from line_worker.errors import LineWorkerError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(bench_app, name="bench")
app.add_typer(bundle_app, name="bundle")
app.add_typer(keys_app, name="keys")
app.add_typer(recording_app, name="recording")
app.add_typer(shadow_app, name="shadow")

ConfigPath = Annotated[Path, typer.Argument(metavar="LINE.TOML", help="The line's configuration.")]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `train` wrote.")]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:N")]
Runtime = Annotated[str, typer.Option(help="auto | torch | openvino: what computes on a CPU.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result on one machine.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for scripts.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"line-worker {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Learns what good parts look like, then gives every part on the line one verdict, in time."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def demo(
    parts: Annotated[int, typer.Option(min=1, help="How many parts the line sees.")] = 200,
    rate: Annotated[float, typer.Option(min=0.1, help="Parts a second.")] = 10.0,
    defects: Annotated[float, typer.Option(min=0, max=1, help="Share of defective parts.")] = 0.1,
    seed: Seed = 0,
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep everything in this folder.")] = None,
    as_json: Json = False,
) -> int:
    """Show the whole product on drawn parts: no camera, PLC, GPU or network needed."""
    import tempfile

    from line_worker.demo import demo as run

    folder = keep or Path(tempfile.mkdtemp(prefix="line-worker-demo-"))
    return run(parts, rate, defects, seed, folder.resolve(), as_json=as_json)


app.command()(cli_init.init)
app.command()(cli_learn.train)
app.command()(cli_learn.recalibrate)
cli_operate.register(app)


@app.command()
def score(
    bundle: BundlePath,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Images, or folders of images.")],
    overlay: Annotated[Path | None, typer.Option(metavar="DIR", help="Write pictures with the verdict here.")] = None,
    device: Device = "auto",
    runtime: Runtime = "auto",
    as_json: Json = False,
) -> int:
    """Judge images; exit code 0 all pass, 1 some fail, 2 some are undecided."""
    import json

    from line_worker.bundle import Bundle
    from line_worker.scoring import exit_code, score_paths

    scored = []
    for one in score_paths(Bundle.load(bundle), paths, device, overlay, runtime):
        typer.echo(json.dumps(one.as_json()) if as_json else one.as_line())
        scored.append(one)
    return exit_code(scored)


@app.command()
def rescore(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Recordings, images, folders of images.")],
    bundle: Annotated[Path, typer.Option(help="The bundle to judge with.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write verdicts here (.jsonl or .parquet).")] = None,
    processes: Annotated[int, typer.Option(min=0, help="How many; 0: one for each processor.")] = 0,
    cluster: Annotated[str, typer.Option(metavar="ADDRESS", help="A Ray cluster to compute on: HOST:PORT.")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run with --out stopped.")] = False,
    as_json: Json = False,
) -> int:
    """Judge recordings and folders again on all cores or a cluster, away from any line; says which verdicts change."""
    from line_worker.rescore.run import run

    return run(sources, bundle, out, processes, cluster, resume=resume, as_json=as_json)


@app.command()
def serve(config: ConfigPath) -> int:
    """Run a whole line on this host until SIGTERM, or until its sources are finished; SIGHUP reads LINE.TOML again."""
    from line_worker.serving import serve as run
    from line_worker.serving import to_serve, with_page

    return run(lambda: with_page(to_serve(config)))


@app.command()
def record(
    config: ConfigPath,
    out: Annotated[Path, typer.Option("--out", help="The recording to write (.mcap).")],
    compression: Annotated[
        Literal["none", "png", "delta"], typer.Option(help="Of the pictures; all are lossless.")
    ] = "none",
) -> int:
    """Serve, and record frames, triggers and outcomes."""
    from line_worker.serving import record as run
    from line_worker.serving import to_serve

    return run(lambda: to_serve(config), out, compression)


@app.command()
def replay(
    recording: Annotated[Path, typer.Argument(metavar="X.MCAP", help="What `record` wrote.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle to judge with; default: the recorded line's.")] = None,
    rate: Annotated[str, typer.Option(help="recorded | max | parts a second")] = "max",
    check: Annotated[bool, typer.Option("--assert", help="Exit 1 when a verdict, score or frame differs.")] = False,
    workers: Workers = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Run recorded frames through the real hub and workers; never drives a PLC."""
    from line_worker.replaying import replay as run

    if rate not in ("recorded", "max"):
        try:
            pace: str | float = float(rate)
        except ValueError:
            raise typer.BadParameter(f"--rate {rate!r}: give recorded, max or a number") from None
    else:
        pace = rate
    return run(recording, bundle, pace, check=check, as_json=as_json, workers=workers, device=device)


@app.command()
def audit(
    journal: Annotated[Path, typer.Argument(help="The hub's journal: journal.sqlite in the line's data folder.")],
    as_json: Json = False,
) -> int:
    """Prove that every announced part has exactly one outcome; exit code 1 when the books do not balance."""
    from line_worker.auditing import run

    return run(journal, as_json=as_json)


@app.command("export")
def export_journal(
    journal: Annotated[Path, typer.Argument(help="The hub's journal: journal.sqlite in the line's data folder.")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the files go.")],
    zone: Annotated[str, typer.Option(metavar="NAME", help="The time zone of a day, as Europe/Vienna.")] = "UTC",
) -> int:
    """Write the journal's outcomes as Parquet, a file a day; days that are over are written once."""
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    from line_worker.exporting import export

    try:
        days = ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError):
        raise typer.BadParameter(f"--zone {zone!r}: is no time zone; give one as Europe/Vienna") from None
    for path, count in export(journal, folder, days):
        typer.echo(f"{path}: {count} outcomes")
    return 0


@app.command()
def doctor(config: ConfigPath, as_json: Json = False) -> int:
    """Examine this station: is everything there that the line needs? Exit code 1 when something is not."""
    from line_worker.doctor.run import run

    return run(config, as_json=as_json)


@app.command()
def drill(
    minutes: Annotated[float, typer.Option(min=0.05, help="How long the line is broken.")] = 10,
    seed: Seed = 0,
    faults: Annotated[str, typer.Option(metavar="A,B,...", help="Kinds of fault, all, or none.")] = "all",
    every: Annotated[
        float | None, typer.Option(min=0.1, help="Mean seconds between two faults; left out: 1.4, with a bundle 6.")
    ] = None,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Parts a second; left out: 75, with a bundle 5.")] = None,
    overload: Annotated[float, typer.Option(min=0, help="Instead of --rate: times what the workers can do.")] = 0,
    model: Annotated[str, typer.Option(help='A bundle, or "stub".')] = "stub",
    folder: Annotated[str, typer.Option(help="Images to judge (needed with a bundle).")] = "",
    keep: Annotated[Path | None, typer.Option(metavar="DIR", help="Keep books and logs in this folder.")] = None,
    as_json: Json = False,
) -> int:
    """Start a line, break it on purpose, and prove from three books that the promise held; exit code 1 when not."""
    from line_worker.drill.plan import BUNDLE_EVERY_S, BUNDLE_RATE, EVERY_S, KINDS, RATE
    from line_worker.drill.run import Asked
    from line_worker.drill.run import run as run_drill

    kinds = {"all": KINDS, "none": ()}.get(faults) if faults in ("all", "none") else tuple(faults.split(","))
    pace = (EVERY_S, RATE) if model == "stub" else (BUNDLE_EVERY_S, BUNDLE_RATE)
    asked = Asked(minutes, seed, kinds or (), every or pace[0], rate or pace[1], overload, model, folder, keep)
    return run_drill(asked, as_json=as_json)


@app.command()
def cameras(
    producer: Annotated[
        list[Path] | None, typer.Option(metavar="X.CTI", help="A GenTL producer; may be given again.")
    ] = None,
    pictures: Annotated[Path | None, typer.Option(metavar="DIR", help="Write one picture of each here.")] = None,
    as_json: Json = False,
) -> int:
    """List the cameras that are connected; exit code 1 when there is none."""
    import json

    from line_worker.cameras import connected

    count = 0
    for count, one in enumerate(connected(producer or (), pictures), 1):  # noqa: B007 - how many there were
        words = f"{one.what}\n   {one.source}" + (f"\n   {one.picture}" if one.picture else "")
        typer.echo(json.dumps(one._asdict()) if as_json else words)
    if not count:
        typer.echo("no camera is connected; GenICam cameras need --producer with the vendor's .cti file", err=True)
    return 0 if count else 1


app.command("register-map")(cli_registers.register_map)


def _role(role: str, config: Path, name: str) -> int:
    from line_worker.config import load
    from line_worker.health import configure_logging
    from line_worker.role import run_role

    configure_logging(f"{role}-{name}" if name else role)
    return run_role(load(config), role, name)


@app.command()
def source(config: ConfigPath, camera: Annotated[str, typer.Argument(help="Which camera.")] = "") -> int:
    """Run one camera's source."""
    return _role("source", config, camera)


@app.command()
def hub(config: ConfigPath) -> int:
    """Run the hub."""
    return _role("hub", config, "")


@app.command()
def worker(config: ConfigPath, number: Annotated[int, typer.Argument(help="Which worker, from 0.")] = 0) -> int:
    """Run one worker."""
    return _role("worker", config, str(number))


@app.command()
def sink(config: ConfigPath, name: Annotated[str, typer.Argument(help="Which sink.")] = "") -> int:
    """Run one sink."""
    return _role("sink", config, name)


# typer brings its own click, or an installed one, by version: its exceptions are reached through what typer exports
_UsageError: Any = typer.BadParameter.__mro__[1]


def main(arguments: list[str] | None = None) -> None:
    """Entry point: run the command, turn errors into words and exit codes."""
    try:
        code = app(args=arguments, prog_name="line-worker", standalone_mode=False)
    except _UsageError as error:
        error.show()
        code = 3
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("interrupted", err=True)
        code = 130
    except LineWorkerError as error:
        typer.echo(f"line-worker: {error}", err=True)
        code = error.exit_code
    except OSError as error:
        if error.filename is None:  # not about a file that somebody named
            raise
        remedy = "correct the path or its permissions, or make room on its disk"
        typer.echo(f"line-worker: {error.filename}: cannot be used ({error.strerror}); {remedy}", err=True)
        code = LineWorkerError.exit_code
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
