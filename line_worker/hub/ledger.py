"""The ledger: what the hub knows of every announced part, and the only place where an outcome comes into being.

A part's life, one state after the other, never back except for redelivery:

    WAITING --lease--> LEASED --result--> DECIDED --record--> RECORDED --release--> RELEASED

- Whatever happens first of result, deadline, gap, conflict, poison or stop decides; everything later is ignored and
  counted as LATE. A decided outcome never changes.
- A lost worker (killed, hung, expelled) gives its parts back: LEASED becomes WAITING again. A part that was in flight
  with two lost workers is POISON.
- RECORDED means that the row is on disk; only then may a sink see it.
- RELEASED follows the order of sequence numbers within an epoch: a late part holds the others until its own deadline.

The table `TRANSITIONS` is the whole of it; a test walks every (state, event) pair. Nothing here reads a clock, a file
or a socket: time is an argument (seconds of one monotonic clock).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

from line_worker.verdicts import Reason, Verdict, reason_of, verdict_of
from line_worker.wire.messages import DTYPES, PLACES, Frame, FrameKey, Region, Result

MAX_GAP = 1000  # a larger jump of the sequence demands a new epoch
MAX_LOST = 2  # workers lost with the same part in flight before it is called poison


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
    SETTLE = auto()  # deadline, gap, conflict, poison, stop: decided without a result
    RECORD = auto()
    RELEASE = auto()


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.WAITING, Event.LEASE): State.LEASED,
    (State.WAITING, Event.SETTLE): State.DECIDED,
    (State.LEASED, Event.RESULT): State.DECIDED,
    (State.LEASED, Event.LOST): State.WAITING,
    (State.LEASED, Event.SETTLE): State.DECIDED,
    (State.DECIDED, Event.RECORD): State.RECORDED,
    (State.RECORDED, Event.RELEASE): State.RELEASED,
}


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

    @property
    def verdict(self) -> Verdict:
        """The verdict that belongs to the reason."""
        return verdict_of(self.reason)


@dataclass(slots=True)
class Part:
    """One announced part. `t0` and `due` are monotonic seconds; `orphan` parts were open when a hub died."""

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
        """Decide; False when that has already happened."""
        if not self.on(event):
            return False
        self.decision, self.lease, self.session = decision, 0, 0
        return True


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

    def key(self, seq: int) -> FrameKey:
        """Return the key of `seq`."""
        return FrameKey(self.line, self.camera, self.epoch, seq)


@dataclass(frozen=True, slots=True)
class CameraRules:
    """What the configuration says about one camera: its deadline in seconds, its window, its largest frame in bytes."""

    deadline_s: float
    window: int
    frame_bytes: int


class Ledger:
    """All epochs of one line; see the module's text."""

    def __init__(self, line: str, cameras: dict[str, CameraRules]) -> None:
        self.line, self.cameras = line, cameras
        self.epochs: dict[tuple[str, int], Epoch] = {}
        self.counts: Counter[str] = Counter()
        self._current: dict[str, int] = {}
        self._waiting: list[tuple[float, int, int, Part]] = []  # by deadline, then order of arrival
        self._due: list[tuple[float, int, Part]] = []
        self._decided: list[Part] = []
        self._ticket = 0
        self._lease = 0

    # ---- announcements ------------------------------------------------------------------------------------------

    def restore(self, camera: str, epoch: int, next_seq: int, holes: list[int], now: float) -> None:
        """Take over an epoch from the journal of an earlier hub: `holes` below `next_seq` were open when it died."""
        if camera not in self.cameras:
            return
        first = holes[0] if holes else next_seq
        known = Epoch(self.line, camera, epoch, next_seq, first, before=set(range(first, next_seq)) - set(holes))
        self.epochs[camera, epoch] = known
        due = now + self.cameras[camera].deadline_s
        for seq in holes:
            self._add(known, Part(known.key(seq), now, due, orphan=True))

    def open_epoch(self, camera: str, epoch: int) -> bool:
        """Make `epoch` the camera's current one; False for a camera that the configuration does not know."""
        if camera not in self.cameras:
            return False
        self._current[camera] = epoch
        self.epochs.setdefault((camera, epoch), Epoch(self.line, camera, epoch))
        return True

    def announce(self, frame: Frame, pixels: bytes, now: float) -> bool:
        """Take an announced part; False when the source must start a new epoch (unknown epoch or too wide a gap)."""
        key = frame.key
        epoch = self.epochs.get((key.camera, key.epoch))
        if epoch is None or self._current.get(key.camera) != key.epoch or key.line != self.line:
            return False
        if key.seq < epoch.next_seq:
            self._again(epoch, frame, pixels, now)
            return True
        if key.seq - epoch.next_seq > MAX_GAP:
            return False
        self.announced_up_to(key.camera, key.epoch, key.seq, now)
        epoch.next_seq = key.seq + 1
        rules = self.cameras[key.camera]
        t0 = now - max(0.0, frame.age_ms) / 1000
        part = Part(key, t0, t0 + min(frame.deadline_ms / 1000, rules.deadline_s), frame, pixels)
        self._add(epoch, part)
        self._judge_header(epoch, part, rules, now)
        return True

    def announced_up_to(self, camera: str, epoch: int, next_seq: int, now: float) -> None:
        """Parts below `next_seq` exist: those that never came are gaps."""
        known = self.epochs.get((camera, epoch))
        if known is None or next_seq - known.next_seq > MAX_GAP:
            return
        for seq in range(known.next_seq, next_seq):
            part = Part(known.key(seq), now, now)
            self._add(known, part)
            self._settle(part, Reason.GAP, now)
        known.next_seq = max(known.next_seq, next_seq)

    def _again(self, epoch: Epoch, frame: Frame, pixels: bytes, now: float) -> None:
        """A key that is already known: re-sent after a restart, a duplicate, or another picture under the same key."""
        part = epoch.parts.get(frame.key.seq)
        if part is None or part.state is not State.WAITING or part.frame is not None:
            self.counts["duplicate"] += 1
            if part is not None and part.frame is not None and part.frame.checksum != frame.checksum:
                self.counts["id_conflict"] += 1
                self._settle(part, Reason.ID_CONFLICT, now)
            return
        part.t0 = now - max(0.0, frame.age_ms) / 1000
        part.due = part.t0 + self.cameras[frame.key.camera].deadline_s
        part.frame, part.pixels = frame, pixels
        if part.due <= now:
            self._settle(part, Reason.RESTART, now)
        else:
            self._queue(part)
            self._judge_header(epoch, part, self.cameras[frame.key.camera], now)

    def _judge_header(self, epoch: Epoch, part: Part, rules: CameraRules, now: float) -> None:
        """Settle at once what its header already decides."""
        assert part.frame is not None
        reason = header_problem(part.frame, len(part.pixels), rules.frame_bytes)
        if reason is Reason.NONE and self._open_with_pixels(epoch) > rules.window:
            reason = Reason.OVERLOAD
        if reason is not Reason.NONE:
            self._settle(part, reason, now)

    @staticmethod
    def _open_with_pixels(epoch: Epoch) -> int:
        return sum(1 for part in epoch.parts.values() if part.state in (State.WAITING, State.LEASED))

    # ---- leases and results -------------------------------------------------------------------------------------

    def waiting(self) -> Part | None:
        """Return the waiting part with the earliest deadline, without taking it."""
        while self._waiting:
            part = self._waiting[0][3]
            if part.state is State.WAITING and part.frame is not None:
                return part
            heapq.heappop(self._waiting)
        return None

    @property
    def queued(self) -> int:
        """Parts that wait for a worker (an upper bound: settled ones leave the queue lazily)."""
        return len(self._waiting)

    def lease(self, part: Part, session: int) -> int:
        """Lease the part that `waiting` returned to the worker of `session`; returns the lease's number."""
        heapq.heappop(self._waiting)
        self._lease += 1
        part.on(Event.LEASE)
        part.attempt += 1
        part.lease, part.session = self._lease, session
        return self._lease

    def result(self, result: Result, worker: str, active_bundle: str, may_pass: bool, now: float) -> bool:
        """Take a worker's result; False when it is refused (late, stale lease, wrong pixels or bundle).

        A PASS that is not beyond doubt becomes NO_DECISION: see `judge`.
        """
        part = self._find(result.key)
        if (
            part is None
            or part.state is not State.LEASED
            or (part.lease, part.session) != (result.lease, result.session)
        ):
            self.counts["late_result"] += 1
            return False
        if part.due <= now:
            self.counts["late_result"] += 1
            self._settle(part, Reason.DEADLINE, now)
            return False
        assert part.frame is not None
        if result.checksum != part.frame.checksum or result.bundle != active_bundle:
            self.counts["mismatch"] += 1
            self.give_back(part, now, blame=False)
            return False
        reason = judge(result, may_pass)
        decision = Decision(
            reason, now, result.score, result.threshold, result.regions, result.bundle, worker, result.stages
        )
        part.settle(decision, Event.RESULT)
        self._decided.append(part)
        return True

    def lose(self, session: int, now: float) -> list[Part]:
        """A worker is gone: its parts wait again, or are poison. Returns the poisoned ones."""
        held = [p for e in self.epochs.values() for p in e.parts.values() if p.session == session and p.lease]
        return [part for part in held if self.give_back(part, now, blame=True)]

    def give_back(self, part: Part, now: float, *, blame: bool) -> bool:
        """Put a leased part back into the queue; True when it is settled as poison instead."""
        part.lost += blame
        if part.lost >= MAX_LOST:
            return self._settle(part, Reason.POISON, now)
        if part.on(Event.LOST):
            part.lease, part.session = 0, 0
            self._queue(part)
        return False

    # ---- time ---------------------------------------------------------------------------------------------------

    def expire(self, now: float, have_workers: bool) -> None:
        """Settle every part whose deadline has come."""
        while self._due and self._due[0][0] <= now:
            _, _, part = heapq.heappop(self._due)
            if part.due > now:  # an orphan that its source announced again has a new deadline
                self._watch(part)
            else:
                self._settle(part, _why_late(part, have_workers), now)

    def next_due(self) -> float | None:
        """Return when the next deadline comes, if any part is open."""
        while self._due and self._due[0][2].state not in (State.WAITING, State.LEASED):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def stop(self, now: float) -> None:
        """Settle everything that is still open, because the hub stops."""
        for epoch in self.epochs.values():
            for part in epoch.parts.values():
                self._settle(part, Reason.SHUTDOWN, now)

    # ---- after the decision -------------------------------------------------------------------------------------

    def take_decided(self) -> list[Part]:
        """Return the parts decided since the last call; the caller records them."""
        decided, self._decided = self._decided, []
        return decided

    def recorded(self, part: Part, row: int) -> None:
        """The part's row is on disk."""
        part.on(Event.RECORD)
        part.row = row

    def release(self) -> Iterator[Part]:
        """Yield recorded parts in sequence order, epoch by epoch; they are forgotten."""
        for name, epoch in list(self.epochs.items()):
            yield from self._release(epoch)
            if not epoch.parts and self._current.get(epoch.camera) not in (None, epoch.epoch):
                del self.epochs[name]

    def is_settled(self, camera: str, epoch: int, seq: int) -> bool:
        """Whether the key has been released, by this hub or an earlier one (its source may forget it)."""
        known = self.epochs.get((camera, epoch))
        return known is not None and seq < known.next_seq and seq not in known.parts

    @property
    def open_parts(self) -> int:
        """Parts that are announced and not released."""
        return sum(len(epoch.parts) for epoch in self.epochs.values())

    def _release(self, epoch: Epoch) -> Iterator[Part]:
        while (part := epoch.parts.get(epoch.released)) is not None and part.on(Event.RELEASE):
            del epoch.parts[epoch.released]
            epoch.released += 1
            self._advance(epoch)
            assert part.decision is not None
            self.counts[part.decision.verdict] += 1
            yield part

    @staticmethod
    def _advance(epoch: Epoch) -> None:
        while epoch.released in epoch.before:
            epoch.before.discard(epoch.released)
            epoch.released += 1

    # ---- bookkeeping --------------------------------------------------------------------------------------------

    def _find(self, key: FrameKey) -> Part | None:
        epoch = self.epochs.get((key.camera, key.epoch))
        return epoch.parts.get(key.seq) if epoch and key.line == self.line else None

    def _add(self, epoch: Epoch, part: Part) -> None:
        epoch.parts[part.key.seq] = part
        self._watch(part)
        if part.frame is not None:
            self._queue(part)

    def _watch(self, part: Part) -> None:
        self._ticket += 1
        heapq.heappush(self._due, (part.due, self._ticket, part))

    def _queue(self, part: Part) -> None:
        self._ticket += 1
        # a suspect goes last among equals: it will be retried alone
        heapq.heappush(self._waiting, (part.due, part.lost, self._ticket, part))

    def _settle(self, part: Part, reason: Reason, now: float) -> bool:
        done = part.settle(Decision(reason, now))
        if done:
            self._decided.append(part)
        return done


