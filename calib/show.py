"""What `train` says at its end, for people."""

from __future__ import annotations

from rich.console import Console

from calib.train import TrainResult

NAMED = 5  # images that are named one by one


def show(result: TrainResult, console: Console) -> None:
    """Print what was learned, how sure it is, and what to look at."""
    limit, path = result.limit, result.bundle.path
    per_thousand = f"{1000 * limit.expected:.0f} (95 %: {1000 * limit.low:.0f} to {1000 * limit.high:.0f})"
    console.print(f"[bold]{path}[/] learned from {result.images} good images in {result.seconds:.0f} s")
    console.print(f"   limit {limit.threshold:.3f}; of 1,000 good parts it will reject about {per_thousand}")
    for note in result.notes:
        console.print(f"   {note}", highlight=False)
    if result.power is not None:
        console.print(f"   {result.power.summary()}", highlight=False)
    if result.undecided:
        names = ", ".join(f"{name} ({why})" for name, why in list(result.undecided.items())[:NAMED])
        console.print(f"   [yellow]{len(result.undecided)} good image(s) get no verdict:[/] {names}")
    if result.suspicious:
        names = ", ".join(f"{name} ({score:.2f})" for name, score in result.suspicious[:NAMED])
        console.print(f"   [yellow]look at these good images, they are above the limit:[/] {names}")
    if result.cut:
        console.print("   [yellow]the time ran out before training was done; more --minutes may find more[/]")
    console.print(f"   read {path / 'report.html'}; try line-worker score {path} PICTURES")
