"""Debian's fake GigE Vision camera (aravis-tools): real packets on the loopback interface, some lost if asked."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import IO

PROGRAM = "arv-fake-gv-camera-0.8"
INSTALL = "apt-get install aravis-tools, pip install line-worker[gige]"
INTERFACE = "127.0.0.1"
SERIAL = "LW1"
READY_S, LOCK_S = 20.0, 120.0


class FakeCamera:
    """The fake camera as a process. One at a time on a host, because its port is the protocol's.

    lost: how many of a thousand packets it loses.
    """

    def __init__(self, lost: int = 0) -> None:
        self._lost = lost
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def installed() -> bool:
        """Whether its program is here."""
        return shutil.which(PROGRAM) is not None and shutil.which("setpriv") is not None

    def start(self) -> None:
        """Start it and wait until it answers; TimeoutError when it does not."""
        from line_worker.source.gige import discovered

        if discovered(INTERFACE)[1]:
            raise TimeoutError(f"another camera answers at {INTERFACE}; stop it first")
        command = ["setpriv", "--pdeathsig", "KILL", PROGRAM, "-i", INTERFACE, "-s", SERIAL]  # it ends with us
        command += ["-r", str(self._lost)] if self._lost else []
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + READY_S
        while not discovered(INTERFACE)[1]:
            if time.monotonic() > until or self._process.poll() is not None:
                self.kill()
                raise TimeoutError(f"{PROGRAM} does not answer; look whether another one runs")

    def kill(self) -> None:
        """Kill it, as a cable that is pulled."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> FakeCamera:
        self._lock = _alone()
        try:
            self.start()
        except BaseException:
            self._lock.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()
        self._lock.close()


def _alone() -> IO[str]:
    """Wait until nobody else on this host has the fake camera; it is free again when the file is closed."""
    lock = (Path(tempfile.gettempdir()) / "line-worker-fake-camera.lock").open("w")
    until = time.monotonic() + LOCK_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > until:
                lock.close()
                raise TimeoutError(f"another {PROGRAM} is in use on this host") from None
            time.sleep(0.1)
