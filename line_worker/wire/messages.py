"""Every message between processes: a frozen dataclass that knows its bytes.

On the wire a message is two or three parts:

    0  two bytes: protocol version, kind of message
    1  msgpack body (see `codec`)
    2  pixels, only for messages with a `pixels` field (may be empty)

`to_parts` and `from_parts` are inverse; anything else is one `DecodeError`. On their way from the hub the parts are
folded into one (see `folding`). No clock is compared across hosts: a message carries ages and remaining times, never
points in time (`Outcome.wall` is for the record only).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from line_worker.errors import DecodeError
from line_worker.wire import codec
from line_worker.wire.asking import Fire as Fire
from line_worker.wire.asking import Select as Select
from line_worker.wire.asking import Trigger as Trigger
from line_worker.wire.changeover import Adopt as Adopt
from line_worker.wire.changeover import Grown as Grown
from line_worker.wire.changeover import Leave as Leave
from line_worker.wire.changeover import Prepare as Prepare
from line_worker.wire.changeover import Prepared as Prepared
from line_worker.wire.evidence import Outcome as Outcome
from line_worker.wire.evidence import Region as Region
from line_worker.wire.evidence import Result as Result
from line_worker.wire.evidence import View as View
from line_worker.wire.header import DTYPES as DTYPES
from line_worker.wire.header import PLACES as PLACES
from line_worker.wire.header import Frame as Frame
from line_worker.wire.header import FrameKey as FrameKey
from line_worker.wire.header import counted
from line_worker.wire.header import without_picture as without_picture

VERSION = 4  # 2: p-values in Result and Outcome; 3: folded on the way from the hub; 4: triggers, recipes, views, limits


# ---- source -> hub -> worker -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SourceHello:
    """A source starts, or reaches a hub that has restarted: from now on its frames have this epoch."""

    KIND: ClassVar[int] = 1
    camera: str
    epoch: int
    next_seq: int

    def __post_init__(self) -> None:
        counted(self.epoch, self.next_seq)


@dataclass(frozen=True, slots=True)
class SourceAlive:
    """The source's loop turns; `next_seq` shows frames lost at the end, `ready` whether the camera gives frames."""

    KIND: ClassVar[int] = 3
    camera: str
    epoch: int
    next_seq: int
    ready: bool
    detail: str

    def __post_init__(self) -> None:
        counted(self.epoch, self.next_seq)


@dataclass(frozen=True, slots=True)
class SourceBye:
    """The source has announced everything up to `next_seq` and stops."""

    KIND: ClassVar[int] = 4
    camera: str
    epoch: int
    next_seq: int

    def __post_init__(self) -> None:
        counted(self.epoch, self.next_seq)


@dataclass(frozen=True, slots=True)
class FrameDone:
    """These frames are decided and recorded: the source may reuse their slots."""

    KIND: ClassVar[int] = 5
    camera: str
    epoch: int
    seqs: tuple[int, ...]

    def __post_init__(self) -> None:
        counted(self.epoch, *self.seqs)


@dataclass(frozen=True, slots=True)
class HubHello:
    """The hub's greeting and regular sign of life; another `instance` than before means that it has restarted.

    A peer that is not `known` answers with its own hello. `state` is the station's state.
    """

    KIND: ClassVar[int] = 6
    instance: int
    state: int
    known: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """The hub does not take this peer's messages; `why` is for people.

    `old_epoch` asks a source that is still in it to begin a new one; 0 asks for nothing.
    """

    KIND: ClassVar[int] = 7
    why: str
    old_epoch: int


# ---- hub <-> worker --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WorkerHello:
    """A worker is warm and has reproduced its golden images; it can hold `credits` frames.

    `stall_ms` is how long it may compute without reporting progress before it counts as hung.
    """

    KIND: ClassVar[int] = 16
    worker: str
    session: int
    credits: int
    bundle: str
    stall_ms: float
    device: str


@dataclass(frozen=True, slots=True)
class Lease:
    """A frame to score; the answer must carry `lease` and arrive within `slack_ms`.

    With `canary` a copy of it is to be scored on which the worker has painted a defect; there is no hurry. `limit` is
    what its score is to be held against, None: the bundle's own.
    """

    KIND: ClassVar[int] = 17
    lease: int
    attempt: int
    slack_ms: float
    frame: Frame
    pixels: bytes = field(default=b"", repr=False)
    canary: bool = False
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """The worker's compute loop turned: after a batch, or after a proven idle wait."""

    KIND: ClassVar[int] = 19
    session: int
    batches: int


