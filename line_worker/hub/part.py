"""One part's life in the hub: states, events, and the table of what may follow what.

    WAITING --lease--> LEASED --result--> DECIDED --record--> RECORDED --release--> RELEASED

- Whatever happens first of result, deadline, gap, conflict, poison or stop decides; a decided outcome never changes.
- A lost worker gives its parts back: LEASED becomes WAITING again, the only way back.
- RECORDED means that the row is on disk; only then may a sink see it.

The table `TRANSITIONS` is the whole of it; a test walks every (state, event) pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from line_worker.verdicts import Reason, Verdict, verdict_of
from line_worker.wire.messages import Frame, FrameKey, Region, View


class State(Enum):
    """Where a part is in its life."""

    WAITING = auto()
    LEASED = auto()
    DECIDED = auto()
    RECORDED = auto()
    RELEASED = auto()


class Event(Enum):
    """What can happen to a part."""

    LEASE = auto()
    RESULT = auto()
    LOST = auto()
    GATHER = auto()  # the outcomes of its views decide
    SETTLE = auto()  # deadline, gap, conflict, poison, stop: decided without a result
    RECORD = auto()
    RELEASE = auto()


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.WAITING, Event.LEASE): State.LEASED,
    (State.WAITING, Event.GATHER): State.DECIDED,
    (State.WAITING, Event.SETTLE): State.DECIDED,
    (State.LEASED, Event.RESULT): State.DECIDED,
    (State.LEASED, Event.LOST): State.WAITING,
    (State.LEASED, Event.SETTLE): State.DECIDED,
    (State.DECIDED, Event.RECORD): State.RECORDED,
    (State.RECORDED, Event.RELEASE): State.RELEASED,
}
OPEN = (State.WAITING, State.LEASED)


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided, with its evidence; immutable."""

    reason: Reason
    at: float
    score: float | None = None
    threshold: float | None = None
    regions: tuple[Region, ...] = ()
    bundle: str = ""
    worker: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    p_value: float | None = None
    views: tuple[View, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The verdict that belongs to the reason."""
        return verdict_of(self.reason)


@dataclass(slots=True)
class Part:
    """One announced part. `t0` and `due` are monotonic seconds; `orphan` parts were open when a hub died; those of a
    `challenge` are known to be bad. One that is `gathered` from several views is nobody's to lease; `missing` is what
    its deadline makes of it while one of them has not come.

    `limit` is what its score is held against by the worker that has it, None: the bundle's own.
    `row` numbers its row in the journal: 0 when another one stands there already, -1 when it could not be written.
    """

    key: FrameKey
    t0: float
    due: float
    frame: Frame | None = None
    pixels: bytes = field(default=b"", repr=False)
    state: State = State.WAITING
    attempt: int = 0
    lost: int = 0
    lease: int = 0
    session: int = 0
    orphan: bool = False
    challenge: bool = False
    gathered: bool = False
    missing: Reason = Reason.NONE
    limit: float | None = None
    row: int = 0
    decision: Decision | None = None

    def on(self, event: Event) -> bool:
        """Apply `event`; False when it does not apply in this state and nothing has changed."""
        following = TRANSITIONS.get((self.state, event))
        if following is None:
            return False
        self.state = following
        return True

    def settle(self, decision: Decision, event: Event = Event.SETTLE) -> bool:
        """Decide; False when that has already happened. Its pixels are let go, unless they are poison: see `lose`."""
        if not self.on(event):
            return False
        self.decision, self.lease, self.session = decision, 0, 0
        if decision.reason is not Reason.POISON:
            self.pixels = b""
        return True

    @property
    def open(self) -> bool:
        """Whether nothing has decided it yet."""
        return self.state in OPEN


def gathered(key: FrameKey, part_id: str, trigger: int, t0: float, deadline_s: float, now: float) -> Part:
    """Return a part of several views, none of which has come."""
    frame = _header(key, part_id, trigger, max(0.0, now - t0), deadline_s)
    return Part(key, t0, t0 + deadline_s, frame=frame, gathered=True, missing=Reason.NO_FRAME)


def orphan(key: FrameKey, now: float, due: float, header: tuple[str, int] | None = None) -> Part:
    """Return a part that was open when a hub died; `header` has id and trigger of one of several views."""
    part = Part(key, now, due, orphan=True)
    if header is not None:
        part.frame, part.gathered = _header(key, *header, 0.0, due - now), True
    return part


def _header(key: FrameKey, part_id: str, trigger: int, age_s: float, deadline_s: float) -> Frame:
    return Frame(key, age_s * 1000, deadline_s * 1000, (), "", "", 0, "none", part_id=part_id, trigger=trigger)


@dataclass(slots=True)
class Epoch:
    """One start of one source: `next_seq` is the first sequence number that nobody has announced."""

    line: str
    camera: str
    epoch: int
    next_seq: int = 0
    released: int = 0  # every smaller sequence number has been released
    parts: dict[int, Part] = field(default_factory=dict)
    before: set[int] = field(default_factory=set)  # recorded by an earlier hub, not to be decided again
    last: tuple[int, int] = (-1, 0)  # the newest picture: its sequence number and checksum, (-1, 0) before the first
    frozen: int = 0  # pictures in a row that were the same as the one before
    shown: int = 0  # smaller sequence numbers are not shown any more

    @property
    def name(self) -> tuple[str, int]:
        """The camera and the epoch's number."""
        return self.camera, self.epoch

    @property
    def open_parts(self) -> int:
        """Parts that nothing has decided yet."""
        return sum(part.open for part in self.parts.values())

    def see(self, seq: int, checksum: int) -> bool:
        """Take note of a picture; True when its bytes are those of the one before.

        One that is announced again, behind newer ones, is compared with nothing.
        """
        before, known = self.last
        if seq <= before:
            return False
        same = before >= 0 and checksum == known
        self.last, self.frozen = (seq, checksum), self.frozen + 1 if same else 0
        return same

    def key(self, seq: int) -> FrameKey:
        """Return the key of `seq`."""
        return FrameKey(self.line, self.camera, self.epoch, seq)

    def next_released(self) -> Part | None:
        """Take out and return the next part in sequence order, None while it is not recorded."""
        part = self.parts.get(self.released)
        if part is None or not part.on(Event.RELEASE):
            return None
        del self.parts[self.released]
        self.released += 1
        self.shown = self.released
        while self.released in self.before:
            self.before.discard(self.released)
            self.released += 1
        return part


@dataclass(frozen=True, slots=True)
class CameraRules:
    """What the configuration says about one camera: its deadline in seconds, its window, its largest frame in bytes.

    `repeats` allows it to give the same bytes twice in a row. With `gathered` it is no camera: the name stands for
    parts that several cameras look at; each of those is a `view`, whose pictures are no parts by themselves.
    """

    deadline_s: float
    window: int
    frame_bytes: int
    repeats: bool = False
    gathered: bool = False
    view: bool = False
