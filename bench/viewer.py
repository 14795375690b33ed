"""Asks for the newest part again and again, as the page in a browser does, and draws nothing: what one costs this
machine that runs on another one.

    python -m bench.viewer HOST PORT SECONDS      begins when a line comes in, prints how many parts it got
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from http.client import HTTPConnection

from line_worker.errors import LineWorkerError

TIMEOUT_S = 10.0
LONGEST = 576  # pixels in which a window of 1600x1000 shows a square picture
NUMBERS_S = 0.25  # between two looks at the numbers beside the picture


class Viewer:
    """One such process; it gives way to all others, since it stands for another machine."""

    def __init__(self, host: str, port: int, seconds: float) -> None:
        command = [sys.executable, "-m", "bench.viewer", host, str(port), str(seconds)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def begin(self) -> None:
        """Count from now on."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def parts(self) -> int:
        """Wait for its end; returns how many parts it got."""
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if not said:
            raise LineWorkerError("a program that looked at the page ended; see what it says above")
        return int(said)

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()


def look(host: str, port: int, seconds: float) -> int:
    """Return how many parts the page gave within so many seconds."""
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    until, seen, parts, numbers_at = time.monotonic() + seconds, "", 0, float("-inf")
    while (now := time.monotonic()) < until:
        board = int(now - numbers_at >= NUMBERS_S)
        connection.request("GET", f"/next?seen={seen}&camera=&longest={LONGEST}&board={board}")
        told = json.loads(connection.getresponse().read().partition(b"\n")[0])
        if board:
            numbers_at = now
        if "number" in told:
            seen = str(told["number"])
            parts += 1
    return parts


def main(arguments: Sequence[str]) -> int:
    """Wait for a line, look, print."""
    host, port, seconds = arguments
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if sys.stdin.readline():
        print(look(host, int(port), float(seconds)), flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
