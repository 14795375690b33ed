"""Recordings of a line: what is in one, and the reader. (`recording_writer` writes, `mcap_scan` reads damaged files.)

One MCAP file: every camera has a channel of pictures (`/CAMERA/image`, ROS 2 images; `/CAMERA/image/compressed`, PNG)
and one of triggers (`/CAMERA/trigger`, JSON: the announced header, and why its picture is missing if it is);
`/outcomes` holds every outcome as JSON. A picture is written before its trigger, so a trigger completes it. The
metadata record `line-worker` says which line, with what tolerance scores may be compared, and the configuration;
`line-worker.end` closes a file that was finished in good order. Message times are Unix nanoseconds that advance
monotonically; `publish_time` is when the part was triggered.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pydantic
import xxhash
from pydantic import TypeAdapter

from line_worker import __version__
from line_worker.errors import RecordingError
from line_worker.verdicts import Reason
from line_worker.wire.frames import checksum
from line_worker.wire.mcap_scan import McapScan
from line_worker.wire.messages import Frame, Outcome
from line_worker.wire.rosimage import KINDS, Compression

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMAT = 1
START, END = "line-worker", "line-worker.end"  # names of the metadata records
OUTCOMES = "/outcomes"
_COMPRESSIONS = {kind.topic: compression for compression, kind in KINDS.items()}


@dataclass(frozen=True, slots=True)
class RecordingMeta:
    """What a recording says of itself.

    `tolerance`: how far a replayed score may lie from the recorded one, as a share of its threshold. `config`: the
    line's configuration as JSON, without secrets. `created`: Unix time.
    """

    line: str
    created: float
    tolerance: float
    config: str = "{}"
    version: str = __version__
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class Trigger:
    """An announced header; `missing` says why its picture is not in the recording ("" when it is, or never was)."""

    frame: Frame
    missing: str = ""


class RecordedFrame(NamedTuple):
    """A trigger as read back: `pixels` (H, W) or (H, W, 3) read-only, or None; `at` is Unix seconds of the trigger."""

    frame: Frame
    pixels: NDArray[Any] | None
    missing: str
    at: float

    @property
    def replayable(self) -> bool:
        """Whether it can be given again: it has its picture, or never had one for a reason that lies in the picture."""
        unseen = self.frame.problem not in (Reason.NONE, Reason.OVERLOAD)
        return self.pixels is not None or (unseen and not self.missing)


TRIGGER: TypeAdapter[Trigger] = TypeAdapter(Trigger)
OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)
META: TypeAdapter[RecordingMeta] = TypeAdapter(RecordingMeta)


def is_sealed(fields: dict[str, str]) -> bool:
    """Whether `fields` are what `seal` returned."""
    return seal({name: text for name, text in fields.items() if name != "xxh3"}) == fields


def seal(fields: dict[str, str]) -> dict[str, str]:
    """Return `fields` with their checksum: MCAP protects messages with a CRC, but not metadata."""
    return {**fields, "xxh3": xxhash.xxh3_64_hexdigest(json.dumps(fields, sort_keys=True).encode())}


class Recording:
    """An open recording. Iterating yields triggers and outcomes in the order in which they were recorded.

    `problems` says what was lost, in words; it is complete after an iteration. `finished` tells whether the file was
    closed in good order.

    Raises:
        RecordingError: the file cannot be opened or is no recording of ours.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._scan = McapScan(path)
        self.finished = self._scan.whole
        self.meta = self._read_meta()
        self.problems: list[str] = []
        self.bundles: set[str] = set()  # of the outcomes read so far
        self.compression: Compression = "none"  # of the pictures read so far

    def __iter__(self) -> Iterator[RecordedFrame | Outcome]:
        self.problems.clear()
        images: dict[str, tuple[str, NDArray[Any]]] = {}
        read: Counter[str] = Counter()
        for topic, message in self._scan.messages():
            read[topic] += 1
            camera, _, what = topic.strip("/").partition("/")
            try:
                if topic == OUTCOMES:
                    outcome = OUTCOME.validate_json(message.data, strict=True)
                    self.bundles |= {outcome.bundle} - {""}
                    yield outcome
                elif what in _COMPRESSIONS:
                    self.compression = _COMPRESSIONS[what]
                    images[camera] = KINDS[self.compression].decode(message.data)
                elif what == "trigger":
                    trigger = TRIGGER.validate_json(message.data, strict=True)
                    yield _complete(trigger, images.pop(camera, None), message.publish_time / 1e9)
            except ValueError as error:
                self.problems.append(f"{topic} message {message.sequence}: {_first_line(error)}")
        self._tell_losses(read)

    def _tell_losses(self, read: Counter[str]) -> None:
        self.problems += self._scan.problems
        lost = {topic: count - read[topic] for topic, count in self._scan.counts.items() if count > read[topic]}
        self.problems += [f"{count} message(s) of {topic} are lost" for topic, count in lost.items()]
        if not self.finished:
            self.problems.append("the recording was not closed: what came after its end is not known")

    def _read_meta(self) -> RecordingMeta:
        found = [record.metadata for record in self._scan.metadata() if record.name in (START, END)]
        if not found:
            raise RecordingError(f"{self.path}: is no recording of line-worker; nothing was read")
        intact = [fields for fields in found if is_sealed(fields)]  # one at the start, another one at the end
        if not intact:
            raise RecordingError(f"{self.path}: its description is damaged; nothing was read; use another copy")
        try:
            meta = META.validate_json(intact[0]["meta"])
        except pydantic.ValidationError as error:
            raise RecordingError(f"{self.path}: its description cannot be read ({_first_line(error)})") from error
        if meta.format != FORMAT:
            raise RecordingError(
                f"{self.path}: format {meta.format}, this version reads {FORMAT}; use line-worker {meta.version}"
            )
        return meta


def read_recording(path: Path) -> Recording:
    """Open the recording at `path`, finished or cut; RecordingError when it is none."""
    return Recording(path)


def in_order(recording: Recording, camera: str) -> Iterator[RecordedFrame]:
    """Yield the camera's frames that can be replayed, in order, each key once."""
    seen: dict[int, set[int]] = {}
    for item in recording:
        if not isinstance(item, RecordedFrame) or item.frame.key.camera != camera or not item.replayable:
            continue
        seqs = seen.setdefault(item.frame.key.epoch, set())
        if item.frame.key.seq not in seqs:
            seqs.add(item.frame.key.seq)
            yield item


def _complete(trigger: Trigger, image: tuple[str, NDArray[Any]] | None, at: float) -> RecordedFrame:
    """Join a trigger with the picture that came before it, if it is its own and intact."""
    frame = trigger.frame
    if frame.place == "none" or trigger.missing:
        return RecordedFrame(frame, None, trigger.missing, at)
    if image is None or image[0] != str(frame.key):
        return RecordedFrame(frame, None, "its picture is lost from the file", at)
    if image[1].shape != frame.shape or checksum(image[1]) != frame.checksum:
        return RecordedFrame(frame, None, "its picture is damaged", at)
    return RecordedFrame(frame, image[1], "", at)


def header_of(frame: Frame) -> Frame:
    """Return the header as it is recorded: where the pixels were on the way is of no use later."""
    place = "none" if frame.place == "none" else "inline"
    return dataclasses.replace(frame, place=place, ring="", offset=0, generation=0, pixels=b"")


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
