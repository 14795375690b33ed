"""What the tests of PLC sinks share: a sink whose hub beats and polls it, outcomes for it, and patience."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from line_worker.sink.plc import PlcOutput
from line_worker.wire.messages import FrameKey, HubState, Outcome

HOST = "127.0.0.1"
ALIVE, QUEUED = 2, 6  # registers


def outcome(seq: int, *, left_ms: float = 2000.0, reason: int = 0) -> Outcome:
    verdict = {0: "PASS", 1: "FAIL"}.get(reason, "NO_DECISION")
    return Outcome(
        *(seq + 1, FrameKey("line-1", "top", 7, seq), verdict, reason, float(seq), 1.0, (), "beef" * 16, "w", 1),
        *(f"part-{seq}", seq + 1, 10.0, left_ms, 0.0, {}),
    )


class Station:
    """A PLC sink with a hub that beats and polls it, in a thread as its runner would."""

    def __init__(self, output: PlcOutput) -> None:
        self.output = output
        self.beating, self.state = True, 2
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self.output.open()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.output.close()

    def _run(self) -> None:
        turn = 0
        while not self._stop.wait(0.01):
            turn += 1
            if self.beating and turn % 5 == 0:
                self.output.beat(HubState(1, turn, self.state, "", "beef" * 16, 0, 1, {}), time.monotonic())
            self.output.poll(time.monotonic())

    def deliver(self, *outcomes: Outcome) -> None:
        for one in outcomes:
            assert self.output.deliver(one, time.monotonic())

    def await_reachable(self, wanted: bool = True) -> str:
        wait_for(lambda: self.output.reachable()[0] == wanted and self.output.words()[ALIVE] == 1)
        return self.output.reachable()[1]


def wait_for(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def sink_process(folder: Path, name: str) -> int:
    """Return the id of the process of the sink `name` of the line whose files lie in `folder`."""
    marker = str(folder / "run")
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode("utf-8", "replace").split("\0")
            if {"sink", name} <= set(words) and any(word.startswith(marker) for word in words):
                return int(path.parent.name)
    raise AssertionError(f"the sink {name} does not run")
