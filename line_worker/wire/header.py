"""A part's name and the header of its picture: what every other message refers to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from line_worker.verdicts import Reason

NO_DEADLINE_MS = 1e12  # the camera's own counts
PLACES = ("ring", "inline", "none")
DTYPES = {"uint8": 1, "uint16": 2}


def counted(*numbers: int) -> None:
    """Check numbers that count something; the journal stores them in 63 bits.

    Raises:
        ValueError: one of them does not.
    """
    if not all(0 <= number < 2**63 for number in numbers):
        raise ValueError("epoch, sequence and trigger numbers are counted from 0 and fit 63 bits")


@dataclass(frozen=True, slots=True, order=True)
class FrameKey:
    """Names one part's picture for ever: `epoch` is new at every start of the source, `seq` counts from 0."""

    line: str
    camera: str
    epoch: int
    seq: int

    def __post_init__(self) -> None:
        counted(self.epoch, self.seq)

    def __str__(self) -> str:
        return f"{self.line}/{self.camera}/{self.epoch}/{self.seq}"


@dataclass(frozen=True, slots=True)
class Frame:
    """One announced part: header and where its pixels are.

    `shape` is (H, W) or (H, W, 3); `checksum` is xxh3-64 of the pixels in C order; `place` says whether they are in
    shared memory (`ring`, `offset`, `generation`), `inline` in part 2, or nowhere (`none`: `problem` says why).
    """

    KIND: ClassVar[int] = 2
    MAX_BODY: ClassVar[int] = 16 * 1024  # it travels on inside a Lease and a Tap
    key: FrameKey
    age_ms: float
    deadline_ms: float
    shape: tuple[int, ...]
    dtype: str
    colour: str
    checksum: int
    place: str
    ring: str = ""
    offset: int = 0
    generation: int = 0
    problem: int = 0
    part_id: str = ""
    trigger: int = 0
    pixels: bytes = field(default=b"", repr=False)

    def __post_init__(self) -> None:
        counted(self.trigger)

    @property
    def nbytes(self) -> int:
        """Bytes that shape and dtype ask for; -1 when they name no picture at all."""
        if self.dtype not in DTYPES or len(self.shape) not in (2, 3) or min(self.shape) < 1:
            return -1
        if self.colour != ("gray" if len(self.shape) == 2 else "bgr") or (len(self.shape) == 3 and self.shape[2] != 3):
            return -1
        total = DTYPES[self.dtype]
        for side in self.shape:
            total *= side
        return total


def without_picture(key: FrameKey) -> Frame:
    """Return an announcement of `key` whose header cannot be used."""
    return Frame(key, 0.0, NO_DEADLINE_MS, (), "", "", 0, "none", problem=int(Reason.HEADER))
