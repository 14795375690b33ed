"""`line-worker rescore`: runs it, keeps the results, and says what came of it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from line_worker.bundle import Bundle
from line_worker.errors import ConfigError
from line_worker.rescore.results import Results
from line_worker.rescore.shares import available, check, names, recorded_outcomes, rescore
from line_worker.wire.messages import Outcome

SHOWN = 20  # verdicts that changed


def run(
    sources: Sequence[Path],
    bundle: Path,
    out: Path | None,
    processes: int,
    cluster: str = "",
    *,
    resume: bool,
    as_json: bool,
) -> int:
    """Judge `sources` with `bundle` here, or on the Ray cluster at the address `cluster`; returns 0.

    See shares.py and cluster.py for what is raised.
    """
    if resume and out is None:
        raise ConfigError("rescore", ["--resume goes on with the file that --out named; give it again"])
    check(sources)
    results = None if out is None else Results(out, Bundle.load(bundle).sha, names(sources), resume)
    left = results.left if results else []
    try:
        recorded, problems = recorded_outcomes(sources)
        for problem in problems:
            typer.echo(problem, err=True)
        tally = _Tally(recorded)
        for one in left:
            tally.add(one.name, one.outcome)
        begun = time.monotonic()
        for verdict in _verdicts(sources, bundle, processes, len(left), cluster):
            tally.add(verdict["name"], verdict["outcome"])
            if results:
                results.add(verdict)
        if results:
            results.finish()
    except KeyboardInterrupt:
        if results:
            typer.echo(f"{results.done} verdicts are kept in {results.part}; --resume goes on with them", err=True)
        raise
    finally:
        if results:
            results.stop()
    found = tally.as_json(len(left), time.monotonic() - begun)
    typer.echo(json.dumps(found) if as_json else "\n".join(_in_words(found, out)))
    return 0


class _Tally:
    """What came of the pictures, those of an interrupted run included, beside what the line had `recorded` of them."""

    def __init__(self, recorded: dict[str, Outcome]) -> None:
        self._recorded = recorded
        self._counts, self._compared, self._changed = Counter[str](), 0, list[dict[str, str]]()

    def add(self, name: str, outcome: str) -> None:
        """Count a verdict."""
        self._counts[outcome] += 1
        if (was := self._recorded.get(name)) is None:
            return
        self._compared += 1
        if was.verdict != outcome:
            self._changed.append({"name": name, "was": was.verdict, "is": outcome})

    def as_json(self, left: int, seconds: float) -> dict[str, Any]:
        """Return the summary; `left` verdicts were there before, and took none of the `seconds`."""
        return {
            "pictures": self._counts.total(),
            "left_from_before": left,
            "outcomes": dict(self._counts),
            "compared": self._compared,
            "changed": self._changed,
            "seconds": round(seconds, 3),
            "pictures_per_s": (self._counts.total() - left) / seconds,
        }


def _verdicts(
    sources: Sequence[Path], bundle: Path, processes: int, done: int, cluster: str
) -> Iterator[dict[str, Any]]:
    if not cluster:
        return rescore(sources, bundle, processes or available(), done)
    from line_worker.rescore import cluster as ray

    return ray.rescore(sources, bundle, cluster, processes, done)


def _in_words(found: dict[str, Any], out: Path | None) -> list[str]:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found["outcomes"].items())) or "nothing"
    before = f", {left} were there from before" if (left := found["left_from_before"]) else ""
    pace = f"{found['seconds']:.1f} s ({found['pictures_per_s']:.1f}/s)"
    lines = [f"{found['pictures'] - left} pictures in {pace}{before}: {counts}"]
    if found["compared"]:
        lines.append(f"{len(found['changed'])} of {found['compared']} recorded verdicts change")
    lines += [f"   {one['was']} -> {one['is']}  {one['name']}" for one in found["changed"][:SHOWN]]
    if len(found["changed"]) > SHOWN:
        lines.append(f"   and {len(found['changed']) - SHOWN} more")
    return [*lines, *([f"verdicts: {out}"] if out else [])]
