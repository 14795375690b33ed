"""Signs of life and orderly ends, the same under systemd and under our own supervisor.

Liveness comes from the work: the watchdog is fed by a role's loop after something done or a proven idle wait, never by
a side thread. Signals only set a flag.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import structlog

from line_worker.errors import AlreadyRunning
from line_worker.repeats import RepeatLimit

PR_SET_PDEATHSIG = 1
ALIVE_S = 0.2  # a watchdog is fed at most this often, however fast the loop turns


class Notifier:
    """sd_notify(3): tells the manager (systemd or our supervisor) what this process is doing."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address if address is not None else os.environ.get("NOTIFY_SOCKET", "")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if self._address else None
        self._alive_at = 0.0

    def ready(self, status: str) -> None:
        """Say that start-up is over."""
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        """Feed the watchdog."""
        now = time.monotonic()
        if now - self._alive_at >= ALIVE_S:
            self._alive_at = now
            self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """Show a line to people."""
        self._send(f"STATUS={text}")

    def grown(self, what: str) -> None:
        """Ask for another process beside this one, which has grown; systemd does not know what that is."""
        self._send(f"X_GROWN={what}")

    def stopping(self) -> None:
        """Say that an orderly stop has begun."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Let go of the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, text: str) -> None:
        if self._socket is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with contextlib.suppress(OSError):  # a manager that is gone must not stop the line
            self._socket.sendto(text.encode(), socket.MSG_DONTWAIT, address)


class StopFlag:
    """Turns true at SIGTERM or SIGINT. `again` does at the next one, which cuts nothing short: a stop is bounded."""

    def __init__(self) -> None:
        self.set = self.again = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.again, self.set = self.set, True

    def __bool__(self) -> bool:
        return self.set


class ReloadFlag:
    """Turns true at SIGHUP, until it is taken."""

    def __init__(self) -> None:
        self._set = False
        signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._set = True

    def take(self) -> bool:
        """Return whether the signal has come since the last call."""
        was, self._set = self._set, False
        return was


def die_with_parent(parent: int) -> None:
    """Ask the kernel to send SIGTERM to this process when its parent, process `parent`, ends, however that happens."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended already
        raise SystemExit(0)


@contextlib.contextmanager
def only_one(runtime: Path, role: str) -> Iterator[None]:
    """Hold the lock of `role` on this line's runtime folder.

    Raises:
        AlreadyRunning: naming the process that holds it.
    """
    runtime.mkdir(mode=0o750, parents=True, exist_ok=True)
    path = runtime / f"{role}.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = path.read_text("utf-8").strip() or "unknown"
            raise AlreadyRunning(
                f"{role}: process {holder} already runs this line ({runtime}); this one does not start; "
                "stop the other one, or give this line its own line.runtime"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(handle)


def configure_logging(role: str) -> None:
    """Send structlog's events to standard error: JSON lines that name the role, or readable ones on a terminal.

    What repeats is shown at most so often, see `repeats`.
    """
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            RepeatLimit(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    structlog.contextvars.bind_contextvars(role=role, pid=os.getpid())
