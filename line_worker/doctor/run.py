"""Runs all checks, each in a thread with a time limit, and shows what they found."""

from __future__ import annotations

import contextlib
import fcntl
import json
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from line_worker.activation import activated
from line_worker.config import Config, load
from line_worker.doctor import Finding, Level, error, host, keys, model, ok, plant, ways
from line_worker.doctor.ways import Check
from line_worker.errors import ConfigError

LIMIT_S = 60.0
BUNDLE_S = 180.0  # warming up a large model on a slow machine

_ADVICE_LIMIT = "look why it hangs: what it waits for is not answering"


def run(path: Path, *, as_json: bool = False) -> int:
    """Examine the line at `path`; returns 0, or 1 when there is an error."""
    found = []
    for finding in examine(path):
        found.append(finding)
        if not as_json:
            sys.stdout.write(_line(finding) + "\n")
            sys.stdout.flush()
    failed = any(finding.level is Level.ERROR for finding in found)
    if as_json:
        sys.stdout.write(json.dumps({"ok": not failed, "findings": [f._asdict() for f in found]}) + "\n")
    return int(failed)


def examine(path: Path) -> Iterator[Finding]:
    """Yield what is found, check by check; without a configuration nothing else can be."""
    try:
        config = activated(load(path))  # the bundle that it will judge with
    except ConfigError as failure:
        yield from (error("configuration", problem, f"correct {failure.where}") for problem in failure.problems)
        return
    cameras, sinks = len(config.cameras), len(config.sinks)
    text = f"{path}: line {config.line.name}, {cameras} camera(s), {config.workers.count} worker(s), {sinks} sink(s)"
    yield ok("configuration", text)
    running = is_running(config)
    if running:
        yield ok("running", "the line runs; what it holds is not tried")
    for name, check, limit_s in _checks(config, running):
        yield from within(name, check, limit_s)


def _named(config: Config, running: bool) -> Iterator[tuple[str, Check]]:
    yield from ways.camera_checks(config, running=running)
    yield from ways.plc_checks(config, running=running)
    yield from plant.plant_checks(config, running=running)


def _checks(config: Config, running: bool) -> Iterator[tuple[str, Check, float]]:
    yield "bundle", lambda: model.check_bundle(config), BUNDLE_S
    yield "recipes", lambda: model.check_recipes(config), BUNDLE_S
    yield "shadows", lambda: model.check_shadows(config), LIMIT_S
    yield "device", lambda: model.check_device(config), BUNDLE_S
    for name, check in _named(config, running):
        yield name, check, LIMIT_S
    yield "ports", lambda: ways.check_ports(config, running=running), LIMIT_S
    yield "hub", lambda: ways.check_hub(config), LIMIT_S
    yield "folders", lambda: host.check_folders(config), LIMIT_S
    yield "store", lambda: host.check_stores(config), LIMIT_S
    yield "journal", lambda: host.check_journal(config), LIMIT_S
    yield "journal disk", lambda: host.check_journal_disk(config), LIMIT_S
    yield "memory", lambda: host.check_memory(config, running=running), LIMIT_S
    yield "runtime", lambda: host.check_runtime(config), LIMIT_S
    yield "priority", lambda: host.check_priority(config, running=running), LIMIT_S
    yield "keys", lambda: keys.check_keys(config), LIMIT_S
    yield "clock", lambda: host.check_clock(config), LIMIT_S


def within(name: str, check: Check, limit_s: float) -> Iterator[Finding]:
    """Yield what `check` finds; one that fails or takes longer than `limit_s` is an error itself."""
    found: queue.SimpleQueue[list[Finding]] = queue.SimpleQueue()

    def work() -> None:
        try:
            found.put(list(check()))
        except Exception as failure:  # noqa: BLE001 - whatever a check dies of is what it has found
            found.put([error(name, f"{type(failure).__name__}: {failure}"[:500], "put that right, then look again")])

    threading.Thread(target=work, name=f"doctor {name}", daemon=True).start()
    try:
        yield from found.get(timeout=limit_s)
    except queue.Empty:
        yield error(name, f"has not answered within {limit_s:g} s", _ADVICE_LIMIT)


def is_running(config: Config) -> bool:
    """Whether a hub holds this line's lock."""
    with contextlib.suppress(FileNotFoundError), (config.line.runtime / "hub.lock").open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _line(finding: Finding) -> str:
    advice = f"\n{'':9}-> {finding.advice}" if finding.advice else ""
    return f"{finding.level:8} {finding.check}: {finding.text}{advice}"
