"""The commands. Each one reads its arguments, calls one function and returns its exit code; no logic lives here.

Exit codes, the same for all commands: 0 all is well, 1 the answer is no (a part fails, a replay differs, books do not
balance), 2 undecided, 3 wrong usage, configuration or input. This module is the composition root: it alone may import
`calib` and `bench`, and it imports whatever is heavy only inside the command that needs it.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from line_worker import __version__
from line_worker.errors import LineWorkerError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
bench_app = typer.Typer(help="Measure throughput, latency and accuracy.")
app.add_typer(bench_app, name="bench")

ConfigPath = Annotated[Path, typer.Argument(metavar="LINE.TOML", help="The line's configuration.")]
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
def serve(config: ConfigPath) -> int:
    """Run a whole line on this host until SIGTERM, or until its sources are finished."""
    from line_worker.config import load
    from line_worker.serving import serve as run

    return run(load(config))


@app.command()
def record(
    config: ConfigPath,
    out: Annotated[Path, typer.Option("--out", help="The recording to write (.mcap).")],
) -> int:
    """Serve, and record frames, triggers and outcomes."""
    from line_worker.config import load
    from line_worker.serving import serve as run
    from line_worker.serving import with_recorder

    return run(with_recorder(load(config), out))


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


# ---- bench -----------------------------------------------------------------------------------------------------------

Model = Annotated[str, typer.Option(help='A bundle, or "stub" to measure the line alone.')]
Rate = Annotated[float, typer.Option(min=0.1, help="Parts a second.")]
Seconds = Annotated[float, typer.Option(min=0.5, help="How long each rate is held.")]
Size = Annotated[str, typer.Option(metavar="WxH", help="Size of the drawn frames.")]
Workers = Annotated[int, typer.Option(min=1)]
Folder = Annotated[str, typer.Option(help="Images to use instead of noise (needed with a bundle).")]
Deadline = Annotated[float, typer.Option("--deadline", min=1, help="Milliseconds.")]


def _load(model: str, rate: float, seconds: float, size: str, workers: int, folder: str, deadline: float) -> Any:
    from bench.line import Load

    try:
        width, height = (int(side) for side in size.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"--size {size!r}: give width and height, as in 1024x1024") from None
    return Load(model, rate, seconds, workers, width, height, folder=folder, deadline_ms=deadline)


@bench_app.command()
def latency(
    model: Model = "stub",
    rate: Rate = 100,
    seconds: Seconds = 10,
    size: Size = "1024x1024",
    workers: Workers = 2,
    folder: Folder = "",
    deadline: Deadline = 1000,
    as_json: Json = False,
) -> int:
    """Measure the time from frame ready to outcome at the sink, at one rate, through the real processes."""
    from bench.line import measure
    from bench.show import show_runs

    run = measure(_load(model, rate, seconds, size, workers, folder, deadline))
    show_runs([run], as_json=as_json)
    return 0 if run.in_time else 1


@bench_app.command()
def throughput(
    model: Model = "stub",
    rate: Rate = 100,
    seconds: Seconds = 10,
    size: Size = "1024x1024",
    workers: Workers = 2,
    folder: Folder = "",
    deadline: Deadline = 1000,
    slo: Annotated[str, typer.Option(metavar="p99=MS", help="What must hold.")] = "p99=30ms",
    as_json: Json = False,
) -> int:
    """Raise the rate from --rate until the promise breaks; says the highest rate that held."""
    from bench.line import knee
    from bench.show import show_runs

    try:
        limit = float(slo.removeprefix("p99=").removesuffix("ms"))
    except ValueError:
        raise typer.BadParameter(f"--slo {slo!r}: give a limit in milliseconds, as in p99=30ms") from None
    runs = knee(_load(model, rate, seconds, size, workers, folder, deadline), limit)
    show_runs(runs, as_json=as_json, knee_ms=limit)
    return 0 if runs[0].in_time and runs[0].elapsed_ms["p99"] <= limit else 1


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
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
