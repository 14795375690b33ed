"""A whole line with its real processes, and a sink in this process that sees every outcome as it is offered.

What `demo`, `replay` and `bench` share: start, wait until every role is ready and our sink is connected, only then
start the sources, watch until they are finished, stop in order.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from line_worker.config import Config
from line_worker.errors import SourceError
from line_worker.joining import open_wire
from line_worker.sink.collect import Collector
from line_worker.sink.run import Runner
from line_worker.supervisor import START_S, Supervisor
from line_worker.wire.messages import Outcome

SUPERVISE_S = 0.1
WAIT_S = 0.005


class Watcher(Collector):
    """A real-time collector that also notes when each outcome was here (`elapsed_ms`, counted from the part's t0)."""

    durable = False
    wants_crops = False

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config = config
        self.elapsed_ms: list[float] = []

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Keep `outcome`, and the time from t0 to now: what the hub counted, and the way here (one host, one clock)."""
        at_hub = self._config.deadline_ms(outcome.key.camera) - outcome.left_ms
        self.elapsed_ms.append(at_hub + (time.time() - outcome.wall) * 1000)
        return super().deliver(outcome, now)


class Rehearsal:
    """One run of a line; `watcher` holds what came of it.

    `on_turn` is called a few times a second, for progress bars and for tests that break things.
    """

    def __init__(self, config: Config, log_path: Path | None = None) -> None:
        self.watcher = Watcher(config)
        self.supervisor = Supervisor(config, log_path)
        self._config, self._ended = config, False

    def end(self) -> None:
        """Stop the line after this turn; for `on_turn`."""
        self._ended = True

    def run(self, on_turn: Callable[[], None] = lambda: None, seconds: float | None = None) -> int:
        """Run until the sources are finished, or for `seconds`; returns 0 when every process ended in good order.

        Raises:
            SourceError: the line did not become ready.
            AlreadyRunning: another instance runs this line.
        """
        self.supervisor.start(sources=False)
        wire = open_wire(self._config, "sink")
        runner = Runner("watcher", self.watcher, wire)

        def turn() -> None:
            wire.wait(WAIT_S)
            runner.turn(time.monotonic())

        try:
            self._until_ready(turn)
            self.supervisor.start_sources()
            self._until_finished(turn, on_turn, seconds)
        finally:
            code = self.supervisor.stop(turn)
            wire.close()
        return code

    def _until_ready(self, turn: Callable[[], None]) -> None:
        until = time.monotonic() + START_S
        while not (self.supervisor.ready and self.watcher.states):
            self.supervisor.turn(0.01)
            turn()
            if self.supervisor.failed or time.monotonic() > until:
                waiting = [c.name for c in self.supervisor.children if not c.ready]
                why = self.supervisor.failed or f"after {START_S:.0f} s these are not ready: {', '.join(waiting)}"
                raise SourceError(f"the line does not start: {why}; see its log")

    def _until_finished(self, turn: Callable[[], None], on_turn: Callable[[], None], seconds: float | None) -> None:
        end = time.monotonic() + seconds if seconds is not None else float("inf")
        supervise_at = 0.0
        while not (self.supervisor.finished or self._ended) and (now := time.monotonic()) < end:
            turn()
            if now >= supervise_at:
                supervise_at = now + SUPERVISE_S
                self.supervisor.turn(0.001)
                on_turn()
