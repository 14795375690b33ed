"""`line-worker train` and `recalibrate`: good images become a bundle, and new ones set its limit anew.

`cli` registers both. Like it, this module is a composition root: it may import `calib`. What is heavy is imported by
the command that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `train` wrote.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same result on one machine.")]


def train(
    good: Annotated[Path, typer.Argument(metavar="GOOD_DIR", help="Good images, or an MVTec-style category.")],
    out: Annotated[Path, typer.Option("--out", help="The bundle to write.")],
    locate: Annotated[str, typer.Option(help="auto | background | head | full")] = "auto",
    pose: Annotated[str, typer.Option(help="auto | none | translate | rigid")] = "auto",
    reconstruct: Annotated[str, typer.Option(help="auto (hybrid) | feature | memory | network | classic")] = "auto",
    rule: Annotated[str, typer.Option(help="zone | deviation | adaptive | classic")] = "zone",
    false_reject: Annotated[float, typer.Option(help="Share of good parts that may be rejected.")] = 0.03,
    minutes: Annotated[float, typer.Option(help="How long training may take.")] = 8.0,
    exclude: Annotated[Path | None, typer.Option(metavar="FILE", help="Names of good images to leave out.")] = None,
    bad: Annotated[Path | None, typer.Option(metavar="DIR", help="Bad parts, reported on, never learned from.")] = None,
    masks: Annotated[Path | None, typer.Option(metavar="DIR", help="Masks of the part, named as the images.")] = None,
    zones: Annotated[Path | None, typer.Option(metavar="IMAGE", help="Labels drawn over the mean part.")] = None,
    zone: Annotated[list[str] | None, typer.Option(metavar="LABEL=ignore|SHARE", help="What a label means.")] = None,
    backbone: Annotated[Path | None, typer.Option(metavar="FILE", help="Your own weights (safetensors).")] = None,
    attention: Annotated[bool, typer.Option(help="Whether the feature autoencoder looks over the whole part.")] = True,
    repeats: Annotated[int, typer.Option(min=0, help="Painted defects of each kind, size and contrast.")] = 5,
    seed: Seed = 0,
    threads: Annotated[int, typer.Option(min=1)] = 2,
) -> int:
    """Learn what good parts look like; writes a bundle with its report."""
    from rich.console import Console

    from calib.options import TrainOptions
    from calib.show import show
    from calib.train import train as run
    from line_worker.progress import bars

    options = TrainOptions(
        good,
        out,
        locate,
        pose,
        reconstruct,
        rule,
        false_reject,
        minutes,
        seed,
        threads,
        backbone=backbone,
        attention=attention,
        exclude=exclude,
        bad=bad,
        masks=masks,
        zones=zones,
        zone=tuple(zone or ()),
        repeats=repeats,
    )
    with bars() as report:
        result = run(options, report)
    show(result, Console())
    return 0


def recalibrate(
    bundle: BundlePath,
    good: Annotated[Path, typer.Argument(metavar="GOOD_DIR", help="Good images taken since it was trained.")],
    out: Annotated[Path | None, typer.Option("--out", help="Where to write; default: replaces BUNDLE.")] = None,
    false_reject: Annotated[float | None, typer.Option(help="As in `train`; by default as it was.")] = None,
) -> int:
    """Set new limits from new good images, with the weights as they are."""
    from rich.console import Console

    from calib.recalibrate import recalibrate as run
    from calib.show import show
    from line_worker.bundle import Bundle
    from line_worker.progress import bars

    with bars() as report:
        result = run(Bundle.load(bundle), good, out or bundle, false_reject, report)
    show(result, Console())
    return 0
