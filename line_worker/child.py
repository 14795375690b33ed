"""The processes of one line: which there are, how each is started, and how one is ended that does not listen."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from line_worker.config import Config, PlcSink, ShadowSink, Sink

BACKOFF_S = (0.1, 5.0)
SIMULATED_MS = 500.0  # between two parts that a simulated PLC triggers


@dataclass(slots=True)
class Child:
    """One role's process. `backoff_s` grows while it keeps dying; `failures` counts starts since it was last ready."""

    role: str
    name: str
    argv: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    heard: float = 0.0
    ready: bool = False
    status: str = ""
    restarts: int = 0
    failures: int = 0
    backoff_s: float = BACKOFF_S[0]
    start_at: float = 0.0
    finished: bool = False
    grown: str = ""  # by what, in words: it asks for another one beside it
    succeeded: bool = False  # another one has been started in its place
    gives_way: bool = False  # it decides nothing and runs when others idle: on a busy host it may not even hear us

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def ended_well(self) -> bool:
        """Whether its process was never started, or has ended in good order.

        One still starting has no order; one that gives way may not have got the processor to end in any.
        """
        if self.process is None:
            return True
        code = self.process.poll()
        return code == 0 or (code == -signal.SIGTERM and not self.ready) or (code == -signal.SIGKILL and self.gives_way)

    def hear(self, text: str, now: float) -> None:
        """Take what it has said (sd_notify's words)."""
        self.heard = now
        for line in text.splitlines():
            if line == "READY=1":
                self.ready, self.failures = True, 0
            elif line.startswith("STATUS="):
                self.status = line.removeprefix("STATUS=")
            elif line.startswith("X_GROWN="):
                self.grown = line.removeprefix("X_GROWN=")

    def kill(self) -> None:
        """Ask for its stacks (SIGUSR1), give it a moment to write them, kill it."""
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR1)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(0.3)
        self.process.kill()
        self.process.wait()


ROLE_MODULE = "line_worker.role"


def children_of(config: Config, path: Path, module: str = ROLE_MODULE) -> list[Child]:
    """Return the children of the line, none of them started; `module` runs a role with the configuration at `path`."""

    def child(role: str, name: str = "") -> Child:
        return child_of(path, module, role, name)

    def sink(sink: Sink) -> Child:
        found = child("sink", sink.name)
        found.gives_way = isinstance(sink, ShadowSink) and sink.give_way
        return found

    twins = [_simulated_plc(sink, config) for sink in config.sinks if isinstance(sink, PlcSink) and sink.simulate]
    return [
        *(child("source", camera.name) for camera in config.cameras),
        *(child("worker", str(n)) for n in range(config.workers.count)),
        *twins,
        *(sink(one) for one in config.sinks),
        child("hub"),
    ]


def child_of(path: Path, module: str, role: str, name: str = "") -> Child:
    """Return the child that runs `role`, `name`d where there are several, with the configuration at `path`."""
    argv = [sys.executable, "-m", module, str(path), role, *([name] if name else []), *_parent()]
    return Child(role, f"{role}-{name}" if name else role, argv)


def successor_of(grown: Child, children: list[Child], path: Path, module: str) -> Child:
    """Return a worker to take the place of one that has `grown`: it has the first number that no other child has."""
    taken = {child.name for child in children}
    number = next(n for n in itertools.count() if f"{grown.role}-{n}" not in taken)
    return child_of(path, module, grown.role, str(number))


def _parent() -> list[str]:
    return ["--parent", str(os.getpid())]


def _simulated_plc(sink: PlcSink, config: Config) -> Child:
    log_file = config.line.data / f"{sink.name}-simulated.jsonl"
    argv = [sys.executable, "-m", "line_worker.sink.plc.simulated", sink.host, str(sink.port)]
    argv += ["--unit", str(sink.unit), "--base", str(sink.base), "--log", str(log_file), *_parent()]
    if config.fires(sink.name):
        argv += ["--trigger-ms", str(SIMULATED_MS)]
    return Child("twin", f"simulated-{sink.name}", argv + (["--serve"] if sink.mode == "client" else []))
