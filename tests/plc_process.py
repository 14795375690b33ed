"""A PLC whose memory we write, for the tests: a process that can be killed and stopped; and a wire that can be bad."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from line_worker.ports import free_port
from plc_station import HOST, QUEUED, Station, outcome, wait_for
from stopping import send_signal

DB, BASE = 5, 40


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


class PlcProcess:
    """The simulated PLC, serving as `flags` say. `books` are its decisions so far, also those before it was killed."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.port, self._log, self._flags = free_port(), folder / "plc.jsonl", flags
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()

    def start(self) -> None:
        module = [sys.executable, "-m", "line_worker.sink.plc.simulated"]
        self._process = subprocess.Popen([*module, HOST, str(self.port), "--log", str(self._log), *self._flags])
        wait_for(lambda: listens(self.port))

    def signal(self, what: signal.Signals) -> None:
        assert self._process is not None
        send_signal(self._process.pid, what)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def end(self) -> int:
        """Ask it to end; returns its exit code."""
        self.signal(signal.SIGTERM)
        assert self._process is not None
        return self._process.wait(timeout=20)

    @property
    def books(self) -> list[dict[str, Any]]:
        lines = self._log.read_text().split("\n")[:-1] if self._log.exists() else []
        return [json.loads(line) for line in lines]

    @property
    def taken(self) -> list[tuple[int, str]]:
        """Sequence number and verdict of every result that it has received."""
        return [(booking["seq"], booking["verdict"]) for booking in self.books if booking["received"]]


class S7Plc(PlcProcess):
    """A Siemens PLC: snap7's own server, with as many sessions."""

    def __init__(self, folder: Path, sessions: int = 8) -> None:
        super().__init__(folder, "--s7-db", str(DB), "--base", str(BASE), "--sessions", str(sessions))


def why_not(station: Station) -> str:
    return station.output.reachable()[1]


def deliver_all(station: Station, plc: PlcProcess, first: int, count: int) -> None:
    """Have `count` parts of every verdict taken, once each and in order."""
    sent, earlier = range(first, first + count), len(plc.taken)
    for seq in sent:
        wait_for(lambda: station.output.words()[QUEUED] < 8)
        station.deliver(outcome(seq, left_ms=20_000, reason=(0, 0, 1, 30)[seq % 4]))
    wait_for(lambda: (first + count - 1) in [seq for seq, _ in plc.taken[earlier:]])
    verdicts = ("PASS", "PASS", "FAIL", "NO_DECISION")
    assert [one for one in plc.taken[earlier:] if one[0] in sent] == [(seq, verdicts[seq % 4]) for seq in sent]


class Wire:
    """A TCP connection's way to `port`.

    It can be slow (`delay_s`), dead without anybody being told (`dead`), or change the answers (`spoil`).
    """

    def __init__(self, port: int) -> None:
        self._target, self.delay_s, self.dead = port, 0.0, False
        self.spoil: Callable[[bytes], bytes] | None = None
        self._listener = socket.create_server((HOST, 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Wire:
        self._threads[0].start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                far = socket.create_connection((HOST, self._target), timeout=10)
                far.settimeout(None)
                self._open += [near, far]
                for ends in ((near, far, False), (far, near, True)):
                    self._threads.append(threading.Thread(target=self._carry, args=ends))
                    self._threads[-1].start()

    def _carry(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                time.sleep(self.delay_s)
                if not self.dead:
                    sink.sendall(self.spoil(data) if answers and self.spoil else data)
        if not self.dead:
            with suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
