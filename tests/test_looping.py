"""The event loop beside a sink: whatever a coroutine does, its caller goes on in bounded time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from line_worker.sink.looping import CLOSE_S, LoopThread


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    running = LoopThread("loop-under-test")
    yield running
    running.close()
    assert "loop-under-test" not in {thread.name for thread in threading.enumerate()}


async def twice(number: int) -> int:
    await asyncio.sleep(0)
    return 2 * number


def test_a_result_and_an_error_come_back(loop: LoopThread) -> None:
    async def fail() -> None:
        raise ValueError("no")

    assert loop.run(twice(4), 1.0) == 8
    with pytest.raises(ValueError, match="no"):
        loop.run(fail(), 1.0)


def test_what_takes_too_long_is_cancelled(loop: LoopThread) -> None:
    with pytest.raises(TimeoutError):
        loop.run(asyncio.sleep(60), 0.05)
    assert loop.run(twice(1), 1.0) == 2


def test_who_waits_for_a_loop_that_is_blocked_goes_on(loop: LoopThread) -> None:
    released = threading.Event()

    async def block() -> None:
        released.wait(20)  # not awaited: nothing else runs on the loop

    start = time.monotonic()
    with pytest.raises(TimeoutError):
        loop.run(block(), 0.05)
    assert time.monotonic() - start < CLOSE_S + 1
    released.set()
    assert loop.run(twice(1), 1.0) == 2


def test_closing_ends_what_runs_and_may_be_repeated(loop: LoopThread) -> None:
    found: list[BaseException] = []

    begun = threading.Event()

    async def sleep() -> None:
        begun.set()
        await asyncio.sleep(60)

    def wait() -> None:
        try:
            loop.run(sleep(), 60.0)
        except ConnectionError as error:
            found.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert begun.wait(5)
    loop.close()
    loop.close()
    waiting.join(5)
    assert [str(error) for error in found] == ["it was closed"]
