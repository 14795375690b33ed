"""What one does with recordings besides replaying them: look, check, cut, and take their pictures out.

Nothing here changes a recording; `cut` and `export` write anew, and never over anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from line_worker.errors import ConfigError, RecordingError
from line_worker.images import save_png
from line_worker.wire.messages import Outcome
from line_worker.wire.recording import RecordedFrame, Trigger, read_recording
from line_worker.wire.recording_writer import RecordingWriter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.wire.rosimage import Compression

# where `export` puts a part: what passed can be learned from, all else is for people and tests
FOLDERS = {"PASS": "train/good", "FAIL": "test/fail", "NO_DECISION": "test/no_decision", "": "test/without_outcome"}


class Camera(NamedTuple):
    """What a recording holds of a camera; first and last are Unix seconds of triggers."""

    frames: int
    pictures: int
    missing: dict[str, int]  # why -> how many
    first: float
    last: float


class Info(NamedTuple):
    """What a recording holds."""

    path: str
    line: str
    version: str
    created: float
    finished: bool
    bytes: int
    compression: str  # of the pictures
    cameras: dict[str, Camera]
    outcomes: dict[str, int]  # verdict -> how many
    bundles: list[str]
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {**self._asdict(), "cameras": {name: camera._asdict() for name, camera in self.cameras.items()}}


def look(path: Path) -> Info:
    """Read the whole recording and return what it holds; `problems` names all that is damaged or lost."""
    recording = read_recording(path)
    cameras: dict[str, list[_Seen]] = {}
    outcomes: Counter[str] = Counter()
    for item in recording:
        if isinstance(item, Outcome):
            outcomes[item.verdict] += 1
        else:
            seen = _Seen(item.pixels is not None, item.missing, item.at)
            cameras.setdefault(item.frame.key.camera, []).append(seen)
    meta = recording.meta
    return Info(
        str(path),
        meta.line,
        meta.version,
        meta.created,
        recording.finished,
        path.stat().st_size,
        recording.compression,
        {name: _camera(frames) for name, frames in sorted(cameras.items())},
        dict(outcomes),
        sorted(recording.bundles),
        recording.problems,
    )


class _Seen(NamedTuple):
    """A frame without its pixels."""

    picture: bool
    missing: str
    at: float


def _camera(frames: list[_Seen]) -> Camera:
    missing = Counter(frame.missing for frame in frames if frame.missing)
    times = [frame.at for frame in frames]
    return Camera(len(frames), sum(frame.picture for frame in frames), dict(missing), min(times), max(times))


class Span(NamedTuple):
    """Which triggers: from start to end, Unix seconds, of some cameras (none named: all)."""

    start: float = float("-inf")
    end: float = float("inf")
    cameras: Collection[str] = ()

    def holds(self, frame: RecordedFrame) -> bool:
        """Whether the frame is one of them."""
        return self.start <= frame.at <= self.end and (not self.cameras or frame.frame.key.camera in self.cameras)


def span(info: Info, start: str, end: str, cameras: Collection[str]) -> Span:
    """Return the span of texts: seconds from the recording's first trigger, or ISO times; "" is open.

    Raises ConfigError for what is neither, and for cameras that are not there.
    """
    first = min((camera.first for camera in info.cameras.values()), default=0.0)
    there = ", ".join(info.cameras) or "none"
    problems = [f"no camera {name!r}; there are {there}" for name in sorted({*cameras} - {*info.cameras})]
    ends = []
    for text, default in ((start, float("-inf")), (end, float("inf"))):
        try:
            ends.append(_moment(text, first) if text else default)
        except ValueError:
            problems.append(f"{text!r} is no time: give seconds from the first part, or 2026-11-24T08:15:00+01:00")
    if problems:
        raise ConfigError(info.path, problems)
    return Span(ends[0], ends[1], cameras)


def _moment(text: str, first: float) -> float:
    try:
        return first + float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def cut(source: Path, out: Path, wanted: Span, compression: Compression | None = None) -> tuple[int, int]:
    """Write the frames of a span and their outcomes to a new recording; returns how many of each.

    Pictures stay compressed as they are, unless `compression` says otherwise.
    Raises RecordingError when `source` cannot be read, nothing of it is wanted, or `out` cannot be written.
    """
    recording = read_recording(source)
    kept = {item.frame.key for item in recording if isinstance(item, RecordedFrame) and wanted.holds(item)}
    if not kept:
        raise RecordingError(f"{source}: no part of it lies in that span; nothing was written")
    writer, at_ns = RecordingWriter(out, recording.meta, compression or recording.compression), 0
    for item in recording:
        key, seconds = (item.key, item.wall) if isinstance(item, Outcome) else (item.frame.key, item.at)
        if key not in kept:
            continue
        at_ns = max(at_ns + 1, round(seconds * 1e9))  # what comes later in a file has a later time
        if isinstance(item, Outcome):
            writer.outcome(item, at_ns)
        else:
            writer.frame(Trigger(item.frame, item.missing), item.pixels, at_ns, round(item.at * 1e9))
    writer.close()
    return writer.frames, writer.outcomes


def export(source: Path, folder: Path, wanted: Span) -> Counter[str]:
    """Write pictures as PNG files into an MVTec-style folder, by verdict; returns how many went where.

    Raises RecordingError when there is none or one cannot be written, ConfigError when `folder` is not empty.
    """
    _check_empty(folder)
    verdicts, written = _verdicts(source), Counter[str]()
    for frame, pixels in _pictures(source, wanted):
        key = frame.frame.key
        place = FOLDERS[verdicts.get(str(key), "")]
        _save(folder / place / f"{key.camera}_{key.epoch}_{key.seq:06d}.png", pixels)
        written[place] += 1
    if not written:
        raise RecordingError(f"{source}: no picture of it lies in that span; nothing was written")
    return written


def _check_empty(folder: Path) -> None:
    try:
        problem = "holds files already" if folder.exists() and any(folder.iterdir()) else ""
    except OSError as error:
        problem = f"cannot be used ({error.strerror})"
    if problem:
        raise ConfigError(str(folder), [f"{problem}; give a folder that does not exist or is empty"])


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write a picture; its folder is made for it, so that there is none without a picture."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_png(path, pixels)
    except OSError as error:
        raise RecordingError(
            f"{path}: cannot be written ({error.strerror}); the export ends here; "
            "check the disk's space and the folder's permissions, or give another folder"
        ) from error


def film(source: Path, out: Path, camera: str, rate: float, wanted: Span) -> int:
    """Write a camera's pictures as a video, with the verdict on each; returns how many frames.

    Raises RecordingError when there is none or no video can be written, ConfigError when `out` is there.
    """
    import cv2

    from line_worker.vision.crop import to_bgr

    if out.exists():
        raise ConfigError(str(out), ["is there already and is not overwritten"])
    verdicts, count, writer = _verdicts(source), 0, None
    for frame, pixels in _pictures(source, wanted._replace(cameras=(camera,))):
        picture = to_bgr(pixels)
        if writer is None:
            size = picture.shape[1], picture.shape[0]
            writer = cv2.VideoWriter(str(out), cv2.VideoWriter.fourcc(*"mp4v"), rate, size)
            if not writer.isOpened():
                raise RecordingError(f"{out}: no video can be written here; give a name that ends in .mp4")
        if (picture.shape[1], picture.shape[0]) != size:
            continue  # a video has one size; `export` keeps them all
        writer.write(_labelled(picture, f"{frame.frame.key} {verdicts.get(str(frame.frame.key), '')}"))
        count += 1
    if writer is None:
        raise RecordingError(f"{source}: no picture of {camera} lies in that span; nothing was written")
    writer.release()
    return count


def _labelled(picture: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    import cv2

    scale = max(0.4, picture.shape[1] / 1200)
    for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(picture, words, (8, round(30 * scale)), cv2.FONT_HERSHEY_SIMPLEX, scale, colour, thick, cv2.LINE_AA)
    return picture


def _verdicts(source: Path) -> dict[str, str]:
    """Return the verdict of every part that has one, by its key in words."""
    return {str(item.key): item.verdict for item in read_recording(source) if isinstance(item, Outcome)}


def _pictures(source: Path, wanted: Span) -> Iterator[tuple[RecordedFrame, NDArray[np.uint8]]]:
    for item in read_recording(source):
        if isinstance(item, RecordedFrame) and item.pixels is not None and wanted.holds(item):
            yield item, item.pixels
