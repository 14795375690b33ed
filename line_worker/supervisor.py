"""Starts the roles of one line as child processes, watches them, restarts them, stops them in order.

A child says READY and feeds its watchdog over the same protocol as under systemd (sd_notify). One that dies is started
again with backoff; one that is silent for longer than its role allows is asked for its stacks and killed. Beside a
worker that has grown a fresh one is started; the old one, which the hub then lets go, is not started again. A source
that exits 0 is finished; when all are, the line is. A hub that cannot even start means that there is no line: `failed`
says why, instead of trying for ever. The order of stopping is the order of the data: sources, hub, workers, sinks,
each with bounded time. When the supervisor itself is killed the kernel ends the children.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from line_worker.child import BACKOFF_S, ROLE_MODULE, Child, children_of, successor_of
from line_worker.config import Config
from line_worker.errors import LineWorkerError
from line_worker.health import only_one

log = structlog.get_logger()

STEADY_S = 30.0  # a child that ran this long starts again without backoff
START_S = 180.0  # import, warm-up and self-test may take this long
SILENT_S = {"hub": 2.0, "source": 30.0, "worker": 20.0, "sink": 20.0, "twin": float("inf")}
GIVES_WAY_S = 600.0  # one that runs when others idle may be silent for so long: killed, it would only begin anew
YIELDED_S = 5.0  # for one of these to stop: the line must not wait for what decides nothing
PAUSED_S = 1.0  # a supervisor that was itself stopped for so long has not heard what its children said
HUB_STARTS = 6  # a hub that refuses to start (exit code 3) so often in a row will not
ORDER = ("source", "hub", "worker", "sink", "twin")  # of stopping


@dataclass(slots=True)
class Supervisor:
    """The children of one line. `start` and `stop` frame any number of `turn`s.

    `log_path` collects the children's standard error; None lets it through. `module` is what runs a role.
    """

    config: Config
    log_path: Path | None = None
    without: tuple[str, ...] = ()  # roles left to somebody else
    module: str = ROLE_MODULE
    children: list[Child] = field(default_factory=list)
    failed: str = ""
    _socket: socket.socket | None = None
    _log: IO[bytes] | None = None
    _lock: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _turned: float = 0.0

    def start(self, *, sources: bool = True) -> None:
        """Start hub, sinks and workers, and the sources as well unless `start_sources` will.

        Raises:
            AlreadyRunning: another instance runs this line.
        """
        runtime = self.config.line.runtime
        self._lock.enter_context(only_one(runtime, "serve"))
        self.config.line.data.mkdir(parents=True, exist_ok=True)
        self._socket = _notify_socket(runtime / "notify")
        if self.log_path is not None:
            self._log = self._lock.enter_context(self.log_path.open("ab"))
        _write_private(self._path, self.config.model_dump_json(indent=2))
        self.children = [
            child for child in children_of(self.config, self._path, self.module) if child.role not in self.without
        ]
        for child in reversed(self.children):
            if child.role != "source" or sources:
                self._launch(child)

    def start_sources(self) -> None:
        """Start the sources, when `start` was told not to."""
        for child in self.children:
            if child.role == "source" and child.process is None:
                self._launch(child)

    def turn(self, timeout_s: float = 0.05) -> None:
        """Hear what the children say for at most `timeout_s`; restart what has died or hangs."""
        self._listen(timeout_s)
        now = time.monotonic()
        paused, self._turned = now - self._turned > PAUSED_S, now
        for child in self.children:
            child.heard = now if paused else child.heard
            if child.process is not None and not child.finished:
                self._watch(child, now)
        self.children = [child for child in self.children if child.running or not child.succeeded]
        self._replace_grown()

    @property
    def finished(self) -> bool:
        """Whether every source has come to its end."""
        sources = [child for child in self.children if child.role == "source"]
        return bool(sources) and all(child.finished for child in sources)

    @property
    def ready(self) -> bool:
        """Whether every started child has said so."""
        return all(child.ready for child in self.children if child.process is not None and not child.finished)

    def wait_ready(self, timeout_s: float, on_turn: Callable[[], None] = lambda: None) -> bool:
        """Turn until every child is ready; False when that takes longer than `timeout_s`."""
        until = time.monotonic() + timeout_s
        while not self.ready and time.monotonic() < until:
            self.turn()
            on_turn()
        return self.ready

    def stop(self, on_turn: Callable[[], None] = lambda: None) -> int:
        """Stop all children in the order of the data; returns 0 when each of them ended in good order."""
        clean = True
        for role in ORDER:
            clean &= self._stop_role(role, on_turn)
        if self._socket is not None:
            self._socket.close()
            (self.config.line.runtime / "notify").unlink(missing_ok=True)
        self._lock.close()
        return 0 if clean else 1

    @property
    def stops_within_s(self) -> float:
        """How long `stop` takes at most for what still runs."""
        return round(self._patience_s * len({child.role for child in self.children if child.running}), 1)

    def pids(self, role: str) -> list[int]:
        """Return the process ids of the running children of `role`."""
        return [c.process.pid for c in self.children if c.role == role and c.process is not None and c.running]

    @property
    def _path(self) -> Path:
        """Where the children find their configuration."""
        return self.config.line.runtime / "config.json"

    @property
    def _patience_s(self) -> float:
        """How long the children of one role may take to stop."""
        longest = max(c.deadline_ms for c in self.config.cameras) / 1000
        return min(longest, self.config.line.stop_s) + self.config.line.stop_s + 5.0

    # ---- inside -------------------------------------------------------------------------------------------------

    def _launch(self, child: Child) -> None:
        child.process = subprocess.Popen(
            child.argv,
            env={**os.environ, "NOTIFY_SOCKET": str(self.config.line.runtime / "notify")},
            stdin=subprocess.DEVNULL,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which stops the children in order
        )
        child.started = child.heard = time.monotonic()
        child.ready, child.status, child.grown = child.role == "twin", "starting", ""

    def _listen(self, timeout_s: float) -> None:
        assert self._socket is not None
        self._socket.settimeout(max(timeout_s, 0.001))
        by_pid = {c.process.pid: c for c in self.children if c.process is not None}
        for _ in range(100):
            try:
                data, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
            except (TimeoutError, BlockingIOError):
                return
            self._socket.settimeout(0.0)
            child = by_pid.get(_sender(ancillary))
            if child is not None:
                child.hear(data.decode("utf-8", "replace"), time.monotonic())

    def _watch(self, child: Child, now: float) -> None:
        assert child.process is not None
        code = child.process.poll()
        if code is None:
            limit = GIVES_WAY_S if child.gives_way else SILENT_S[child.role] if child.ready else START_S
            if now - child.heard > limit:
                log.error("child is silent: killed", child=child.name, silent_s=round(now - child.heard, 1))
                child.kill()
            return
        if child.succeeded:
            log.info("child has made room", child=child.name, code=code)
            return
        if code == 0 and child.role == "source":
            child.finished = True
            return
        if not child.start_at:
            self._plan_restart(child, code, now)
        elif now >= child.start_at:
            child.start_at = 0.0
            child.restarts += 1
            self._launch(child)

    def _replace_grown(self) -> None:
        """Start a fresh worker beside one that has grown; the next one's turn comes when the old one has ended."""
        if any(child.succeeded for child in self.children):
            return
        for child in [child for child in self.children if child.grown][:1]:
            fresh = successor_of(child, self.children, self._path, self.module)
            log.warning("child is to be replaced", child=child.name, by=fresh.name, why=child.grown)
            child.succeeded = True
            self.children.append(fresh)
            self._launch(fresh)

    def _plan_restart(self, child: Child, code: int, now: float) -> None:
        steady = now - child.started > STEADY_S
        child.backoff_s = BACKOFF_S[0] if steady else child.backoff_s
        child.start_at = now + child.backoff_s
        log.warning("child has ended", child=child.name, code=code, again_in_s=child.backoff_s)
        child.backoff_s = min(child.backoff_s * 2, BACKOFF_S[1])
        child.ready, child.failures = False, child.failures + 1
        if child.role == "hub" and code == LineWorkerError.exit_code and child.failures >= HUB_STARTS:
            self.failed = f"the hub refused to start {child.failures} times; its log says why"

    def _stop_role(self, role: str, on_turn: Callable[[], None]) -> bool:
        children = [child for child in self.children if child.role == role]
        for child in children:
            if child.process is not None and child.running:
                child.process.terminate()
        begun, patience_s = time.monotonic(), self._patience_s
        limits = {child.name: min(patience_s, YIELDED_S) if child.gives_way else patience_s for child in children}
        while any(c.running and time.monotonic() - begun < limits[c.name] for c in children):
            on_turn()
            self._listen(0.02)
        for child in children:
            if child.running:
                (log.warning if child.gives_way else log.error)("child does not stop: killed", child=child.name)
                child.kill()
        return all(child.ended_well for child in children)


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read: URLs of cameras hold passwords."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def _notify_socket(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    listener.bind(str(path))
    return listener


def _sender(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            return int(struct.unpack("iII", data[:12])[0])
    return 0
