"""What the bench commands print: tables for people, JSON for scripts."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.camera import Counted
from bench.line import Load, Measured
from bench.page import Phase
from bench.plc import Way
from bench.recording import Cost as RecordingCost
from bench.rescore import Pace
from bench.soak import Soaked
from bench.wire import Cost


def machine() -> str:
    """Return what these figures were measured on, in words."""
    import os

    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


def show_runs(runs: Sequence[Measured], *, as_json: bool, knee_ms: float | None = None) -> None:
    """Print one row a run and the stages of the last one; `knee_ms` adds the highest rate that held that p99."""
    held = [r for r in runs if r.in_time and knee_ms is not None and r.elapsed_ms["p99"] <= knee_ms]
    best = max((r.load.rate for r in held), default=None)
    if as_json:
        extra = {} if knee_ms is None else {"slo_p99_ms": knee_ms, "highest_rate": best}
        print(json.dumps({"machine": machine(), "runs": [r.as_dict() for r in runs], **extra}))
        return
    console = Console()
    console.print(_runs_table(runs))
    console.print(_stages_table(runs[-1]))
    if knee_ms is not None:
        console.print(f"highest rate with p99 <= {knee_ms:g} ms and nothing undecided: {best or 'none of these'}")
    console.print(machine(), style="dim")


def show_soak(found: Soaked, *, as_json: bool) -> None:
    """Print one row a process and whether it grew."""
    if as_json:
        print(json.dumps({"machine": machine(), **found.as_dict()}))
        return
    console = Console()
    title = f"{found.minutes:g} min, {found.load.rate:g} parts/s, model {found.load.model}: {found.counts}"
    table = Table(title=f"Memory of its own and descriptors by process ({title})")
    for column in ("process", "MB", "MB/h", "descriptors", "per hour", "starts", ""):
        table.add_column(column, justify="left" if column in ("process", "") else "right")
    for one in found.trends:
        memory, descriptors = (
            (f"{one.mb:.1f}", f"{one.mb_slope:+.1f}"),
            (f"{one.descriptors}", f"{one.descriptor_slope:+.1f}"),
        )
        table.add_row(one.process, *memory, *descriptors, str(one.starts), "GROWS" if one.grows else "flat")
    console.print(table)
    console.print(f"bound: {found.max_slope:g} MB/h; frames, pictures and messages: at most {found.bound_mb:.0f} MB")
    console.print(machine(), style="dim")


def show_phases(phases: Sequence[Phase], *, as_json: bool) -> None:
    """Print one row a phase, and the medians by who looked."""
    if as_json:
        print(json.dumps({"machine": machine(), "phases": [asdict(phase) for phase in phases]}))
        return
    table = Table(title="Frame ready to outcome, ms, and parts a second that each browser got or drew")
    for column in ("browsers", "parts", "p50", "p99", "max", "shown/s"):
        table.add_column(column, justify="right")
    for phase in phases:
        figures = (f"{phase.elapsed_ms[name]:.1f}" for name in ("p50", "p99", "max"))
        shown = ", ".join(f"{one:.1f}" for one in phase.shown_a_second)
        table.add_row(phase.where, str(phase.parts), *figures, shown or "-")
    console = Console()
    console.print(table)
    for where in dict.fromkeys(phase.where for phase in phases):
        p50, p99 = (median(p.elapsed_ms[name] for p in phases if p.where == where) for name in ("p50", "p99"))
        console.print(f"browsers {where}: median p50 {p50:.1f}, p99 {p99:.1f} ms")
    console.print(machine(), style="dim")


def show_paces(paces: Sequence[Pace], *, same: bool, as_json: bool) -> None:
    """Print one row for each number of processes, and how much faster it is than the first."""
    if as_json:
        print(json.dumps({"machine": machine(), "same": same, "paces": [asdict(pace) for pace in paces]}))
        return
    table = Table(title=f"rescore of {paces[0].pictures} pictures; once the models are loaded")
    for column in ("processes", "seconds in all", "pictures/s", "times the first"):
        table.add_column(column, justify="right")
    for pace in paces:
        times = f"{pace.a_second / paces[0].a_second:.2f}"
        table.add_row(str(pace.processes), f"{pace.seconds:.1f}", f"{pace.a_second:.2f}", times)
    console = Console()
    console.print(table)
    console.print("all verdicts are the same" if same else "THE VERDICTS DIFFER")
    console.print(machine(), style="dim")


def show_costs(costs: Sequence[Cost], *, as_json: bool) -> None:
    """Print what a frame costs by each transport."""
    if as_json:
        print(json.dumps({"machine": machine(), "costs": [asdict(cost) for cost in costs]}))
        return
    size = f"{costs[0].frame_bytes / 1e6:g} MB, median of {costs[0].runs} run(s)"
    table = Table(title=f"One frame from process to process, ms ({size})")
    for column in ("transport", "wall", "fastest run", "slowest run", "CPU of both ends"):
        table.add_column(column, justify="left" if column == "transport" else "right")
    for cost in costs:
        figures = (cost.ms, cost.fastest_ms, cost.slowest_ms, cost.cpu_ms)
        table.add_row(cost.transport, *(f"{figure:.2f}" for figure in figures))
    console = Console()
    console.print(table)
    console.print(machine(), style="dim")


def show_recording(load: Load, costs: Sequence[RecordingCost], *, as_json: bool) -> None:
    """Print the line's latency without a recorder and with one, and what is missing in its files."""
    if as_json:
        print(json.dumps({"machine": machine(), "load": asdict(load), "costs": [asdict(cost) for cost in costs]}))
        return
    size = f"{load.width}x{load.height}, {load.rate:g} parts/s, median of {costs[0].runs} run(s)"
    table = Table(title=f"Frame ready -> outcome at the sink, ms ({size})")
    for column in ("recorder", "parts", "undecided", "missing", "p50", "p99", "p99 of the runs", "MB"):
        table.add_column(column, justify="left" if column == "recorder" else "right")
    for cost in costs:
        name = {"without": "without", "none": "as taken", "delta": "differences", "png": "PNG"}[cost.way]
        spread = f"{cost.lowest_p99_ms:.1f} to {cost.highest_p99_ms:.1f}"
        counts = (str(cost.parts), str(cost.undecided), str(cost.missing))
        table.add_row(name, *counts, f"{cost.p50_ms:.1f}", f"{cost.p99_ms:.1f}", spread, f"{cost.mb:.0f}")
    console = Console()
    console.print(table)
    console.print(machine(), style="dim")


