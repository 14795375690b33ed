"""`line-worker bench`: throughput, latency, growth, accuracy. What is heavy is imported where it is needed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

bench_app = typer.Typer(help="Measure throughput, latency, growth and accuracy.")

Device = Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:N")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result on one machine.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for scripts.")]
Model = Annotated[str, typer.Option(help='A bundle, or "stub" to measure the line alone.')]
Rate = Annotated[float, typer.Option(min=0.1, help="Parts a second.")]
Seconds = Annotated[float, typer.Option(min=0.5, help="How long each rate is held.")]
Size = Annotated[str, typer.Option(metavar="WxH", help="Size of the drawn frames.")]
Folder = Annotated[str, typer.Option(help="Images to use instead of noise (needed with a bundle).")]
Deadline = Annotated[float, typer.Option("--deadline", min=1, help="Milliseconds.")]


def _sides(size: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in size.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"--size {size!r}: give width and height, as in 1024x1024") from None
    return width, height


def _load(model: str, rate: float, seconds: float, size: str, workers: int, folder: str, deadline: float) -> Any:
    from bench.line import Load

    width, height = _sides(size)
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


@bench_app.command()
def soak(
    minutes: Annotated[float, typer.Option(min=0.5, help="How long the line runs.")] = 10,
    model: Model = "stub",
    rate: Rate = 50,
    size: Size = "1024x1024",
    workers: Workers = 2,
    folder: Folder = "",
    deadline: Deadline = 1000,
    slope: Annotated[float, typer.Option(min=0, help="MB an hour that a process may grow by.")] = 20.0,
    as_json: Json = False,
) -> int:
    """Run a line for a while; exit code 1 when memory or descriptors of one of its processes grow."""
    from bench.show import show_soak
    from bench.soak import soak as run

    found = run(_load(model, rate, 60, size, workers, folder, deadline), minutes, slope)
    show_soak(found, as_json=as_json)
    return 0 if found.flat else 1


@bench_app.command()
def wire(
    megabytes: Annotated[float, typer.Option(min=0.001, max=64, help="Size of a frame.")] = 1.0,
    frames: Annotated[int, typer.Option(min=1, help="Frames of each run.")] = 200,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each transport; the median counts.")] = 5,
    as_json: Json = False,
) -> int:
    """Measure what a frame costs between two processes: shared memory, socket file, TCP, TCP with keys."""
    from bench.show import show_costs
    from bench.wire import measure

    show_costs(measure(int(megabytes * 1e6), frames, runs), as_json=as_json)
    return 0


@bench_app.command()
def recording(
    model: Model = "stub",
    rate: Rate = 100,
    seconds: Seconds = 10,
    size: Size = "1024x1024",
    workers: Workers = 2,
    folder: Folder = "",
    deadline: Deadline = 1000,
    runs: Annotated[int, typer.Option(min=1, help="Runs of each way; they take turns, the median counts.")] = 3,
    place: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where recordings lie, away from the journal.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Measure the line's latency without a recorder and with one; exit code 1 when anything is missing in its file."""
    from bench.recording import measure
    from bench.show import show_recording

    load = replace(_load(model, rate, seconds, size, workers, folder, deadline), part="grain")  # it can be made smaller
    costs = measure(load, runs, place=place)
    show_recording(load, costs, as_json=as_json)
    return 0 if all(cost.whole for cost in costs) else 1


@bench_app.command()
def camera(
    rate: Rate = 50,
    seconds: Seconds = 60,
    size: Size = "1024x1024",
    lose: Annotated[int, typer.Option(min=0, max=1000, help="Of a thousand packets.")] = 0,
    packet_size: Annotated[int, typer.Option(min=0, max=65_535, help="Bytes; 0: the largest that goes.")] = 0,
    as_json: Json = False,
) -> int:
    """Run a line with a fake GigE Vision camera; exit code 1 unless every frame is an outcome or a counted gap."""
    from bench.camera import Shots, measure
    from bench.fake_camera import INSTALL, FakeCamera
    from bench.show import show_camera

    if not FakeCamera.installed():
        raise typer.BadParameter(f"the fake camera is not installed: {INSTALL}")
    width, height = _sides(size)
    found = measure(Shots(rate, seconds, width, height, lose, packet_size))
    show_camera(found, as_json=as_json)
    return 0 if found.whole else 1


@bench_app.command()
def plc(
    via: Annotated[
        str, typer.Option(metavar="A,B,...", help="Protocols, and opcua-client, ethernet-ip.")
    ] = "modbus,opcua,s7",
    rate: Rate = 50,
    seconds: Seconds = 10,
    as_json: Json = False,
) -> int:
    """Measure the time from an outcome at the PLC sink until a PLC that polls has seen it."""
    from bench.plc import WAYS, measure
    from bench.show import show_ways

    asked = via.split(",")
    if unknown := set(asked) - set(WAYS):
        raise typer.BadParameter(f"--via {', '.join(sorted(unknown))}: choose from {', '.join(WAYS)}")
    ways = [measure(one, rate, seconds) for one in asked]
    show_ways(ways, as_json=as_json)
    return 0 if all(way.seen == way.parts for way in ways) else 1


