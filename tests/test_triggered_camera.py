"""A real camera that gives pictures all the time (MJPEG over HTTP), read at triggers from outside."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import pytest

from line_worker.config import Camera
from line_worker.source import Captured, make_source
from line_worker.source.announce import Announcer
from line_worker.source.run import Runner, make_runner
from line_worker.source.simulated_camera import SimulatedCamera
from line_worker.verdicts import Reason, StationState
from line_worker.wire.messages import Fire

PICTURES = [np.full((48, 64, 3), 20 + 20 * i, np.uint8) for i in range(8)]


class Heard:
    """What the runner announces, and what the hub says to it."""

    has_room, state = True, StationState.RUNNING

    def __init__(self) -> None:
        self.fired: deque[Fire] = deque()
        self.announced: list[Captured] = []

    def announce(self, captured: Captured) -> None:
        self.announced.append(captured)

    def set_ready(self, ready: bool, detail: str) -> None:
        self.ready = ready

    def wait(self, timeout_s: float) -> None:
        time.sleep(timeout_s)


@pytest.fixture
def line() -> Iterator[tuple[Runner, Heard]]:
    with SimulatedCamera(PICTURES, rate=50) as camera:
        raw = {"name": "top", "deadline_ms": 4000, "source": {"kind": "camera", "device": camera.url}}
        settings = Camera.model_validate(raw | {"trigger": {"kind": "sink", "sink": "plc", "timeout_ms": 1000}})
        heard, source = Heard(), make_source(settings)
        runner = make_runner(source, cast(Announcer, heard), settings)
        yield runner, heard
        source.close()


def run(runner: Runner, seconds: float, until: Any = lambda: False) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not until():
        runner.turn()


def test_only_pictures_of_parts_that_have_come_are_announced(line: tuple[Runner, Heard]) -> None:
    runner, heard = line
    run(runner, 0.5)
    assert heard.announced == [], "the camera gives pictures, and nobody has asked for one"
    for number in (7, 8):
        fired_at = time.monotonic()
        heard.fired.append(Fire(number, f"part {number}", 0.0, False))
        run(runner, 10, until=lambda n=number: len(heard.announced) == n - 6)
        part = heard.announced[-1]
        assert (part.trigger, part.part_id, part.problem) == (number, f"part {number}", Reason.NONE)
        assert part.pixels is not None
        assert part.at >= fired_at
    run(runner, 0.2)
    assert len(heard.announced) == 2


def test_a_part_that_was_missed_or_is_not_seen_in_time_has_no_picture(line: tuple[Runner, Heard]) -> None:
    runner, heard = line
    run(runner, 0.3)
    heard.fired.append(Fire(1, "gone by", 0.0, True))
    heard.fired.append(Fire(2, "too old", 5000.0, False))
    run(runner, 10, until=lambda: len(heard.announced) == 2)
    assert [(part.trigger, part.pixels is None, part.problem) for part in heard.announced] == [
        (1, True, Reason.NO_FRAME),
        (2, True, Reason.NO_FRAME),
    ]
