"""`line-worker drill`: a line with its real processes is broken on purpose, then the promise is proven from its books.

The line is a drawn camera, two workers, a simulated PLC, a store and a log. The nine invariants of the contract are
held against three books (see `books`) and two witnesses: rows that were read in the middle of the drill must stand
unchanged at its end (1, 8), and the memory of rings and processes, sampled all the time, stays under the bound that was
printed before the start (7).
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from line_worker.config import Config, parse
from line_worker.drill import books
from line_worker.drill.breaking import Breaker
from line_worker.drill.plan import EVERY_S, KINDS, RATE, plan
from line_worker.drill.report import Report, render, to_json
from line_worker.drill.saboteur import LEAKS, hub_waits, source_book
from line_worker.drill.witness import Beats, Witness, fingerprint
from line_worker.errors import ConfigError
from line_worker.hub.bounds import memory_bound
from line_worker.ports import free_port
from line_worker.rehearsal import Rehearsal

BEFORE_S = 1.5  # an injected fault of the hub explains a silence that begins so soon after it


@dataclass(frozen=True, slots=True)
class Asked:
    """What the drill is asked for. `overload` asks for that many times what the workers can compute."""

    minutes: float = 10.0
    seed: int = 0
    faults: tuple[str, ...] = KINDS
    every_s: float = EVERY_S
    rate: float = RATE
    overload: float = 0.0
    model: str = "stub"
    folder: str = ""
    keep: Path | None = None


def drill_config(asked: Asked, folder: Path) -> Config:
    """Return the line that is drilled; its files lie in `folder`."""
    stub_ms, count = 20.0 if asked.overload else 4.0, 2
    rate = asked.overload * count * 1000 / stub_ms if asked.overload else asked.rate
    source: dict[str, Any] = {"kind": "synthetic", "part": "noise", "rate": rate, "width": 320, "height": 240}
    if asked.folder:
        source = {"kind": "folder", "path": asked.folder, "rate": rate, "loop": True}
    camera = {"name": "camera", "deadline_ms": 1000, "window": 64, "source": source}
    workers = {"bundle": asked.model, "count": count, "batch": 4, "stub_ms": stub_ms, "threads": 1}
    plc = {"kind": "plc", "mode": "server", "port": free_port(), "simulate": True, "queue": 64}
    return parse(
        {
            "line": {"name": f"drill-{folder.name[-8:]}", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [{**camera, "max_frame_mb": 4.0 if asked.folder else 0.1}],
            "workers": workers | {"growth_descriptors": LEAKS // 2},
            "sinks": [plc, {"kind": "store"}, {"kind": "log", "path": str(folder / "outcomes.jsonl")}],
        }
    )


def drill(asked: Asked) -> Report:
    """Run one drill; its folder is kept when asked for, or when something is wrong.

    Raises:
        ConfigError: a kind of fault that there is not, or a model without images.
        SourceError: the line does not start.
    """
    _check(asked)
    folder = asked.keep or Path(tempfile.mkdtemp(prefix="lw-drill-"))
    folder.mkdir(parents=True, exist_ok=True)
    report = _drill(asked, folder.resolve())
    if report.held and asked.keep is None:
        shutil.rmtree(folder, ignore_errors=True)
    return report


def _check(asked: Asked) -> None:
    unknown = [kind for kind in asked.faults if kind not in KINDS]
    problems = [f"fault {kind!r} is not known; choose from {', '.join(KINDS)}, or none" for kind in unknown]
    if asked.model != "stub" and not asked.folder:
        problems.append("a bundle needs --folder IMAGES to judge")
    if asked.model != "stub" and asked.overload:
        problems.append("how much is too much for a bundle is not known here; give --rate instead of --overload")
    if problems:
        raise ConfigError("drill", problems)


def _drill(asked: Asked, folder: Path) -> Report:
    config, seconds = drill_config(asked, folder), asked.minutes * 60
    rehearsal = Rehearsal(config, folder / "line.log")
    rehearsal.supervisor.module = "line_worker.drill.saboteur"
    faults = plan(asked.seed, seconds, asked.faults, asked.every_s) if asked.faults else ()
    breaker = Breaker(config, rehearsal.supervisor, faults)
    witness = Witness(config, rehearsal, seconds)
    beats = Beats(rehearsal)
    started: list[float] = []

    def turn() -> None:
        if not started:
            started.append(time.monotonic())
            breaker.begin()
        breaker.turn()
        beats.turn()
        witness.turn()

    try:
        rehearsal.run(turn, seconds)
    finally:
        breaker.calm()
        witness.close()
    return _report(asked, config, folder, (breaker, witness, beats))


def _report(asked: Asked, config: Config, folder: Path, watched: tuple[Breaker, Witness, Beats]) -> Report:
    breaker, witness, beats = watched
    explained = [
        (begin, end) for begin, end in beats.silences if any(begin - BEFORE_S <= at <= end for at, _ in breaker.outages)
    ]
    outages = [*explained, *breaker.outages]
    camera, data = config.cameras[0], config.line.data
    found = books.read(
        books.Paths(
            config.journal_path,
            source_book(config, camera.name),
            data / "plc-simulated.jsonl",
            folder / "outcomes.jsonl",
            hub_waits(config),
        ),
        camera.name,
        camera.deadline_ms / 1000,
    )
    noise_s = max(witness.noise_s, found.longest_wait(outages))
    allowed_s = books.TICK_S + noise_s
    verdicts = books.examine(found, outages, allowed_s)
    rows, before = witness.rows
    if fingerprint(config.journal_path, rows) != (rows, before) and rows:
        verdicts.blame(8, [f"of the first {rows} rows some have changed"])
    bound = memory_bound(config).total
    if witness.memory > bound:
        verdicts.blame(7, [f"{witness.memory / 1e6:.0f} MB held, the bound is {bound / 1e6:.0f} MB"])
    if not beats.running:
        verdicts.blame(3, ["the line did not run again at the end"])
    return Report(
        asked={**asdict(asked), "keep": str(asked.keep or "")},
        seconds=asked.minutes * 60,
        faults=dict(breaker.injected),
        verdicts=verdicts,
        allowed_late_ms=allowed_s * 1000,
        noise_ms=noise_s * 1000,
        memory_bytes=witness.memory,
        memory_bound=bound,
        silences=len(beats.silences) - len(explained),
        folder=str(folder),
    )


# ---- showing ---------------------------------------------------------------------------------------------------------


def run(asked: Asked, *, as_json: bool = False) -> int:
    """Run a drill and print what came of it; returns 0 when the promise held, 1 when it did not."""
    if not as_json:
        seconds = asked.minutes * 60
        faults = plan(asked.seed, seconds, asked.faults, asked.every_s) if asked.faults else ()
        sys.stdout.write(f"drill: {seconds:.0f} s, seed {asked.seed}, {len(faults)} faults planned\n")
        bound = memory_bound(drill_config(asked, Path("drill"))).total
        sys.stdout.write(f"memory: shared, and what the processes grow by once they are up: {bound / 1e6:.0f} MB\n")
        sys.stdout.flush()
    report = drill(asked)
    sys.stdout.write(json.dumps(to_json(report)) + "\n" if as_json else render(report))
    return 0 if report.held else 1
