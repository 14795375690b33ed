"""Digital outputs: PASS, REJECT, heartbeat and stop as lines of a GPIO chip of this host.

`signals.py` says what the lines mean. They belong to a small process of their own (`keeper.py`), which rejects as soon
as it does not hear from us any more: a kernel lets a line stand as it was when the process that held it is killed. When
the keeper itself dies or hangs, we kill it and take the lines to reject, and this process ends; the supervisor starts
it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from line_worker.errors import SinkError
from line_worker.priority import URGENT
from line_worker.sink import QuietSink
from line_worker.sink.gpio.chip import Wiring, chip_of
from line_worker.sink.gpio.keeper import READY
from line_worker.sink.recent import RecentKeys

if TYPE_CHECKING:
    from line_worker.config import Config, GpioSink
    from line_worker.wire.messages import HubState, Outcome

HUNG_S = 0.5  # a keeper that says nothing for so long after it was told something
CLOSE_S = 2.0


class Gpio(QuietSink):
    """The sink for one chip. Real-time: a PASS whose time is over is none."""

    durable = False
    nice = URGENT

    def __init__(self, sink: GpioSink, config: Config) -> None:
        self._sink, self._views = sink, config.views()
        self._wiring = Wiring(str(sink.chip), sink.lines, sink.active_low)
        self._keeper: subprocess.Popen[bytes] | None = None
        self._asked_at: float | None = None  # since when the keeper owes us a word
        self._seen = RecentKeys()

    def open(self) -> None:
        """Take the lines; they reject until the station runs.

        Raises:
            SinkError: gpiod is missing, or the lines cannot be taken.
        """
        times = (self._sink.pass_ms, self._sink.reject_ms, self._sink.gap_ms, self._sink.heartbeat_ms)
        told = json.dumps(self._wiring._asdict() | {"times": [ms / 1000 for ms in times]})
        command = [sys.executable, "-m", "line_worker.sink.gpio.keeper", told]
        self._keeper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._keeper.stdout is not None
        answer = self._keeper.stdout.read(1)
        if answer != READY:
            why = (answer + self._keeper.stdout.read()).decode() or "its process could not start"
            self.close()
            raise SinkError(f"sink {self._sink.name}: {why}")
        os.set_blocking(self._keeper.stdout.fileno(), False)

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Show the part's verdict, once."""
        ours = outcome.key.camera == self._sink.camera or (
            not self._sink.camera and outcome.key.camera not in self._views
        )
        if ours and outcome.key not in self._seen:
            self._seen.add(outcome.key)
            self._tell(now, "part", int(outcome.passed), outcome.left_ms / 1000)
        return True

    def beat(self, state: HubState, now: float) -> None:
        """Tell the keeper that the hub decides."""
        self._tell(now, "state", state.instance, state.beat, state.state, state.stop_line)

    def poll(self, now: float) -> None:
        """Look after the keeper.

        Raises:
            SinkError: it has died, or hung and was killed; every line rejects, and the process ends.
        """
        if self._keeper is None:
            return
        assert self._keeper.stdout is not None
        if self._keeper.stdout.read() and self._keeper.poll() is None:
            self._asked_at = None
        hung = self._asked_at is not None and now - self._asked_at > HUNG_S
        if hung or self._keeper.poll() is not None:
            self._reject()
            raise SinkError(
                f"sink {self._sink.name}: the process that holds the lines has {'hung' if hung else 'ended'}; "
                "every line rejects until it is started again"
            )

    def _tell(self, now: float, *what: str | float) -> None:
        if self._keeper is not None and self._keeper.stdin is not None:
            self._asked_at = now if self._asked_at is None else self._asked_at
            with suppress(OSError):  # it has ended: `poll` sees to that
                os.write(self._keeper.stdin.fileno(), json.dumps(what).encode() + b"\n")

    def _reject(self) -> None:
        """Take the lines ourselves, to reject."""
        if self._keeper is not None:
            self._keeper.kill()
        self.close()
        chip_of(self._wiring).close()

    def reachable(self) -> tuple[bool, str]:
        """Whether the lines are held, and why not."""
        held = self._keeper is not None and self._keeper.poll() is None
        return (True, "") if held else (False, "the lines are not held")

    def close(self) -> None:
        """Reject, and let go of the lines."""
        keeper, self._keeper, self._asked_at = self._keeper, None, None
        if keeper is None:
            return
        assert keeper.stdin is not None
        assert keeper.stdout is not None
        with suppress(OSError):
            keeper.stdin.close()  # which ends it
        try:
            keeper.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            keeper.kill()
            keeper.wait()
        keeper.stdout.close()
