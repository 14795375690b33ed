"""`line-worker demo`: the whole product on drawn parts, with no camera, PLC, GPU or network.

Draws good parts, trains on them, runs the real processes on real sockets against the simulated PLC while parts, some
of them defective, come at a fixed rate, and sums up. The part ids carry the truth, so escapes and false rejects can be
counted; nothing but this summary looks at them. Like `cli`, this module is a composition root: it may import `calib`.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from line_worker.auditing import audit
from line_worker.config import Config, parse
from line_worker.ports import free_port
from line_worker.progress import bars
from line_worker.rehearsal import Rehearsal, Watcher
from line_worker.verdicts import Reason, Verdict

GOOD_PARTS = 80  # drawn to learn from
TRAIN_MINUTES = 1.0
DEADLINE_MS = 1000.0
KIND = "bracket"
GOOD = "good"  # what a drawn part's id says of a good one


@dataclass(frozen=True, slots=True)
class Summary:
    """What came of the demo; `false_reject` and `escape` are shares of the good and of the bad parts."""

    announced: int
    pass_: int
    fail: int
    no_decision: int
    balanced: bool
    false_reject: float
    escape: float
    p50_ms: float
    p99_ms: float
    plc_received: int
    train_s: float
    total_s: float

    def as_dict(self) -> dict[str, Any]:
        """Return the values by their public names."""
        return {name.rstrip("_"): value for name, value in asdict(self).items()}


def demo(parts: int, rate: float, defects: float, seed: int, folder: Path, *, as_json: bool) -> int:
    """Run the demo in `folder`; returns 0 when the books balance and escape and false reject are at most 0.1."""
    console = Console(stderr=as_json)
    start = time.monotonic()
    console.print(f"[bold]1[/]  Drawing {GOOD_PARTS} good parts into {folder / 'good'}")
    draw_good(folder / "good", seed)
    console.print("[bold]2[/]  Learning what a good part looks like (good parts only)")
    bundle = _train(folder, seed, console)
    train_s = time.monotonic() - start
    console.print(f"[bold]3[/]  Running the line: {parts} parts at {rate:g} a second, {defects:.0%} of them defective")
    config = line_config(folder, bundle, parts, rate, defects, seed)
    watcher = _run_line(config, folder, parts, console)
    summary = summarise(config, watcher, train_s, time.monotonic() - start)
    _show(console, summary, watcher, config, folder)
    if as_json:
        print(json.dumps(summary.as_dict()))
    return 0 if summary.balanced and max(summary.escape, summary.false_reject) <= 0.1 else 1


def draw_good(folder: Path, seed: int, count: int = GOOD_PARTS) -> None:
    """Draw good parts as PNG files; none of them is among those that the line will see."""
    from line_worker.images import save_png
    from line_worker.source.drawing import draw_part

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng([seed + 1_000_003, number])
        save_png(folder / f"{number:03d}.png", draw_part(rng, KIND).image)


def _train(folder: Path, seed: int, console: Console) -> Path:
    from calib.options import TrainOptions
    from calib.train import train

    bundle = folder / "demo.bundle"
    with bars(console) as report:
        train(TrainOptions(folder / "good", bundle, minutes=TRAIN_MINUTES, seed=seed, repeats=0), report)
    return bundle


def line_config(folder: Path, bundle: Path, parts: int, rate: float, defects: float, seed: int) -> Config:
    """Return the demo's line: drawn parts, two workers, the simulated PLC, a store and a log."""
    source = {"kind": "synthetic", "part": KIND, "parts": parts, "rate": rate, "defects": defects, "seed": seed}
    return parse(
        {
            "line": {"name": "demo", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [{"name": "camera", "deadline_ms": DEADLINE_MS, "window": 32, "source": source}],
            "workers": {"bundle": str(bundle), "count": 2, "threads": 1},
            "sinks": [
                {"kind": "plc", "port": free_port(), "simulate": True},
                {"kind": "store", "path": str(folder / "store")},
                {"kind": "log", "path": str(folder / "outcomes.jsonl")},
            ],
        }
    )


def _run_line(config: Config, folder: Path, parts: int, console: Console) -> Watcher:
    rehearsal = Rehearsal(config, folder / "line.log")
    columns = (TextColumn("   {task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("starting", total=parts)

        def on_turn() -> None:
            seen = Counter(outcome.verdict for outcome in rehearsal.watcher.outcomes)
            words = " ".join(f"{verdict} {seen[verdict]}" for verdict in Verdict)
            progress.update(task, completed=sum(seen.values()), description=words)

        rehearsal.run(on_turn)
        on_turn()
    return rehearsal.watcher


# ---- the summary -----------------------------------------------------------------------------------------------------


def truth(part_id: str) -> str:
    """Return what a drawn part really is: "good" or the name of its defect."""
    return part_id.partition(":")[2]


def summarise(config: Config, watcher: Watcher, train_s: float, total_s: float) -> Summary:
    """Count what came of the parts."""
    outcomes = watcher.outcomes
    verdicts = Counter(outcome.verdict for outcome in outcomes)
    good = [outcome for outcome in outcomes if truth(outcome.part_id) == GOOD]
    bad = [outcome for outcome in outcomes if truth(outcome.part_id) not in (GOOD, "")]
    books = audit(config.journal_path)
    return Summary(
        announced=sum(epoch.announced for epoch in books.epochs),
        pass_=verdicts[Verdict.PASS],
        fail=verdicts[Verdict.FAIL],
        no_decision=verdicts[Verdict.NO_DECISION],
        balanced=books.balanced,
        false_reject=_share(sum(not outcome.passed for outcome in good), len(good)),
        escape=_share(sum(outcome.passed for outcome in bad), len(bad)),
        p50_ms=round(float(np.quantile(watcher.elapsed_ms, 0.5)), 1) if watcher.elapsed_ms else 0.0,
        p99_ms=round(float(np.quantile(watcher.elapsed_ms, 0.99)), 1) if watcher.elapsed_ms else 0.0,
        plc_received=len(plc_log(config)),
        train_s=round(train_s, 1),
        total_s=round(total_s, 1),
    )


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0


def plc_log(config: Config) -> list[dict[str, Any]]:
    """Return what the simulated PLC wrote down of the results that reached it."""
    path = config.line.data / "plc-simulated.jsonl"
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [entry for entry in map(json.loads, lines) if entry["received"]]


def _show(console: Console, summary: Summary, watcher: Watcher, config: Config, folder: Path) -> None:
    console.print(_confusion(watcher))
    lines = [
        (
            f"books        {summary.announced} announced = {summary.pass_} PASS + {summary.fail} FAIL + "
            f"{summary.no_decision} NO_DECISION  [{'green' if summary.balanced else 'red'}]"
            f"{'they balance' if summary.balanced else 'THEY DO NOT BALANCE'}[/]"
        ),
        f"escapes      {summary.escape:.1%} of the defective parts passed",
        f"rejected     {summary.false_reject:.1%} of the good parts did not pass{_undecided(watcher)}",
        (
            f"answer time  {summary.p50_ms:g} ms at the median, {summary.p99_ms:g} ms for 99 of 100 "
            f"(deadline {DEADLINE_MS:g} ms)"
        ),
        f"PLC          received {summary.plc_received} results over Modbus TCP",
        f"time         {summary.train_s:g} s of drawing and training, {summary.total_s:g} s in all",
    ]
    crops = sum(1 for _ in (folder / "store").rglob("*.png"))
    lines += [
        "",
        f"pictures     {crops} crops and overlays in {config.store_path / 'crops'}",
        f"report       {folder / 'demo.bundle' / 'report.html'}",
        f"outcomes     {folder / 'outcomes.jsonl'}",
    ]
    console.print(Panel("\n".join(lines), title="line-worker demo", expand=False))


def _undecided(watcher: Watcher) -> str:
    """Return how many parts nobody could decide in time, and what helps; nothing where all were."""
    late = (Reason.DEADLINE, Reason.TOO_LATE, Reason.NO_WORKER, Reason.OVERLOAD)
    count = sum(Reason(outcome.reason) in late for outcome in watcher.outcomes)
    if not count:
        return ""
    return f";\n             {count} parts came too fast for this busy machine: try line-worker demo --rate 2"


def _confusion(watcher: Watcher) -> Table:
    """Return what became of each kind of part."""
    table = Table(title="What became of the parts")
    table.add_column("part")
    for verdict in Verdict:
        table.add_column(verdict, justify="right")
    kinds = Counter((truth(outcome.part_id), outcome.verdict) for outcome in watcher.outcomes)
    for kind in sorted({kind for kind, _ in kinds}, key=lambda name: (name != GOOD, name)):
        table.add_row(kind or "(no part id)", *(str(kinds[kind, verdict] or "") for verdict in Verdict))
    return table