@bench_app.command()
def page(
    browsers: Annotated[int, typer.Option(min=1, max=12, help="Browsers that look at the page.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, help="Turns without and with them.")] = 3,
    model: Model = "stub",
    rate: Rate = 20,
    seconds: Seconds = 10,
    size: Size = "1024x1024",
    workers: Workers = 2,
    folder: Folder = "",
    deadline: Deadline = 1000,
    as_json: Json = False,
) -> int:
    """Measure the time to decide while nobody looks at the page, browsers elsewhere, or browsers here, by turns."""
    from bench.page import measure
    from bench.show import show_phases

    show_phases(
        measure(_load(model, rate, seconds, size, workers, folder, deadline), browsers, rounds), as_json=as_json
    )
    return 0


@bench_app.command()
def rescore(
    sources: Annotated[list[Path], typer.Argument(metavar="SOURCE...", help="Recordings, images, folders of images.")],
    bundle: Annotated[Path, typer.Option(help="The bundle to judge with.")],
    processes: Annotated[str, typer.Option(metavar="A,B,...", help="Numbers of processes, side by side.")] = "1,2",
    rounds: Annotated[int, typer.Option(min=1, help="Turns; the medians count.")] = 3,
    as_json: Json = False,
) -> int:
    """Measure `rescore` on more and more processes; exit code 1 when their verdicts differ."""
    from bench.rescore import measure
    from bench.show import show_paces

    try:
        paces, same = measure(sources, bundle, [max(1, int(count)) for count in processes.split(",")], rounds)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    show_paces(paces, same=same, as_json=as_json)
    return 0 if same else 1


@bench_app.command()
def drawn(
    parts: Annotated[str, typer.Option(metavar="A,B,...", help="Only these parts; all when left out.")] = "",
    good: Annotated[int, typer.Option(min=20, help="Good pictures to learn each from.")] = 80,
    bad: Annotated[int, typer.Option(min=4, help="Good and bad pictures to judge, as many of each.")] = 60,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    seed: Seed = 0,
    as_json: Json = False,
) -> int:
    """Train and judge drawn objects of several kinds with the defaults: is anything made for one object only?"""
    from bench.drawn import run

    return run(parts, good, bad, seed, threads, as_json=as_json)


@bench_app.command()
def accuracy(
    category: Annotated[Path, typer.Argument(help="A category in the layout of MVTec AD.")],
    bundle: Annotated[Path | None, typer.Option(help="The bundle to judge with.")] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Train classic with and without segmentation.")] = False,
    splits: Annotated[int | None, typer.Option(min=1, help="Train on so many random splits.")] = None,
    methods: Annotated[str, typer.Option(metavar="A,B,...", help="Ways to reconstruct, side by side.")] = "",
    images: Annotated[int | None, typer.Option(min=1, help="Train on so many good images only.")] = None,
    reference: Annotated[str, typer.Option(help="ganomaly: measure it beside (needs anomalib).")] = "",
    minutes: Annotated[float | None, typer.Option(help="Of each training.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Measure detection on the test images of an MVTec-style category, with a bundle or with methods trained here."""
    from bench.show_accuracy import Asked, run

    asked = Asked(category, bundle, compare, splits, methods, images, reference, minutes, threads, seed, device)
    return run(asked, as_json=as_json)


@bench_app.command()
def device(
    bundle: Annotated[Path, typer.Option(help="The bundle to judge with.")],
    folder: Annotated[Path, typer.Option(help="Images to judge.")],
    batches: Annotated[str, typer.Option(metavar="A,B,...", help="Batch sizes.")] = "1,8,32",
    device: Device = "auto",
    agree: Annotated[bool, typer.Option("--agree", help="Judge the images on the CPU, too, and compare.")] = False,
    as_json: Json = False,
) -> int:
    """Measure batches on one device, by size and by stage; exit code 1 when --agree finds another verdict."""
    from bench.device import profile, sizes
    from bench.show_device import show
    from line_worker.bundle import Bundle

    measured = profile(Bundle.load(bundle), folder, sizes(batches), device, agree)
    show(measured, as_json=as_json)
    return 1 if measured.agreement is not None and measured.agreement.verdicts_that_differ else 0


@bench_app.command()
def fuzz(
    messages: Annotated[int, typer.Option(min=0, help="Messages to decode.")] = 20_000,
    images: Annotated[int, typer.Option(min=0, help="Images to decode.")] = 500,
    bundles: Annotated[int, typer.Option(min=0, help="Bundles to load.")] = 1500,
    recordings: Annotated[int, typer.Option(min=0, help="Recordings to read.")] = 200,
    sockets: Annotated[int, typer.Option(min=0, help="Raw connections to the sockets of a running line.")] = 200,
    state: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep the counts here, and go on from them.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=1, help="Stop after so long.")] = None,
    as_json: Json = False,
) -> int:
    """Feed hostile input to every decoder and socket; exit code 1 when it is more than refused."""
    from bench.fuzz.run import run

    wanted = {"messages": messages, "images": images, "bundles": bundles, "recordings": recordings, "sockets": sockets}
    return run(wanted, state, seconds or float("inf"), as_json=as_json)
