"""`line-worker replay`: a recording as a test. Its frames go through the real hub and worker again, and what comes out
is compared with what came out then (see `comparing`).

No sink of the recorded line is started: a replay never drives a PLC. Deadlines are generous, because verdicts are
compared and not times.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from line_worker.comparing import Recorded, compare, render, survey
from line_worker.config import Config, parse
from line_worker.errors import ConfigError, SourceError
from line_worker.hub.journal import Journal
from line_worker.rehearsal import Rehearsal
from line_worker.wire.messages import Outcome
from line_worker.wire.recording import Recording, read_recording

DEADLINE_MS = 120_000.0
WINDOW = 32


def replay(
    recording: Path,
    bundle: Path | None = None,
    rate: str | float = "max",
    *,
    check: bool = False,
    as_json: bool = False,
    workers: int = 1,
    device: str = "auto",
) -> int:
    """Replay `recording` against `bundle` (by default the recorded line's own) and print what came of it.

    Returns 1 when `check` is asked for and there are differences, otherwise 0.

    Raises:
        RecordingError: the recording cannot be read, or holds no frame.
        BundleError: the bundle cannot be trusted.
        ConfigError: the recorded line's bundle is not here and no other one was given.
        SourceError: the line did not become ready.
    """
    recorded = survey(read_recording(recording))
    bundle = bundle or _bundle_then(recorded.recording)
    _check_bundle(bundle)
    with tempfile.TemporaryDirectory(prefix="lw-replay-") as folder:
        config = line_of(recorded, bundle, rate, Path(folder), workers, device)
        begin = time.monotonic()
        _run(config, recorded.count, Path(folder) / "log")
        found = compare(recorded, _outcomes(config), time.monotonic() - begin)
    text = json.dumps(dataclasses.asdict(found)) if as_json else render(found)
    sys.stdout.write(text + "\n")
    return 1 if check and found.differences else 0


def line_of(
    recorded: Recorded, bundle: Path, rate: str | float, folder: Path, workers: int = 1, device: str = "auto"
) -> Config:
    """Return the line that replays `recorded` in `folder`: its cameras, its kind of workers, and no sink at all."""
    then = _workers_then(recorded.recording)
    frozen = _frozen_then(recorded.recording)
    source = {"kind": "replay", "path": str(recorded.recording.path.resolve()), "rate": rate}
    cameras = [
        {
            "name": camera,
            "deadline_ms": DEADLINE_MS,
            "window": WINDOW,
            "source": source,
            "frozen": frozen.get(camera, "refuse"),
            "max_frame_mb": max(0.1, *(frame.nbytes / 1e6 for frame in frames)),
        }
        for camera, frames in recorded.frames.items()
    ]
    return parse(
        {
            "line": {"name": recorded.recording.meta.line, "runtime": f"{folder}/run", "data": f"{folder}/data"},
            "cameras": cameras,
            "workers": {**then, "bundle": str(bundle), "count": workers, "device": device},
        },
        where=f"replay of {recorded.recording.path}",
    )


# ---- running ---------------------------------------------------------------------------------------------------------


def _run(config: Config, count: int, log: Path) -> None:
    for folder in (config.line.runtime, config.line.data):
        folder.mkdir(parents=True)
    rehearsal = Rehearsal(config, log)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("replaying", total=count)
        try:
            rehearsal.run(lambda: progress.update(bar, completed=len(rehearsal.watcher.outcomes)))
        except SourceError as error:
            raise SourceError(f"{error}: {_last_words(log)}") from error


def _outcomes(config: Config) -> dict[tuple[str, int], Outcome]:
    """Return what the hub wrote into its journal; a part whose source had to start again counts as lost."""
    journal = Journal(config.journal_path, config.line.name)
    found: dict[tuple[str, int], Outcome] = {}
    try:
        row = 0
        while batch := journal.after(row, 1000):
            row = batch[-1].row
            for outcome in batch:
                found.setdefault((outcome.key.camera, outcome.key.seq), outcome)
    finally:
        journal.close()
    return found


def _bundle_then(recording: Recording) -> Path:
    path = Path(str(json.loads(recording.meta.config).get("workers", {}).get("bundle", "bundle")))
    if path.name != "stub" and not path.is_dir():
        raise ConfigError(str(recording.path), [f"its bundle ({path}) is not on this machine; give one with --bundle"])
    return path


def _workers_then(recording: Recording) -> dict[str, object]:
    """Return how the recorded line's workers computed: other threads or batches may change a score's last digits."""
    workers = json.loads(recording.meta.config).get("workers", {})
    return {name: workers[name] for name in ("batch", "threads") if name in workers}


def _frozen_then(recording: Recording) -> dict[str, str]:
    """Return, by camera, whether the recorded line took the same picture twice in a row."""
    cameras = json.loads(recording.meta.config).get("cameras", [])
    return {camera["name"]: camera["frozen"] for camera in cameras if "frozen" in camera}


def _check_bundle(bundle: Path) -> None:
    """Refuse a bundle that no worker would load, before any process starts."""
    if bundle.name != "stub":
        from line_worker.bundle import Bundle

        Bundle.load(bundle)


def _last_words(log: Path) -> str:
    """Return the last thing that a child said went wrong."""
    lines = log.read_text("utf-8", "replace").splitlines()
    return next((line for line in reversed(lines) if '"error"' in line), lines[-1] if lines else "it said nothing")
