"""A camera that OpenCV opens: a device index or path, or an RTSP or HTTP URL.

OpenCV blocks while it opens and reads, so a thread does both and hands frames over a short queue. A frame that comes
while the queue is full is a trigger all the same: it is counted with the problem OVERLOAD, not dropped. A camera that
stops giving frames (cable pulled, server gone) is a SourceError; the runner then opens it again.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from line_worker.config import without_credentials
from line_worker.errors import SourceError
from line_worker.source import Captured
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.config import CameraSource

QUEUE_FRAMES = 4
ENOUGH = 2  # pictures in a row that come as they are taken: the stream is live
QUEUE_TRIGGERS = 4096  # with this many unread triggers nobody reads any more


def shown(device: int | str) -> str:
    """Return `device` for messages and logs, without the user name and password of a URL."""
    return without_credentials(str(device)) if "://" in str(device) else f"camera {device}"


class CameraFrames:
    """See the module's text."""

    patient = False
    finished = False

    def __init__(self, config: CameraSource) -> None:
        self._config = config
        self._grabber: Grabber | None = None

    def open(self) -> None:
        """Connect and wait for the first frame; SourceError when none comes within twice the time-out."""
        self.close()
        self._grabber = Grabber(self._config)
        self._grabber.start()
        problem = self._grabber.first_frame(2 * self._config.timeout_ms / 1000)
        if problem:
            self.close()
            raise SourceError(problem)

    def read(self, timeout_s: float) -> Captured | None:
        """Return the next frame; SourceError when the camera has stopped giving any."""
        return None if self._grabber is None else self._grabber.take(timeout_s)

    def close(self) -> None:
        """Disconnect; a thread that hangs in OpenCV is left behind and ends by itself."""
        if self._grabber is not None:
            self._grabber.stop(self._config.timeout_ms / 1000)
            self._grabber = None


class Grabber(threading.Thread):
    """Owns the OpenCV capture from opening to release."""

    def __init__(self, config: CameraSource) -> None:
        super().__init__(name="camera", daemon=True)
        self._config, self._shown = config, shown(config.device)
        self._changed = threading.Condition()
        self._queue: deque[Captured] = deque()
        self._pictures = 0  # in the queue
        self._count = 0
        self._last = time.monotonic()
        self._problem = ""
        self._stopping = False

    # ---- the reader's side --------------------------------------------------------------------------------------

    def first_frame(self, timeout_s: float) -> str:
        """Return "" once a frame has come, otherwise what is wrong."""
        with self._changed:
            self._changed.wait_for(lambda: self._count or self._problem, timeout_s)
            if self._count:
                return ""
            return self._problem or self._trouble(f"gave no frame within {timeout_s:.1f} s")

    def take(self, timeout_s: float) -> Captured | None:
        """Return the oldest waiting trigger; SourceError when none waits and none will come."""
        with self._changed:
            if self._changed.wait_for(lambda: self._queue or self._problem, timeout_s) and self._queue:
                captured = self._queue.popleft()
                self._pictures -= captured.pixels is not None
                return captured
            silent_s = time.monotonic() - self._last
            if not self._problem and silent_s > self._config.timeout_ms / 1000:
                self._problem = self._trouble(f"has given no frame for {silent_s:.1f} s")
            if self._problem:
                raise SourceError(self._problem)
            return None

    def stop(self, timeout_s: float) -> None:
        """Ask the thread to end and wait for it, within bounds."""
        self._stopping = True
        self.join(timeout_s)

    # ---- the thread ---------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Open, read until told to stop or until the camera fails, release."""
        import cv2

        try:
            capture = _open(self._config)
            try:
                self._read_all(capture)
            finally:
                capture.release()
        except (cv2.error, SourceError) as error:
            self._fail(str(error) if isinstance(error, SourceError) else self._trouble(f"failed ({error})"))

    def _read_all(self, capture: Any) -> None:
        self._skip_backlog(capture)
        due = -math.inf
        period = 1 / self._config.rate if self._config.rate else 0.0
        while not self._stopping:
            if not capture.grab():
                raise SourceError(self._trouble("has stopped giving frames"))
            now = self._last = time.monotonic()
            if now < due:  # more than `rate` asks for: not a trigger
                continue
            due = due + period if now - due < period else now + period
            self._offer(capture, now)

    def _skip_backlog(self, capture: Any) -> None:
        """Leave out what an RTSP stream showed while it was being opened: pictures of parts that are long gone."""
        import cv2

        if not str(self._config.device).startswith("rtsp"):
            return
        backlog = Backlog()
        while not self._stopping and capture.grab():
            if not backlog.holds(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, time.monotonic()):
                return

    def _offer(self, capture: Any, now: float) -> None:
        room = self._pictures < QUEUE_FRAMES
        pixels = self._picture(capture) if room else None
        problem = Reason.OVERLOAD if not room else Reason.NONE if pixels is not None else Reason.DECODE
        with self._changed:
            if len(self._queue) >= QUEUE_TRIGGERS:
                raise SourceError(self._trouble(f"is not read: {QUEUE_TRIGGERS} triggers wait"))
            self._queue.append(Captured(pixels, now, problem, trigger=self._count))
            self._pictures += pixels is not None
            self._count += 1
            self._changed.notify_all()

    def _picture(self, capture: Any) -> NDArray[Any] | None:
        import cv2
        import numpy as np

        found, image = capture.retrieve()
        if not found:
            return None
        if self._config.colour == "gray" and image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        elif self._config.colour == "bgr" and image.ndim == 2:
            image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR)
        return np.ascontiguousarray(image)

    def _fail(self, problem: str) -> None:
        with self._changed:
            self._problem = problem
            self._changed.notify_all()

    def _trouble(self, what: str) -> str:
        return f"{self._shown}: {what}; parts cannot be seen; check its power, cable and address, it is tried again"


class Backlog:
    """Tells pictures that have waited in a stream from those that come as they are taken. Pure."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None
        self._live = 0  # in a row

    def holds(self, taken_s: float, now: float) -> bool:
        """Whether a picture, taken at `taken_s` of the stream's own clock, has waited.

        One that has waited comes much sooner after the one before than it was taken after it. Two in a row that did not
        are live: a stream's first pictures may bear the same time.
        """
        last, self._last = self._last, (taken_s, now)
        waited = last is None or now - last[1] < (taken_s - last[0]) / 2
        self._live = 0 if waited else self._live + 1
        return self._live < ENOUGH


def _open(config: CameraSource) -> Any:
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # what goes wrong is told once, by us
    import cv2

    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    if "://" in str(config.device):
        limit = round(config.timeout_ms)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 2 * limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
        capture = cv2.VideoCapture(str(config.device), cv2.CAP_FFMPEG, limits)
    else:
        device = str(config.device)
        capture = cv2.VideoCapture(int(device) if device.isdigit() else device)
    if not capture.isOpened():
        raise SourceError(
            f"{shown(config.device)}: cannot be opened; parts cannot be seen; check its power, cable and address, and "
            "that no other program uses it; it is tried again"
        )
    return capture
