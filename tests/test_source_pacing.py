"""The absolute schedule, and what happens to it when a source falls behind."""

import time
from collections.abc import Generator

import numpy as np
import pytest

from line_worker.errors import SourceError
from line_worker.source import Captured
from line_worker.source.pacing import PacedSource, Shot
from line_worker.verdicts import Reason

PICTURE = np.zeros((4, 4), np.uint8)


class Scripted(PacedSource):
    """Yields `script`; a number in it is a sleep in seconds, an error is raised."""

    def __init__(self, *script: Shot | float | Exception, ahead: int = 2) -> None:
        super().__init__()
        self.script, self.ahead = script, ahead
        self.closed = False

    def shots(self) -> Generator[Shot]:
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, Shot):
                    yield step
                else:
                    time.sleep(step)
        finally:
            self.closed = True


def _read_all(source: PacedSource) -> list[tuple[Captured, float]]:
    """Return every trigger with the moment at which it was given."""
    found = []
    while not source.finished:
        if (captured := source.read(0.05)) is not None:
            found.append((captured, time.monotonic()))
    return found


def test_moments_are_the_schedule_and_not_the_time_of_reading() -> None:
    source = Scripted(*(Shot(PICTURE, offset=i * 0.02) for i in range(10)))
    source.open()
    found = _read_all(source)
    source.close()
    gaps = np.diff([captured.at for captured, _ in found])
    assert gaps == pytest.approx(0.02, abs=1e-6)
    late = [given - captured.at for captured, given in found]
    assert min(late) >= 0
    assert sorted(late)[3] < 0.01, "given when they are due, but for what the machine is busy with"


def test_a_late_source_gives_what_is_due_at_once_and_its_waiting_counts() -> None:
    shots = [Shot(PICTURE, offset=i * 0.1) for i in range(6)]
    source = Scripted(shots[0], 0.75, *shots[1:])
    source.open()
    found = _read_all(source)
    source.close()
    first = found[0][0].at
    assert [captured.at - first for captured, _ in found] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert found[1][1] - found[1][0].at > 0.5, "the second frame waited"
    assert found[5][1] - found[1][1] < 0.25, "the others were given at once"


def test_a_reader_that_pauses_gets_every_frame_with_its_own_moment() -> None:
    source = Scripted(*(Shot(PICTURE, offset=i * 0.1, trigger=i) for i in range(8)))
    source.open()
    assert source.read(1.0) is not None
    time.sleep(0.8)
    found = _read_all(source)
    source.close()
    assert [captured.trigger for captured, _ in found] == list(range(1, 8))
    assert found[-1][1] - found[0][1] < 0.4


def test_a_shot_that_is_made_slowly_does_not_block_the_reader() -> None:
    source = Scripted(0.8, Shot(PICTURE, offset=0.0))
    source.open()
    begin = time.monotonic()
    assert source.read(0.02) is None
    assert time.monotonic() - begin < 0.5
    assert not source.finished
    assert source.read(3.0) is not None
    source.close()


def test_the_clock_starts_when_the_first_frame_is_ready() -> None:
    source = Scripted(0.6, Shot(PICTURE, offset=0.0))
    source.open()
    captured = source.read(3.0)
    assert captured is not None
    assert time.monotonic() - captured.at < 0.4
    source.close()


def test_a_shot_without_a_moment_is_taken_when_asked_for() -> None:
    source = Scripted(Shot(None, problem=Reason.DECODE, part_id="a"), Shot(PICTURE, at=5.0))
    source.open()
    (first, given), (second, _) = _read_all(source)
    source.close()
    assert (first.pixels, first.problem, first.part_id) == (None, Reason.DECODE, "a")
    assert 0 <= given - first.at < 0.5
    assert second.at == 5.0


def test_an_error_while_working_ahead_reaches_the_reader_after_what_came_before() -> None:
    source = Scripted(Shot(PICTURE), SourceError("the disk is gone"))
    source.open()
    assert source.read(1.0) is not None
    with pytest.raises(SourceError, match="the disk is gone"):
        source.read(1.0)
    source.close()


def test_closing_ends_the_work_ahead() -> None:
    source = Scripted(*(Shot(PICTURE) for _ in range(100)))
    source.open()
    assert source.read(1.0) is not None
    source.close()
    assert source.closed
