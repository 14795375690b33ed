"""The ledger: what the hub knows of every announced part, and the only place where an outcome comes into being.

A part's life is drawn in `part`. What comes on top of it here:

- Whatever happens first of result, deadline, gap, conflict, poison or stop decides; everything later is ignored and
  counted as late.
- A part that was in flight with two lost workers is POISON.
- RELEASED follows the order of sequence numbers within an epoch: a late part holds the others until its own deadline.

Nothing here reads a clock, a file or a socket: time is an argument (seconds of one monotonic clock).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType

from line_worker.hub.epochs import Epochs
from line_worker.hub.judging import header_problem, judge
from line_worker.hub.leases import Leases
from line_worker.hub.part import CameraRules, Decision, Epoch, Event, Part, State, gathered, orphan
from line_worker.hub.schedule import Schedule
from line_worker.verdicts import Reason
from line_worker.wire.messages import Frame, Result

MAX_GAP = 1000  # a larger jump of the sequence demands a new epoch
MAX_FROZEN = 3  # pictures in a row with the bytes of the one before: the camera is stuck
_NONE: Mapping[int, tuple[str, int]] = MappingProxyType({})
MAX_LOST = 2  # workers lost with the same part in flight before it is called poison


class Ledger(Epochs):
    """All epochs of one line; see the module's text."""

    def __init__(self, line: str, cameras: dict[str, CameraRules]) -> None:
        self.line, self.cameras = line, cameras
        super().__init__()
        self.counts: Counter[str] = Counter()  # released parts by verdict, and what was refused
        self.without_workers = Reason.NO_WORKER  # NO_MODEL where there is no bundle that one could load
        self._current: dict[str, int] = {}
        self._schedule = Schedule()
        self._decided: list[Part] = []
        self._gathered: list[Part] = []
        self._stands: list[Part] = []  # decided by an earlier hub, announced again within their deadline
        self._announced: dict[tuple[str, int], int] = {}
        self._leases = Leases()
        self._challenge: Counter[str] = Counter()  # camera -> how many of its next parts are known to be bad
        self.distrusted = False  # the station has missed a defect: nothing it says counts

    # ---- announcements ------------------------------------------------------------------------------------------

    def restore(
        self,
        camera: str,
        epoch: int,
        next_seq: int,
        holes: list[int],
        now: float,
        last: tuple[int, int] = (-1, 0),
        headers: Mapping[int, tuple[str, int]] = _NONE,
    ) -> None:
        """Take over an epoch from the journal of an earlier hub: `holes` below `next_seq` were open when it died.

        `last` is its newest picture, see `Epoch.last`; `headers` has id and trigger of parts of several views. The last
        decided ones may not have been shown to anybody: they are once their source announces them again.
        """
        if camera not in self.cameras:
            return
        first = holes[0] if holes else next_seq
        before = set(range(max(0, min(first, next_seq - MAX_GAP)), next_seq)) - set(holes)
        known = Epoch(self.line, camera, epoch, next_seq, first, before=before)
        known.last = last
        self.epochs[known.name] = known
        due = now + self.cameras[camera].deadline_s
        for seq in holes:
            self._add(known, orphan(known.key(seq), now, due, headers.get(seq)))

    def open_epoch(self, camera: str, epoch: int) -> bool:
        """Make `epoch` the camera's current one; False for a camera that the configuration does not know."""
        if camera not in self.cameras:
            return False
        self._current[camera] = epoch
        known = self.epochs.setdefault((camera, epoch), Epoch(self.line, camera, epoch))
        self._announced[known.name] = known.next_seq
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
        if not self.announced_up_to(key.camera, key.epoch, key.seq, now):
            return False
        epoch.next_seq = self._announced[epoch.name] = key.seq + 1
        part = Part(key, now, now, challenge=self._challenge[key.camera] > 0)
        self._challenge[key.camera] -= part.challenge
        self._fill(epoch, part, frame, pixels, now)
        return True

    def challenge(self, camera: str, parts: int) -> None:
        """The next `parts` parts of the camera are known to be bad: none of them may pass."""
        self._challenge[camera] = parts

    def announced_up_to(self, camera: str, epoch: int, next_seq: int, now: float) -> bool:
        """Parts below `next_seq` exist: those that never came are gaps. False when they are too many."""
        known = self.epochs.get((camera, epoch))
        if known is None or next_seq - known.next_seq > MAX_GAP:
            return False
        for seq in range(known.next_seq, next_seq):
            part = Part(known.key(seq), now, now)
            self._add(known, part)
            self._settle(part, Reason.GAP, now)
        known.next_seq = self._announced[known.name] = max(known.next_seq, next_seq)
        return True

    def take_announced(self) -> dict[tuple[str, int], int]:
        """Return the epochs of which more was announced since the last call, with their counts."""
        announced, self._announced = self._announced, {}
        return announced

    def _again(self, epoch: Epoch, frame: Frame, pixels: bytes, now: float) -> None:
        """A key that is already known: re-sent after a restart, a duplicate, or another picture under the same key."""
        part = epoch.parts.get(frame.key.seq)
        if part is not None and part.frame is None and part.open:  # open since an earlier hub died
            self._fill(epoch, part, frame, pixels, now)
            return
        if part is None and frame.key.seq in epoch.before:
            self._show_again(epoch, frame, now)
            return
        self.counts["duplicate"] += 1
        if part is not None and part.frame is not None and part.frame.checksum != frame.checksum:
            self.counts["id_conflict"] += 1
            self._settle(part, Reason.ID_CONFLICT, now)

    def _show_again(self, epoch: Epoch, frame: Frame, now: float) -> None:
        """Show in its turn what stands in the journal: its source has not heard of it, so perhaps no sink has."""
        part = Part(frame.key, *self._times(frame, now), frame=frame, state=State.RECORDED)
        part.decision = Decision(Reason.RESTART, now)  # what stands in the journal is shown instead
        if part.due <= now or frame.key.seq < epoch.shown:
            return
        if frame.key.seq >= epoch.released:
            epoch.before.discard(frame.key.seq)
            epoch.parts[frame.key.seq] = part
        else:
            epoch.shown = frame.key.seq + 1
            self._stands.append(part)

    def _times(self, frame: Frame, now: float) -> tuple[float, float]:
        """Return the part's t0 and when it is due."""
        t0 = now - max(0.0, frame.age_ms) / 1000
        return t0, t0 + min(frame.deadline_ms / 1000, self.cameras[frame.key.camera].deadline_s)

    def _fill(self, epoch: Epoch, part: Part, frame: Frame, pixels: bytes, now: float) -> None:
        """Give `part` its picture and its deadline; settle at once what its header already decides."""
        rules = self.cameras[part.key.camera]
        part.frame, part.pixels = (replace(frame, pixels=b"") if frame.pixels else frame), pixels
        part.t0, part.due = self._times(frame, now)
        self._add(epoch, part)
        reason = header_problem(frame, len(pixels), rules.frame_bytes)
        if reason is Reason.NONE and epoch.see(part.key.seq, frame.checksum) and not rules.repeats:
            reason = Reason.FROZEN
        if reason is Reason.NONE and epoch.open_parts > rules.window:
            reason = Reason.OVERLOAD
        if reason is not Reason.NONE:
            self._settle(part, reason, now)

    # ---- parts of several views -----------------------------------------------------------------------------------

    def gather(self, name: str, part_id: str, trigger: int, t0: float, now: float) -> Part:
        """Open the next part of the group `name`: nobody scores it, `decide` does, or its deadline."""
        epoch = self.epochs[name, self._current[name]]
        key = epoch.key(epoch.next_seq)
        epoch.next_seq = self._announced[epoch.name] = key.seq + 1
        part = gathered(key, part_id, trigger, t0, self.cameras[name].deadline_s, now)
        self._gathered.append(part)
        self._add(epoch, part)
        return part

    def take_gathered(self) -> list[Part]:
        """Return the parts of several views opened since the last call that are still open."""
        opened, self._gathered = self._gathered, []
        return [part for part in opened if part.open]

    def bring_forward(self, part: Part, t0: float) -> None:
        """One of its views was triggered at `t0`: its deadline counts from the earliest."""
        if part.open and t0 < part.t0:
            part.t0, part.due = t0, part.due - (part.t0 - t0)
            self._schedule.watch(part)

    def decide(self, part: Part, decision: Decision) -> bool:
        """Decide a gathered part; False when something else has done so before."""
        return self._decide(part, decision, Event.GATHER)

    # ---- leases and results -------------------------------------------------------------------------------------

    def waiting(self) -> Part | None:
        """Return the waiting part with the earliest deadline, without taking it."""
        return self._schedule.waiting()

    def lease(self, part: Part, session: int) -> int:
        """Lease the part that `waiting` returned to the worker of `session`; returns the lease's number."""
        self._schedule.take()
        part.on(Event.LEASE)
        part.attempt += 1
        part.lease, part.session = self._leases.give(part.key, session), session
        return part.lease

    def result(self, result: Result, worker: str, active_bundle: str, may_pass: bool, now: float) -> bool:
        """Take a worker's result; False when it is refused: late, or (counted as mismatch) not what was asked for.

        A PASS that is not beyond doubt becomes NO_DECISION: see `judge`.
        """
        part = self._leased(result)
        if part is None or part.due <= now:
            self.counts["mismatch" if self._leases.mistaken(result) else "late_result"] += 1
            return False
        assert part.frame is not None
        other_limit = part.limit is not None and result.threshold not in (part.limit, None)
        if result.checksum != part.frame.checksum or result.bundle != active_bundle or other_limit:
            self.counts["mismatch"] += 1
            self.give_back(part, now, blame=False)
            return False
        reason = judge(result, may_pass)
        if self.distrusted or (part.challenge and reason is Reason.NONE):
            self.distrusted, reason = True, Reason.CANARY
        evidence = (result.score, result.threshold, result.regions, result.bundle, worker, result.stages)
        return self._decide(part, Decision(reason, now, *evidence, p_value=result.p_value), Event.RESULT)

    def lose(self, session: int, now: float, *, blame: bool = True) -> list[Part]:
        """A worker is gone: its parts wait again, or are poison. Returns the poisoned ones, with their pixels.

        `blame` counts the loss against the parts it held; one that left in good order proves nothing about them.
        """
        held = [part for part in self.all_parts() if part.lease and part.session == session]
        return [part for part in held if self.give_back(part, now, blame=blame)]

    def give_back(self, part: Part, now: float, *, blame: bool) -> bool:
        """Put a leased part back into the queue; True when it is settled as poison instead."""
        part.lost += blame
        if part.lost >= MAX_LOST:
            return self._settle(part, Reason.POISON, now)
        if part.on(Event.LOST):
            part.lease, part.session = 0, 0
            self._schedule.queue(part)
        return False

    # ---- time ---------------------------------------------------------------------------------------------------

    def expire(self, now: float, have_workers: bool) -> None:
        """Settle every part whose deadline has come."""
        for part in self._schedule.overdue(now):
            self._settle(part, self._why_late(part, have_workers), now)

    def _why_late(self, part: Part, have_workers: bool) -> Reason:
        if part.orphan:
            return Reason.RESTART
        if part.missing:
            return part.missing
        return Reason.DEADLINE if have_workers else self.without_workers

    def next_due(self) -> float | None:
        """Return when the next deadline comes, None when no part is open."""
        return self._schedule.next_due()

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
        """The part's row is on disk; see `Part.row`."""
        part.on(Event.RECORD)
        part.row = row

    def release(self) -> Iterator[Part]:
        """Yield recorded parts in sequence order, epoch by epoch; they are forgotten."""
        stands, self._stands = self._stands, []
        yield from stands
        # what several cameras have seen comes after what each of them has
        for name, epoch in sorted(self.epochs.items(), key=lambda item: self.cameras[item[1].camera].gathered):
            while (part := epoch.next_released()) is not None:
                assert part.decision is not None
                view = self.cameras[part.key.camera].view
                self.counts[part.decision.verdict] += part.row != 0 and not view  # 0: an earlier hub has counted it
                yield part
            if not epoch.parts and self._current.get(epoch.camera) not in (None, epoch.epoch):
                del self.epochs[name]

    def frozen(self, camera: str) -> bool:
        """Whether the camera has given the same picture so often in a row that it must be stuck."""
        epoch = self.epochs.get((camera, self._current.get(camera, 0)))
        return epoch is not None and epoch.frozen >= MAX_FROZEN and not self.cameras[camera].repeats

    # ---- bookkeeping --------------------------------------------------------------------------------------------

    def _leased(self, result: Result) -> Part | None:
        """Return the part that this very lease of this very worker is about."""
        epoch = self.epochs.get((result.key.camera, result.key.epoch))
        part = epoch.parts.get(result.key.seq) if epoch and result.key.line == self.line else None
        current = part is not None and part.state is State.LEASED
        return part if current and part and (part.lease, part.session) == (result.lease, result.session) else None

    def _add(self, epoch: Epoch, part: Part) -> None:
        epoch.parts[part.key.seq] = part
        self._schedule.watch(part)
        if part.frame is not None and not part.gathered:
            self._schedule.queue(part)

    def _settle(self, part: Part, reason: Reason, now: float) -> bool:
        return self._decide(part, Decision(reason, now), Event.SETTLE)

    def _decide(self, part: Part, decision: Decision, event: Event) -> bool:
        done = part.settle(decision, event)
        if done:
            self._decided.append(part)
        return done
