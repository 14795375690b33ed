"""The second bundle itself: the one module of a sink that computes, loaded by the shadow's thread alone.

The thread, and those that torch starts from it, run only when nobody else wants the processor (unless `give_way` is
off), and when memory is short this process is the first to go: the workers beside it must not feel it.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from line_worker.bundle import Bundle
from line_worker.sink.shadow.comparison import Judgement

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.config import ShadowSink

OOM_SCORE, FIRST_TO_GO = Path("/proc/self/oom_score_adj"), "1000"
AUTOGROUP, LEAST = Path("/proc/self/autogroup"), "19"


class SecondBundle:
    """The bundle of `sink`, which has reproduced its golden images here; `sha` names it.

    Raises:
        BundleError: it is damaged, of another version, or does not reproduce its golden images.
        ConfigError: the device or runtime is not here.
    """

    def __init__(self, sink: ShadowSink) -> None:
        if sink.give_way:
            step_back()
        bundle = Bundle.load(sink.bundle)  # a damaged one costs no more than reading it
        import torch

        from line_worker.selftest import self_tested

        torch.set_num_threads(sink.threads)
        self.sha = bundle.sha
        self._inspection = self_tested(bundle, sink.device, sink.runtime)

    def judge(self, image: NDArray[Any]) -> tuple[Judgement, Callable[[], bytes]]:
        """Return what the bundle says of `image`, and what draws it."""
        [found] = self._inspection.inspect([image])
        judgement = Judgement(found.reason, _finite(found.score), _finite(found.threshold), _finite(found.p_value))
        return judgement, functools.partial(_drawn, image, found)


def step_back() -> None:
    """Give way: this thread runs when others idle, and this process is killed first when memory is short.

    Where the kernel shares the processor out between sessions first (autogroup), priorities count only within each:
    the supervisor gives every child a session of its own, so this one is lowered as a whole.
    """
    with suppress(OSError):  # not allowed here: it is then an ordinary process with few threads
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            AUTOGROUP.write_text(LEAST)
    with suppress(OSError):
        OOM_SCORE.write_text(FIRST_TO_GO)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _drawn(image: NDArray[Any], found: Any) -> bytes:
    from line_worker.images import encode_png
    from line_worker.vision.crop import overlay

    return encode_png(overlay(image, found))
