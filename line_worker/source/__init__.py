"""Where frames come from. A source is opened, read trigger by trigger, and closed; `run` announces what it reads.

The contract, obeyed by cameras, files and drawn parts alike and tested on each of them:
- `open` raises SourceError with what to do; after an error the runner closes, waits (backoff) and opens again.
- `read` waits at most `timeout_s` and returns None when no trigger came. It never blocks longer, and every trigger
  it returns counts, with pixels or with the reason why there are none: nothing is dropped silently.
- pixels are (H, W) gray or (H, W, 3) BGR, uint8 or uint16, C-contiguous, and not touched again by the source; where it
  was given a `place` to make them in, until the next `read`.
- `finished` turns true after the last frame of a source that ends.
- `fire`, where a source has it, makes a camera that waits for that (`fires`) take a picture now.
- `on_call` sources (files, drawn parts) that are set so give their next picture when they are asked, not at a rate.
- `patient` sources (files without a clock) are asked for the next frame only when the line has room for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.config import BaslerSource, Camera, GenicamSource, GigeSource
    from line_worker.source.pixels import Place


LIVE = ("camera", "genicam", "gige", "basler")  # kinds that give frames whether or not the line runs


@dataclass(frozen=True, slots=True)
class Captured:
    """One trigger: its picture, or why there is none. `at` is time.monotonic() in seconds when it was taken."""

    pixels: NDArray[Any] | None
    at: float
    problem: Reason = Reason.NONE
    part_id: str = ""
    trigger: int = 0


class Source(Protocol):
    """See the module's text."""

    patient: bool
    finished: bool

    def open(self) -> None:
        """Make ready to read; SourceError when that is impossible now."""

    def read(self, timeout_s: float) -> Captured | None:
        """Return the next trigger, or None when none came in time."""

    def close(self) -> None:
        """Let go of everything; may be called twice, and before `open`."""


@runtime_checkable
class Placing(Protocol):
    """A source that copies pictures out of its camera's buffers: straight to where `place(shape, dtype)` gives room."""

    place: Place


@runtime_checkable
class Fireable(Protocol):
    """A source whose camera can be told to take a picture."""

    @property
    def fires(self) -> bool:
        """Whether it waits for that."""

    def fire(self) -> None:
        """Take one now; SourceError when the camera does not."""


def make_source(camera: Camera) -> Source:
    """Return the source that `camera` names; nothing is opened yet."""
    source = camera.source
    if source.kind == "folder":
        from line_worker.source.folder import FolderFrames

        return FolderFrames(source)
    if source.kind == "video":
        from line_worker.source.video import VideoFrames

        return VideoFrames(source)
    if source.kind == "camera":
        from line_worker.source.camera import CameraFrames

        return CameraFrames(source)
    if source.kind == "genicam" or source.kind == "gige" or source.kind == "basler":
        from line_worker.source.nodes import trigger_nodes

        nodes = trigger_nodes(camera.trigger) | source.nodes  # what is set by hand counts
        return _with_nodes(source.model_copy(update={"nodes": nodes}))
    if source.kind == "replay":
        from line_worker.source.replay import ReplayFrames

        return ReplayFrames(source, camera.name)
    from line_worker.source.synthetic import SyntheticFrames

    return SyntheticFrames(source)


def _with_nodes(source: GenicamSource | GigeSource | BaslerSource) -> Source:
    if source.kind == "gige":
        from line_worker.source.gige import GigeFrames

        return GigeFrames(source)
    if source.kind == "basler":
        from line_worker.source.basler import BaslerFrames

        return BaslerFrames(source)
    from line_worker.source.genicam import GenicamFrames

    return GenicamFrames(source)
