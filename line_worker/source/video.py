"""Frames of a video file, at its own rate or another one, once or looped.

A file that ends before the number of frames that its header promises was cut: the missing end is one trigger without
a picture (NO_FRAME) whose part id names it, so that the books show it.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from line_worker.errors import SourceError
from line_worker.source.pacing import PacedSource, Shot
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.config import VideoSource

FALLBACK_RATE = 25.0
ROUNDING = 2  # containers without a frame count estimate it from the duration, and err by one


class VideoFrames(PacedSource):
    """See the module's text; `trigger` is the frame's number in the file."""

    ahead = 3

    def __init__(self, config: VideoSource) -> None:
        super().__init__()
        self._config = config
        self._rate = config.rate or FALLBACK_RATE

    def open(self) -> None:
        """Open the file; SourceError when OpenCV cannot read it."""
        import cv2

        video = self._video()
        self._rate = self._config.rate or video.get(cv2.CAP_PROP_FPS) or FALLBACK_RATE
        video.release()
        super().open()

    def shots(self) -> Generator[Shot]:
        """Yield the video's frames in order."""
        clock = itertools.count()
        while True:
            for shot in self._once():
                yield shot._replace(offset=next(clock) / self._rate)
            if not self._config.loop:
                return

    def _once(self) -> Generator[Shot]:
        import cv2

        video, name, number = self._video(), self._config.path.name, 0
        promised = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        try:
            while (pixels := self._next(video)) is not None:
                yield Shot(pixels, part_id=f"{name}:{number}", trigger=number)
                number += 1
        finally:
            video.release()
        if promised - number >= ROUNDING:
            missing = f"{name}:{number}-{promised - 1}"
            yield Shot(None, part_id=missing, trigger=number, problem=Reason.NO_FRAME)

    def _next(self, video: Any) -> NDArray[Any] | None:
        import cv2

        found, image = video.read()
        if not found:
            return None
        pixels: NDArray[Any] = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if self._config.colour == "gray" else image
        return pixels

    def _video(self) -> Any:
        import cv2

        video = cv2.VideoCapture(str(self._config.path))
        if not video.isOpened():
            why = "cannot be read as a video" if self._config.path.is_file() else "is not there"
            raise SourceError(
                f"{self._config.path}: {why}; no frames come from it; "
                "check the path, or convert the file (for example to MJPEG in AVI)"
            )
        return video