def _why_late(part: Part, have_workers: bool) -> Reason:
    if part.orphan:
        return Reason.RESTART
    return Reason.DEADLINE if have_workers else Reason.NO_WORKER


def header_problem(frame: Frame, inline: int, frame_bytes: int) -> Reason:
    """Return why no worker needs to see this frame, or NONE. `inline` is the number of pixel bytes in the message."""
    if frame.problem:
        return reason_of(frame.problem) or Reason.HEADER
    if frame.place not in PLACES or frame.place == "none" or frame.dtype not in DTYPES:
        return (
            Reason.HEADER if frame.place not in PLACES else Reason.NO_FRAME if frame.place == "none" else Reason.SHAPE
        )
    if frame.nbytes < 0:
        return Reason.SHAPE
    if frame.nbytes > frame_bytes:
        return Reason.TOO_BIG
    if frame.place == "inline" and inline != frame.nbytes:
        return Reason.LENGTH
    return Reason.NONE


def judge(result: Result, may_pass: bool) -> Reason:
    """Return the reason that a valid result stands for; only a finite score under its threshold reads as PASS."""
    reason = reason_of(result.reason)
    if reason is None:
        return Reason.HEADER
    if reason is Reason.NONE:
        if result.score is None or result.threshold is None:
            return Reason.NONFINITE
        if result.score > result.threshold:
            return Reason.ANOMALY
        return Reason.NONE if may_pass else Reason.NOT_RUNNING
    return reason