@dataclass(frozen=True, slots=True)
class WorkerBye:
    """The worker has answered what it held and leaves."""

    KIND: ClassVar[int] = 20
    session: int


# ---- hub <-> sink ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SinkHello:
    """A sink is there. `durable` sinks read the outbox; `frames` asks for a copy of every frame as well (recorder)."""

    KIND: ClassVar[int] = 32
    sink: str
    durable: bool
    frames: bool


@dataclass(frozen=True, slots=True)
class SinkAck:
    """The sink has everything up to `row` for good."""

    KIND: ClassVar[int] = 34
    sink: str
    row: int


@dataclass(frozen=True, slots=True)
class SinkState:
    """Whether the sink reaches its other side, in words."""

    KIND: ClassVar[int] = 35
    sink: str
    reachable: bool
    detail: str


@dataclass(frozen=True, slots=True)
class HubState:
    """Sent by the hub's main loop at least every 100 ms: a PLC's heartbeat is driven by it and freezes with it.

    `warnings` are for people and change no verdict, such as scores that drift; `stop_line` is a StopCause.
    `recipe` is the number of the bundle that judges, 0 without one; `recipe_state` what became of the one wanted.
    """

    KIND: ClassVar[int] = 36
    instance: int
    beat: int
    state: int
    cause: str
    bundle: str
    open_parts: int
    workers: int
    counts: dict[str, int]
    warnings: tuple[str, ...] = ()
    stop_line: int = 0
    recipe: int = 0
    recipe_state: int = 0


@dataclass(frozen=True, slots=True)
class Tap:
    """A copy of an announced frame for a recorder."""

    KIND: ClassVar[int] = 37
    frame: Frame
    pixels: bytes = field(default=b"", repr=False)


# ---- worker -> store -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Crop:
    """A picture for the store, sent after the result: `name` is e.g. `overlay` or `crop-0`, `pixels` a PNG file."""

    KIND: ClassVar[int] = 48
    key: FrameKey
    name: str
    pixels: bytes = field(default=b"", repr=False)


Message = (
    SourceHello
    | Frame
    | SourceAlive
    | SourceBye
    | FrameDone
    | HubHello
    | Refused
    | Fire
    | WorkerHello
    | Lease
    | Result
    | Progress
    | Prepare
    | Prepared
    | Adopt
    | Grown
    | Leave
    | WorkerBye
    | SinkHello
    | Outcome
    | SinkAck
    | SinkState
    | Trigger
    | Select
    | HubState
    | Tap
    | Crop
)
KINDS: dict[int, type[Message]] = {cls.KIND: cls for cls in Message.__args__}


def to_parts(message: Message) -> list[bytes]:
    """Return the message's parts; see the module's text for their numbers."""
    parts = [bytes((VERSION, message.KIND)), codec.pack(message)]
    if hasattr(message, "pixels"):
        parts.append(message.pixels)
    return parts


def from_parts(parts: list[bytes]) -> Message:
    """Return the message in `parts`.

    Raises:
        DecodeError: wrong number of parts, unknown version or kind, or a body that does not fit.
    """
    if len(parts) < 2 or len(parts[0]) != 2:
        raise DecodeError(f"message of {len(parts)} parts: expected a two-byte head and a body")
    version, kind = parts[0]
    if version != VERSION:
        raise DecodeError(f"message of protocol version {version}: this side speaks {VERSION}")
    cls = KINDS.get(kind)
    if cls is None:
        raise DecodeError(f"message of unknown kind {kind}")
    beside = {"pixels": parts[2]} if len(parts) == 3 else {}
    if len(parts) > 3 or bool(beside) != ("pixels" in cls.__dataclass_fields__):
        raise DecodeError(f"{cls.__name__}: {len(parts)} parts")
    return codec.unpack(cls, parts[1], **beside)


def damaged_frame(parts: list[bytes]) -> Frame | None:
    """Return what is left of an announcement that `from_parts` refuses: its key, if that can be read, and HEADER."""
    if len(parts) < 2 or len(parts[0]) != 2 or parts[0][1] != Frame.KIND:
        return None
    try:
        return without_picture(codec.unpack_field(Frame, parts[1], "key", FrameKey))
    except DecodeError:
        return None
