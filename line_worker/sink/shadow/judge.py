"""The thread in which the second bundle judges, one picture after another.

It loads and self-tests its bundle by itself; one that cannot be used is tried again now and then, because the remedy is
to copy it again. `put` and `take` never wait. An error that nobody expected ends the thread, and `poll` of the sink
then ends the process, which is started again.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import structlog

from line_worker.errors import LineWorkerError
from line_worker.sink.shadow.comparison import Judgement
from line_worker.verdicts import Reason, verdict_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.wire.messages import Outcome

log = structlog.get_logger()

RETRY_S = 10.0


class Bundle(Protocol):
    """A loaded, self-tested bundle; `sha` names it."""

    sha: str

    def judge(self, image: NDArray[Any]) -> tuple[Judgement, Callable[[], bytes]]:
        """Return what it says of a picture, and what draws that as a PNG file."""


class Judged(NamedTuple):
    """A part that both have judged; `picture` is a PNG file where they disagree, else empty."""

    outcome: Outcome
    judgement: Judgement
    picture: bytes


class Judge(threading.Thread):
    """See the module's text. `sha` is "" until the bundle is ready; `failure` says why it is not."""

    def __init__(self, load: Callable[[], Bundle], retry_s: float = RETRY_S) -> None:
        super().__init__(name="shadow", daemon=True)  # a device that hangs must not keep the process
        self._load, self._retry_s = load, retry_s
        self._jobs: queue.SimpleQueue[tuple[Outcome, NDArray[Any]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Judged] = queue.SimpleQueue()
        self._closing, self._end = threading.Event(), threading.Event()
        self._taken = self._put = 0
        self.sha = self.failure = ""

    @property
    def waiting(self) -> int:
        """Pictures that it holds."""
        return self._put - self._taken

    def put(self, outcome: Outcome, image: NDArray[Any]) -> None:
        """Have a picture judged."""
        self._put += 1
        self._jobs.put((outcome, image))

    def take(self) -> Iterator[Judged]:
        """Yield what has been judged since the last call."""
        while not self._done.empty():
            self._taken += 1
            yield self._done.get()

    def finish(self, timeout_s: float) -> None:
        """Judge what waits, and end, within `timeout_s`; what is left then is left out."""
        self._closing.set()
        self._jobs.put(None)
        if self.is_alive():
            self.join(timeout_s)
        self._end.set()

    def run(self) -> None:
        """Load, then judge until `finish`."""
        bundle = self._loaded()
        while bundle is not None and (job := self._jobs.get()) is not None and not self._end.is_set():
            self._done.put(_judged(bundle, *job))

    def _loaded(self) -> Bundle | None:
        while not self._closing.is_set():
            try:
                bundle = self._load()
            except LineWorkerError as error:
                if str(error) != self.failure:
                    log.error("the second bundle cannot be used", error=str(error))  # noqa: TRY400 - for the user
                self.failure = str(error)
                self._closing.wait(self._retry_s)
            else:
                self.failure, self.sha = "", bundle.sha
                log.info("the second bundle is ready", bundle=bundle.sha[:12])
                return bundle
        return None


def _judged(bundle: Bundle, outcome: Outcome, image: NDArray[Any]) -> Judged:
    judgement, draw = bundle.judge(image)
    agree = judgement.verdict == verdict_of(Reason(outcome.reason))
    return Judged(outcome, judgement, b"" if agree else draw())
