"""What `bench device` prints: a table for people, JSON for scripts."""

from __future__ import annotations

import json

from rich.console import Console
from rich.table import Table

from bench.device import Profile
from bench.show import machine


def show(profile: Profile, *, as_json: bool) -> None:
    """Print a column a batch size: parts a second, milliseconds of a batch, and of each of its stages."""
    if as_json:
        timings = [one.as_dict() for one in profile.timings]
        agreement = None if profile.agreement is None else profile.agreement._asdict()
        print(json.dumps({**profile._asdict(), "timings": timings, "agreement": agreement, "machine": machine()}))
        return
    console = Console()
    console.print(_table(profile))
    if profile.agreement is not None:
        a = profile.agreement
        console.print(
            f"{a.verdicts_that_differ} of {a.images} verdicts differ from the CPU's; scores by at most {a.largest:.4f} "
            f"of the larger of 1 and the score (median {a.median:.4f}, allowed {a.tolerance:g})",
            highlight=False,
        )
    console.print(machine(), style="dim", highlight=False)


def _table(profile: Profile) -> Table:
    size = f"{profile.shape[1]}x{profile.shape[0]}"
    table = Table(title=f"{profile.method}, {size}, on {profile.device}: ms of a batch")
    table.add_column("batch")
    for one in profile.timings:
        table.add_column(str(one.batch), justify="right")
    table.add_row("parts/s", *(f"{one.parts_per_s:.1f}" for one in profile.timings))
    table.add_row("images to verdicts", *(f"{one.ms:.2f}" for one in profile.timings))
    table.add_row("  the slowest", *(f"{one.worst_ms:.2f}" for one in profile.timings))
    for stage in profile.timings[0].stages_ms:
        table.add_row(f"  {stage}, of one piece", *(f"{one.stages_ms[stage]:.2f}" for one in profile.timings))
    return table
