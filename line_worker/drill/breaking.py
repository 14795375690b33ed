"""Sets off the faults of a plan on the processes of a running line; decides nothing."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from line_worker.config import Config
from line_worker.drill.plan import Fault
from line_worker.drill.saboteur import HANG_S, SIGNALS
from line_worker.supervisor import Supervisor
from line_worker.wire import messages as m
from line_worker.wire.frames import HEAD, PAGE, SHM
from line_worker.wire.links import FRAMES
from line_worker.wire.sockets import Wire

FLOOD = 2000  # messages
PATIENCE_S = 3.0  # a fault waits so long for a process that is just starting, and is then left out
KILL, STOP, HANG = "kill", "stop", "hang"


class Breaker:
    """Breaks the line of `supervisor` as planned.

    `injected` counts faults by kind; `outages` are the spans (monotonic seconds) in which the hub itself was broken.
    """

    def __init__(self, config: Config, supervisor: Supervisor, faults: tuple[Fault, ...]) -> None:
        self._config, self._supervisor, self._faults = config, supervisor, list(faults)
        self._continue: list[tuple[float, int]] = []  # stopped processes, and until when
        self._started = time.monotonic()
        self.injected: Counter[str] = Counter()
        self.outages: list[tuple[float, float]] = []

    def begin(self) -> None:
        """The plan's clock starts now."""
        self._started = time.monotonic()

    def turn(self) -> None:
        """Set off what is due, let go what was stopped long enough."""
        now = time.monotonic()
        for until, pid in [stopped for stopped in self._continue if stopped[0] <= now]:
            self._continue.remove((until, pid))
            _send(pid, signal.SIGCONT)
        for fault in [fault for fault in self._faults if self._started + fault.at <= now]:
            if self._set_off(fault, now) or now - self._started - fault.at > PATIENCE_S:
                self._faults.remove(fault)

    def calm(self) -> None:
        """Let go whatever is still stopped."""
        for _, pid in self._continue:
            _send(pid, signal.SIGCONT)
        self._continue.clear()

    def _set_off(self, fault: Fault, now: float) -> bool:
        """Set `fault` off; False when what it would break is just starting."""
        ways: dict[str, Callable[[Fault, float], bool]] = {
            "corrupt": self._corrupt,
            "flood": self._flood,
            "clock": self._jump,
            "hub": self._break_hub,
        }
        done = ways.get(fault.kind, self._break_process)(fault, now)
        self.injected[fault.kind] += done
        return done

    def _break_process(self, fault: Fault, now: float) -> bool:
        role = fault.kind if fault.kind in ("sink", "source") else "hub" if fault.kind == "diskfull" else "worker"
        how = (KILL, STOP)[fault.way % 2] if role == fault.kind else fault.kind
        return self._hit(role, how, fault, now)

    def _break_hub(self, fault: Fault, now: float) -> bool:
        how = (KILL, KILL, STOP, HANG)[fault.way % 4]
        lasts = {KILL: 0.0, STOP: fault.seconds * 2, HANG: HANG_S}[how]
        done = self._hit("hub", how, Fault(fault.at, fault.kind, fault.way, fault.which, lasts), now)
        if done:
            self.outages.append((now, now + lasts))
        return done

    def _jump(self, fault: Fault, now: float) -> bool:
        return self._hit(("hub", "worker", "source", "sink")[fault.way % 4], "clock", fault, now)

    def _hit(self, role: str, how: str, fault: Fault, now: float) -> bool:
        """Break one process of `role`; False when none is there that could be broken (it is just starting)."""
        pids = [c.process.pid for c in self._supervisor.children if c.role == role and c.ready and c.process]
        if not pids:
            return False
        pid = pids[fault.which % len(pids)]
        if how == STOP:
            self._continue.append((now + fault.seconds, pid))
        return _send(pid, {KILL: signal.SIGKILL, STOP: signal.SIGSTOP}.get(how) or SIGNALS[how])

    def _corrupt(self, fault: Fault, now: float) -> bool:
        """Flip a byte of every picture that lies in the camera's shared memory."""
        camera = self._config.cameras[0]
        stride = -(-(HEAD + int(camera.max_frame_mb * 1e6)) // PAGE) * PAGE
        for path in SHM.glob(f"line-worker-{self._config.line.name}-{camera.name}.*.ring"):
            with path.open("r+b", buffering=0) as ring:
                for start in range(0, path.stat().st_size, stride):
                    at = start + HEAD + 100 + fault.way
                    byte = os.pread(ring.fileno(), 1, at)
                    os.pwrite(ring.fileno(), bytes((byte[0] ^ 0x55,)), at)
        return True

    def _flood(self, fault: Fault, now: float) -> bool:
        """Send rubbish and news of an epoch that is long over, as fast as the hub's queue takes them."""
        wire = Wire(self._config.line.runtime, frame_bytes=self._config.frame_bytes)
        channel = wire.connect(FRAMES, "flood")
        old = m.SourceAlive(self._config.cameras[0].name, 1, fault.which, True, "")
        channel.wait_to_send(200)
        for number in range(FLOOD):
            if number % 2:
                channel.send(old)
            else:
                channel.send_parts([os.urandom(2), os.urandom(100)])
        wire.close()
        return True


def ring_bytes(config: Config) -> int:
    """Return the shared memory that the line holds now."""
    return sum(_size(path) for path in SHM.glob(f"line-worker-{config.line.name}-*.ring"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
