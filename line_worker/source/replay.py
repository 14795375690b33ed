"""A camera's frames out of a recording, in their original order; `trigger` is the original sequence number.

What the recording lacks is skipped here (the `replay` command reports it); a frame that never had a picture for a
reason of its own, such as an image that could not be decoded, comes again as it was.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from line_worker.errors import RecordingError, SourceError
from line_worker.source.pacing import PacedSource, Shot
from line_worker.verdicts import Reason
from line_worker.wire.recording import RecordedFrame, in_order, read_recording

if TYPE_CHECKING:
    from line_worker.config import ReplaySource


class ReplayFrames(PacedSource):
    """At `rate = "max"` the source is patient: the line takes the next frame when it has room for it."""

    ahead = 4

    def __init__(self, config: ReplaySource, camera: str) -> None:
        super().__init__()
        self._config, self._camera = config, camera
        self.patient = config.rate == "max"

    def open(self) -> None:
        """Open the recording; SourceError when it cannot be read or holds no frame of this camera."""
        try:
            frames = in_order(read_recording(self._config.path), self._camera)
            first = next(frames, None)
        except RecordingError as error:
            raise SourceError(str(error)) from error
        if first is None:
            raise SourceError(
                f"{self._config.path}: holds no frame of camera {self._camera!r}; nothing is replayed; "
                "name the camera as it was called when it was recorded"
            )
        super().open()

    def shots(self) -> Generator[Shot]:
        """Yield the recorded frames."""
        start: float | None = None
        for number, frame in enumerate(in_order(read_recording(self._config.path), self._camera)):
            start = frame.at if start is None else start
            yield self._shot(frame)._replace(offset=self._offset(number, frame.at - start))

    def _offset(self, number: int, recorded_s: float) -> float | None:
        if self._config.rate == "max":
            return None
        return recorded_s if self._config.rate == "recorded" else number / self._config.rate

    @staticmethod
    def _shot(frame: RecordedFrame) -> Shot:
        problem = Reason(frame.frame.problem) if frame.pixels is None else Reason.NONE
        return Shot(frame.pixels, part_id=frame.frame.part_id, trigger=frame.frame.key.seq, problem=problem)
