"""What cameras have in common that number their own frames: a number that is skipped is a trigger without a picture.

Frames that the camera numbered and that never came, and frames that came incomplete, are gaps with a cause, never
pictures. A triggered camera may be silent; one that may not be is opened again.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from line_worker.errors import SourceError
from line_worker.source import Captured
from line_worker.source.nodes import Nodes, Value, first_line, set_nodes, waits_unasked
from line_worker.source.pixels import Place
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = structlog.get_logger()

LAST_BLOCK = 65535  # GigE Vision 1 counts frames from 1 to this, then again from 1
MOST_LOST = 10_000  # a larger jump in the numbers is another camera's counting, not loss


class Numbers:
    """The camera's own numbers of its frames, and what is missing between them."""

    def __init__(self) -> None:
        self._last: int | None = None

    def missing_before(self, number: int) -> list[int]:
        """Return the numbers between the last frame's and this one's."""
        last, self._last = self._last, number
        if last is None or number == last:
            return []
        step = number - last if number > last else number - last + LAST_BLOCK
        missing = range(last + 1, last + step) if 0 < step <= MOST_LOST else ()
        return [one if one <= LAST_BLOCK or number > last else one - LAST_BLOCK for one in missing]


class NumberedFrames(ABC):
    """See the module's text. A kind of camera says how it is started, asked for a frame, and stopped.

    `called`: the camera in words. `timeout_ms`: how long it may be silent, 0: for ever. `wanted`: its nodes.
    """

    patient = False
    finished = False

    def __init__(self, called: str, timeout_ms: float, wanted: Mapping[str, Value]) -> None:
        self._called, self._timeout_ms, self._wanted = called, timeout_ms, wanted
        self.place: Place = np.empty  # where pictures are made
        self._nodes: Nodes | None = None
        self._waiting: deque[Captured] = deque()
        self._running, self._last_at, self._numbers = False, 0.0, Numbers()

    def open(self) -> None:
        """Find the camera, set its nodes, start it; SourceError when that is impossible now."""
        self.close()
        with self._told("cannot be opened"):
            self._start()
        self._running, self._numbers, self._last_at = True, Numbers(), time.monotonic()

    @property
    def fires(self) -> bool:
        """Whether the camera waits for its software trigger."""
        return self._wanted.get("TriggerSource") == "Software"

    def fire(self) -> None:
        """Take a picture; SourceError when the camera does not take its trigger."""
        if self._running and self._nodes is not None:
            with self._told("does not take its trigger"):
                self._nodes.put("TriggerSoftware", True)

    def read(self, timeout_s: float) -> Captured | None:
        """Return the next trigger; SourceError when the camera fails, or is silent for longer than it may be."""
        if not self._running:
            return None
        if not self._waiting:
            with self._told("has failed"):
                self._fetch(timeout_s)
        if self._waiting:
            self._last_at = self._waiting[0].at
            return self._waiting.popleft()
        if self._timeout_ms and self._silent_s() > self._timeout_ms / 1000:
            raise self._trouble(f"has given no frame for {self._silent_s():.1f} s")
        return None

    def close(self) -> None:
        """Stop and let go of the camera."""
        self._running = False
        self._stop()
        self._waiting.clear()

    # ---- what a kind of camera does -----------------------------------------------------------------------------

    @abstractmethod
    def _start(self) -> None:
        """Find the camera, set its nodes and start it."""

    @abstractmethod
    def _fetch(self, timeout_s: float) -> None:
        """Wait for a frame, and call `_arrived` for it."""

    @abstractmethod
    def _stop(self) -> None:
        """Let go of everything; also after a `_start` that failed half-way, and more than once."""

    @abstractmethod
    def _errors(self) -> tuple[type[Exception], ...]:
        """Return what its library raises."""

    # ---- what it uses -------------------------------------------------------------------------------------------

    def _set(self, nodes: Nodes) -> None:
        """Set the nodes that are wanted; called before the camera is started."""
        self._nodes = nodes
        set_nodes(nodes, self._wanted)
        if waits_unasked(nodes, self._wanted):
            what = "the camera waits for a trigger; if it should not: nodes.TriggerMode = 'Off'"
            log.warning(what, camera=self._called)
        if not str(self._wanted.get("PixelFormat")).startswith("Mono"):
            import cv2  # noqa: F401 - colours need it: loaded with the first picture, it would cost the next ones

    def _arrived(
        self, number: int, pixels: NDArray[Any] | None, problem: Reason = Reason.NONE, announced: int = 0
    ) -> None:
        """Queue the frame that the camera gave this number, and a gap for each one before it that never came.

        `announced` of those have been announced without their number.
        """
        now = time.monotonic()
        for missing in self._numbers.missing_before(number)[announced:]:
            self._waiting.append(Captured(None, now, Reason.NO_FRAME, trigger=missing % 2**32))
        self._waiting.append(Captured(pixels, now, problem, trigger=number % 2**32))

    def _silent_s(self) -> float:
        return time.monotonic() - self._last_at

    def _trouble(self, what: str) -> SourceError:
        return SourceError(
            f"{self._called}: {what}; parts cannot be seen; check its power and cable, and that no other program has it"
        )

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what the camera's library raises into words."""
        try:
            yield
        except SourceError:
            raise
        except self._errors() as error:
            raise self._trouble(f"{what} ({first_line(error)})") from error
