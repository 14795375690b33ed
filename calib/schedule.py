"""Networks side by side and in step: the same number of steps for all, within the time there is.

The limit comes from what fold models say about good images that they have not seen, so they must be as well trained as
the final one. All networks therefore take the same number of steps on the same schedule: each is one task of one thread
at a time, which on a CPU is faster than many threads on one, and gives the same bits every time. The number of steps
follows from the time allowed and a nominal speed, not from the clock, so that a seed means something; only a machine
too slow for it shortens all of them alike, never below STEPS_MIN, and says so.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch

RATE, RATE_END = 2e-3, 1e-5  # AdamW: cosine from RATE to RATE_END after a warm-up
ROUND = 5  # steps that every network takes before the clock is looked at
STEPS_MIN = 40


class Run(Protocol):
    """One network on its way."""

    def advance(self, start: int, stop: int, planned: int) -> None:
        """Take the steps from `start` to `stop` of a schedule of `planned`."""

    def settle(self) -> None:
        """Make the network ready for use."""


class Taken(NamedTuple):
    """The steps that each network took, and whether the clock had a say in that."""

    steps: int
    cut: bool


def run_together(
    runs: Sequence[Run],
    steps: int,
    deadline: float,
    threads: int,
    progress: Callable[[float], None] = lambda _: None,
) -> Taken:
    """Advance all networks by `steps`, or by fewer when they would not be done at `deadline` (time.monotonic())."""
    started = time.monotonic()
    done, planned, cut = 0, steps, False
    with workers(threads) as pool:
        while done < planned:
            until = min(done + ROUND, planned)
            for finished in [pool.submit(run.advance, done, until, planned) for run in runs]:
                finished.result()
            done = until
            planned = min(steps, max(_affordable(done, started, deadline), STEPS_MIN))  # a slow minute may pass again
            cut |= planned < steps
            progress(done / planned)
        list(pool.map(lambda run: run.settle(), runs))
    return Taken(done, cut)


def _affordable(done: int, started: float, deadline: float) -> int:
    """Return the steps that will have been taken by `deadline` at the speed so far."""
    now = time.monotonic()
    if math.isinf(deadline):
        return sys.maxsize
    per_step = (now - started) / done
    return done + max(0, int((deadline - now) / per_step))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch use one thread for each operation, so that several tasks share the processor and bits do not vary."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def workers(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Give a pool in which `threads` tasks run side by side, each with one thread of torch's."""
    with single_threaded(), ThreadPoolExecutor(threads) as pool:
        yield pool


def learning_rate(step: int, planned: int, warm_up: int) -> float:
    """Return the rate of a step: a short warm-up, then half a cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * step / planned))
    return min(1.0, (step + 1) / warm_up) * (RATE * cosine + RATE_END)
