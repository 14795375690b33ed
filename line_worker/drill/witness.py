"""What watches a line that is drilled: its memory, the machine's noise, rows that must not change, the hub's beats."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

from line_worker.config import Config
from line_worker.drill.breaking import ring_bytes
from line_worker.memory import own_bytes
from line_worker.rehearsal import Rehearsal
from line_worker.verdicts import StationState

SILENT_S = 0.3  # without a beat for this long, no hub was deciding
SAMPLE_S = 0.5
NOISE_S = 0.005


class Witness:
    """Samples memory, the scheduler's noise and the journal's rows while the line runs."""

    def __init__(self, config: Config, rehearsal: Rehearsal, seconds: float) -> None:
        self._config, self._rehearsal = config, rehearsal
        self._half, self._sample_at = time.monotonic() + seconds / 2, 0.0
        self._base: dict[int, int] = {}
        self.memory = 0
        self.noise_s = 0.0
        self.rows = (0, "")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="noise", daemon=True)
        self._thread.start()

    def turn(self) -> None:
        """Sample what is due."""
        now = time.monotonic()
        if now >= self._sample_at:
            self._sample_at = now + SAMPLE_S
            self.memory = max(self.memory, ring_bytes(self._config) + self._grown())
        if now >= self._half:
            self._half = float("inf")
            self.rows = fingerprint(self._config.journal_path)

    def _grown(self) -> int:
        """Return by how much the line's processes have grown since each of them was up."""
        up = [c.process.pid for c in self._rehearsal.supervisor.children if c.ready and c.running and c.process]
        sizes = {pid: own_bytes(pid) for pid in up}
        return sum(max(0, size - self._base.setdefault(pid, size)) for pid, size in sizes.items() if size)

    def _listen(self) -> None:
        """Measure by how much a process that sleeps for 5 ms oversleeps."""
        before = time.monotonic()
        while not self._stop.wait(NOISE_S):
            now = time.monotonic()
            self.noise_s = max(self.noise_s, now - before - NOISE_S)
            before = now

    def close(self) -> None:
        """Stop listening."""
        self._stop.set()
        self._thread.join()


def fingerprint(journal: Path, rows: int | None = None) -> tuple[int, str]:
    """Return the number of the newest row, or `rows`, and the sum of all rows up to it."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        last = rows if rows is not None else db.execute("SELECT coalesce(max(row), 0) FROM outcomes").fetchone()[0]
        digest = hashlib.sha256()
        for row in db.execute("SELECT * FROM outcomes WHERE row <= ? ORDER BY row", (last,)):
            digest.update(repr(row).encode())
    return last, digest.hexdigest()


class Beats:
    """Where the hub fell silent, as a sink sees it; and whether the line ran in the end."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self._states, self._seen = rehearsal.watcher.states, 0
        self._last = float("inf")  # a line that is only starting is not silent
        self.silences: list[tuple[float, float]] = []
        self.running = False

    def turn(self) -> None:
        """Look for new beats."""
        now = time.monotonic()
        if len(self._states) == self._seen:
            return
        self._seen = len(self._states)
        self.running = self._states[-1].state == StationState.RUNNING
        del self._states[: self._seen - 1]
        self._seen = len(self._states)
        if now - self._last > SILENT_S:
            self.silences.append((self._last, now))
        self._last = now