def show_camera(found: Counted, *, as_json: bool) -> None:
    """Print what became of the frames of a camera."""
    if as_json:
        print(json.dumps({"machine": machine(), **asdict(found), "whole": found.whole}))
        return
    shots = found.shots
    size = f"{shots.width}x{shots.height} at {shots.rate:g} Hz, {shots.lost} of 1000 packets lost"
    table = Table(title=f"Frames of a GigE Vision camera ({size})")
    for column in ("seconds", "frames", "pictures", "gaps by cause", "breaks", "unaccounted", "p50", "p99"):
        table.add_column(column, justify="left" if column == "gaps by cause" else "right")
    gaps = ", ".join(f"{count} {reason}" for reason, count in sorted(found.reasons.items())) or "none"
    times = (f"{found.elapsed_ms[q]:.1f}" if found.elapsed_ms else "" for q in ("p50", "p99"))
    counts = (str(found.outcomes), str(found.counts.get("PASS", 0)), gaps, str(found.breaks), str(found.unaccounted))
    table.add_row(f"{found.seconds:.1f}", *counts, *times)
    console = Console()
    console.print(table)
    console.print(machine(), style="dim")


def show_ways(ways: Sequence[Way], *, as_json: bool) -> None:
    """Print how long an outcome takes to the PLC's eyes, by protocol."""
    if as_json:
        print(json.dumps({"machine": machine(), "ways": [asdict(way) for way in ways]}))
        return
    table = Table(title="Outcome at the sink -> seen by a PLC that polls every 2 ms, ms")
    for column in ("protocol", "parts/s", "parts", "seen", "p50", "p99", "max"):
        table.add_column(column, justify="left" if column == "protocol" else "right")
    for way in ways:
        figures = (f"{figure:.1f}" for figure in (way.p50_ms, way.p99_ms, way.max_ms))
        table.add_row(way.via, f"{way.rate:g}", str(way.parts), str(way.seen), *figures)
    console = Console()
    console.print(table)
    console.print(machine(), style="dim")


def _runs_table(runs: Sequence[Measured]) -> Table:
    load = runs[0].load
    colour = "colour" if load.colour else "gray"
    title = f"{load.width}x{load.height} {colour}, {load.workers} worker(s), model {load.model}"
    table = Table(title=f"Frame ready -> outcome at the sink, ms ({title})")
    for column in ("rate/s", "parts", "pass", "fail", "none", "lost", "p50", "p99", "p99.9", "max"):
        table.add_column(column, justify="right")
    for run in runs:
        counts = [str(run.counts.get(v, 0)) for v in ("PASS", "FAIL", "NO_DECISION")]
        times = [f"{run.elapsed_ms.get(q, float('nan')):.1f}" for q in ("p50", "p99", "p99_9", "max")]
        table.add_row(f"{run.load.rate:g}", str(run.parts), *counts, str(run.lost), *times)
    return table


def _stages_table(run: Measured) -> Table:
    table = Table(title="Stages in the worker, ms")
    for column in ("stage", "p50", "p99", "p99.9"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for stage, times in run.stages_ms.items():
        table.add_row(stage, *(f"{times[q]:.2f}" for q in ("p50", "p99", "p99_9")))
    return table
