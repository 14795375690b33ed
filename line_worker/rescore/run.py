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
    done = results.done if results else 0
    recorded, counts, changed = recorded_outcomes(sources), Counter[str](), list[dict[str, Any]]()
    begun = time.monotonic()
    try:
        for verdict in _verdicts(sources, bundle, processes, done, cluster):
            counts[verdict["outcome"]] += 1
            if results:
                results.add(verdict)
            if was := _changed(verdict, recorded.get(verdict["name"])):
                changed.append({"name": verdict["name"], "was": was, "is": verdict["outcome"]})
    except BaseException:
        if results:
            results.stop()
        raise
    if results:
        results.finish()
    seconds = time.monotonic() - begun
    found = {
        "pictures": counts.total(),
        "left_from_before": done,
        "outcomes": dict(counts),
        "compared": sum(1 for _ in recorded),
        "changed": changed,
        "seconds": round(seconds, 3),
        "pictures_per_s": counts.total() / seconds,
    }
    typer.echo(json.dumps(found) if as_json else "\n".join(_in_words(found, out)))
    return 0


def _verdicts(
    sources: Sequence[Path], bundle: Path, processes: int, done: int, cluster: str
) -> Iterator[dict[str, Any]]:
    if not cluster:
        return rescore(sources, bundle, processes or available(), done)
    from line_worker.rescore import cluster as ray

    return ray.rescore(sources, bundle, cluster, processes, done)


def _changed(verdict: dict[str, Any], outcome: Outcome | None) -> str:
    """Return the recorded verdict where it was another one, else ""."""
    return "" if outcome is None or outcome.verdict == verdict["outcome"] else outcome.verdict


def _in_words(found: dict[str, Any], out: Path | None) -> list[str]:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found["outcomes"].items())) or "nothing"
    before = f"; {found['left_from_before']} were there from before" if found["left_from_before"] else ""
    pace = f"{found['seconds']:.1f} s ({found['pictures_per_s']:.1f}/s)"
    lines = [f"{found['pictures']} pictures in {pace}: {counts}{before}"]
    if found["compared"]:
        lines.append(f"{len(found['changed'])} of {found['compared']} recorded verdicts change")
    lines += [f"   {one['was']} -> {one['is']}  {one['name']}" for one in found["changed"][:SHOWN]]
    if len(found["changed"]) > SHOWN:
        lines.append(f"   and {len(found['changed']) - SHOWN} more")
    return [*lines, *([f"verdicts: {out}"] if out else [])]
