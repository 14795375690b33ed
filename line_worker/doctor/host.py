"""What the line needs of its host: a disk that answers, memory, shared or not, private folders, priority, clocks."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from line_worker.config import Config, LogSink, RecordSink, StoreSink
from line_worker.doctor import Finding, error, ok, warning
from line_worker.hub.bounds import memory_bound
from line_worker.hub.journal import READABLE
from line_worker.hub.journal import SCHEMA_VERSION as JOURNAL
from line_worker.priority import URGENT, may_take
from line_worker.sink.store import FILE
from line_worker.sink.store import SCHEMA_VERSION as STORE
from line_worker.wire.frames import SHM

SYNCS = 40
SLOW_SYNC_S = 0.02  # p99 beyond which the journal makes parts wait noticeably
FEW_BYTES, FEWEST_BYTES = 1 << 30, 64 << 20  # free on a disk: a warning, an error (a million rows take about 0.5 GB)
MEMINFO = Path("/proc/meminfo")
CLOCKSOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
SOFTWARE_CREATED = datetime(2025, 1, 1, tzinfo=UTC).timestamp()  # a wall clock before this is not set


def check_folders(config: Config) -> Iterator[Finding]:
    """Every folder that is written to: writable, with room."""
    sinks = [(f"sink {s.name}", _folder_of(s, config)) for s in config.sinks]
    for what, folder in [("data", config.line.data), *((what, folder) for what, folder in sinks if folder is not None)]:
        yield from _folder(what, folder)


def _folder_of(sink: object, config: Config) -> Path | None:
    match sink:
        case StoreSink():
            return config.store_path
        case LogSink(path=Path() as path) | RecordSink(path=path):
            return path.parent
    return None


def _folder(what: str, folder: Path) -> Iterator[Finding]:
    there = nearest(folder)
    if any(path.exists() and not path.is_dir() for path in (folder, *folder.parents)):
        yield error(what, f"{folder}: a file is in its way, so it is no folder and cannot be made", "correct the path")
        return
    free = shutil.disk_usage(there).free
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".line-worker-doctor-"):
            pass
    except OSError as failure:
        advice = "correct its permissions or the path: nothing can be kept there"
        yield error(what, f"{folder}: cannot be written ({failure.strerror})", advice)
        return
    yield space(what, folder, free)


def space(what: str, folder: Path, free: int) -> Finding:
    """Return what `free` bytes on the disk of `folder` mean."""
    text = f"{folder}: writable, {free / 1e9:.1f} GB free"
    if free < FEWEST_BYTES:
        return error(what, text, "make room: without it no part passes, because no row can be written")
    if free < FEW_BYTES:
        return warning(what, text, "make room, or move it to another disk, before it is full")
    return ok(what, text)


def nearest(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.is_dir())


def check_journal(config: Config) -> Iterator[Finding]:
    """A journal that is there can be read, and is of a version that the hub takes over."""
    path = config.journal_path
    if not path.exists():
        yield ok("journal", f"{path}: will be made")
        return
    try:
        with _reading(path) as db:
            (version,) = db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
            (rows,) = db.execute("SELECT coalesce(max(row), 0) FROM outcomes").fetchone()
    except (sqlite3.Error, TypeError) as failure:
        yield error("journal", f"{path}: cannot be read ({failure})", "move it aside: the hub will not start with it")
        return
    if version not in READABLE:
        yield error(
            "journal", _of_another(path, version, JOURNAL), "use the version that wrote it, or a new data folder"
        )
    else:
        yield ok("journal", f"{path}: {rows} rows")


def check_stores(config: Config) -> Iterator[Finding]:
    """A store that is there is a database of a version that the sink takes over."""
    path = config.store_path / FILE
    for sink in config.sinks:
        if not isinstance(sink, StoreSink) or not path.exists():
            continue
        what, advice = f"sink {sink.name}", "outcomes stay with the hub until it can be opened; move it aside, or use "
        try:
            with _reading(path) as db:
                (version,) = db.execute("PRAGMA user_version").fetchone()
        except sqlite3.Error as failure:
            yield error(what, f"{path}: cannot be read ({failure})", f"{advice}a copy of it")
            continue
        if version > STORE:
            yield error(what, _of_another(path, version, STORE), f"{advice}the version that wrote it")
        else:
            yield ok(what, f"{path}: can be read")


def _reading(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True))


def _of_another(path: Path, found: object, ours: int) -> str:
    return f"{path}: written by another version (schema {found}, this one is {ours})"


def check_journal_disk(config: Config) -> Iterator[Finding]:
    """How long the disk under the journal takes to keep something: no part is shown before it does."""
    times = sorted(_syncs(nearest(config.line.data)))
    middle, slow = times[len(times) // 2], times[-1]
    text = (
        f"{SYNCS} writes of 4 kB reached the disk in {middle * 1e3:.1f} ms at the median, {slow * 1e3:.1f} ms at worst"
    )
    shortest = min(camera.deadline_ms for camera in config.cameras) / 1000
    if slow > shortest / 2:
        advice = "put line.data on a disk of its own: parts will miss their deadlines while this one is busy"
        yield error("journal disk", text, advice)
    elif slow > SLOW_SYNC_S:
        yield warning("journal disk", text, "put line.data on a faster disk: every part waits for it")
    else:
        yield ok("journal disk", text)


def _syncs(folder: Path) -> Iterator[float]:
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".line-worker-doctor-", buffering=0) as file:
        for _ in range(SYNCS):
            start = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            yield time.perf_counter() - start


def check_memory(config: Config, *, running: bool) -> Iterator[Finding]:
    """Shared memory for the rings, and memory for everything that may wait."""
    rings = sum(int(c.max_frame_mb * 1e6) * c.ring_slots for c in config.cameras if c.transport == "ring")
    free = shutil.disk_usage(SHM).free
    held = sum(p.stat().st_size for p in SHM.glob(f"line-worker-{config.line.name}-*.ring")) if running else 0
    text = f"the rings take {rings / 1e6:.0f} MB, {(free + held) / 1e6:.0f} MB are free in {SHM}"
    if rings > free + held:
        advice = 'make it larger, the cameras\' window or max_frame_mb smaller, or use transport = "inline"'
        yield error("shared memory", text, advice)
    elif rings > 0.8 * (free + held):
        yield warning("shared memory", text, "leave some room: others use it too")
    else:
        yield ok("shared memory", text)
    bound, available = memory_bound(config).total, _available()
    text = f"frames, pictures and messages take at most {bound / 1e6:.0f} MB, {available / 1e6:.0f} MB are available"
    if bound > available:
        yield warning(
            "memory", text, "make the cameras' window or max_frame_mb smaller: under load it will not suffice"
        )
    else:
        yield ok("memory", text)


def _available() -> int:
    lines = MEMINFO.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def check_runtime(config: Config) -> Iterator[Finding]:
    """The folder of sockets and locks: whoever can enter it can send frames and results."""
    folder = config.line.runtime
    if not folder.exists():
        try:
            with tempfile.NamedTemporaryFile(dir=nearest(folder), prefix=".line-worker-doctor-"):
                pass
        except OSError as failure:
            yield error("runtime", f"{folder}: cannot be made ({failure.strerror})", "make it, or correct line.runtime")
            return
        yield ok("runtime", f"{folder}: will be made with mode 0750")
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if not folder.is_dir():
        yield error("runtime", f"{folder}: is no folder", "correct line.runtime, or move the file away")
    elif mode & 0o027:
        text = f"{folder}: has mode {mode:04o}, so others than its group can reach the sockets or replace them"
        yield error("runtime", text, f"chmod 0750 {folder}")
    else:
        yield ok("runtime", f"{folder}: mode {mode:04o}")


def check_priority(config: Config, *, running: bool) -> Iterator[Finding]:
    """Whether what a part waits for comes before other programs on the same processors."""
    if running:
        yield _priority_of_hub(config.line.runtime / "hub.lock")
    elif may_take(URGENT):
        yield ok("priority", f"a line of this user comes before other programs (nice {URGENT})")
    else:
        text = "a line of this user does not come before other programs; one of the units in systemd/ does"
        yield ok("priority", text)


def _priority_of_hub(lock: Path) -> Finding:
    try:
        nice = os.getpriority(os.PRIO_PROCESS, int(lock.read_text()))
    except (ValueError, ProcessLookupError):  # it has just ended, or runs in another container
        return ok("priority", "the hub cannot be seen from here")
    if nice < 0:
        return ok("priority", f"the hub comes before other programs (nice {nice})")
    advice = "start the line by the units in systemd/ (LimitNICE=-5): a busy machine makes its parts late"
    return warning("priority", f"the hub does not come before other programs (nice {nice})", advice)


def check_clock(config: Config) -> Iterator[Finding]:
    """Deadlines count on the monotonic clock; the wall clock is for the record."""
    start = time.monotonic(), time.perf_counter()
    time.sleep(0.05)
    passed = time.monotonic() - start[0], time.perf_counter() - start[1]
    source = CLOCKSOURCE.read_text().strip() if CLOCKSOURCE.exists() else "unknown"
    if not 0.04 < passed[0] < 60 or abs(passed[0] - passed[1]) > 0.01 or source == "jiffies":
        text = f"clock source {source}: 50 ms took {passed[0] * 1e3:.0f} and {passed[1] * 1e3:.0f} ms"
        yield error("clock", text, "choose another clock source (tsc, hpet, arch_sys_counter): deadlines count on it")
    else:
        yield ok("clock", f"monotonic, source {source}")
    if time.time() < SOFTWARE_CREATED:
        yield warning("wall clock", f"{datetime.now(UTC):%Y-%m-%d}: is not set", "set it: records will be misdated")
    elif _synchronised() == "no":
        advice = "turn on NTP (timedatectl set-ntp true): records of several stations will not agree"
        yield warning("wall clock", "is not synchronised", advice)
    else:
        yield ok("wall clock", f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


def _synchronised() -> str:
    """Return "yes", "no", or "" where nobody knows."""
    try:
        command = ["timedatectl", "show", "--property=NTPSynchronized", "--value"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
