"""The nine invariants of the ledger, under any order of events that hypothesis can think of.

The machine drives ledger, dispatcher and books as the hub's loop does, with a clock of its own, a journal in memory
that may refuse to write, workers that die, answer late, twice or wrongly, sources that jump and restart, and hubs that
are killed. After every step it checks what must never be otherwise.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from line_worker.errors import JournalError
from line_worker.hub.books import Books
from line_worker.hub.dispatch import Dispatcher, Seat
from line_worker.hub.journal import Journal, OpenEpoch
from line_worker.hub.ledger import MAX_GAP, Ledger
from line_worker.hub.part import CameraRules, Part
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.messages import Frame, FrameKey, Outcome, Result

WINDOW, DEADLINE_S = 4, 0.5
RULES = CameraRules(DEADLINE_S, WINDOW, 100)
BUNDLE = "b"


class MemoryJournal:
    """The journal's twin: the same promises, in memory; `broken` refuses to write."""

    def __init__(self) -> None:
        self.rows: dict[FrameKey, tuple[int, Reason]] = {}
        self.announced: dict[tuple[str, int], int] = {}
        self.broken = False

    def last_row(self) -> int:
        return len(self.rows)

    def find(self, key: FrameKey) -> Outcome | None:
        return None

    def write(
        self,
        parts: list[Part],
        announced: dict[tuple[str, int], int],
        cursors: dict[str, int],
        opened: Iterable[Part] = (),
    ) -> list[int]:
        if self.broken:
            raise JournalError("the disk is full")
        self.announced |= announced
        return [self._insert(part) for part in parts]

    def _insert(self, part: Part) -> int:
        assert part.decision is not None
        if part.key in self.rows:
            return 0
        self.rows[part.key] = len(self.rows) + 1, part.decision.reason
        return len(self.rows)

    def open_epochs(self) -> list[OpenEpoch]:
        found = []
        for (camera, epoch), announced in self.announced.items():
            seqs = {key.seq for key in self.rows if (key.camera, key.epoch) == (camera, epoch)}
            next_seq = max(announced, max(seqs, default=-1) + 1)
            found.append(OpenEpoch(camera, epoch, next_seq, [n for n in range(next_seq) if n not in seqs]))
        return found


class LineMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.now = 1000.0
        self.disk = MemoryJournal()
        self.epoch, self.next_seq = 1, 0
        self.pending: dict[FrameKey, tuple[Frame, float]] = {}  # the source's window, by when it was captured
        self.may_pass = True
        self.leased: list[tuple[Result, Part]] = []  # every lease ever given, as its honest answer
        self.proven: set[FrameKey] = set()  # parts for which a PASS was earned
        self.shown: dict[FrameKey, Reason] = {}
        self.session = 0
        self.boot()

    def boot(self) -> None:
        self.ledger, self.dispatcher = Ledger("l", {"c": RULES}), Dispatcher()
        self.books = Books(cast(Journal, self.disk))
        self.released: dict[int, int] = {}
        self.tally: Counter[str] = Counter()
        for epoch in self.disk.open_epochs():
            self.ledger.restore(epoch.camera, epoch.epoch, epoch.next_seq, epoch.holes, self.now)
        self.ledger.open_epoch("c", self.epoch)

    # ---- the source ---------------------------------------------------------------------------------------------

    def send(self, frame: Frame, at: float) -> bool:
        aged = dataclasses.replace(frame, age_ms=(self.now - at) * 1000)
        return self.ledger.announce(aged, aged.pixels, self.now)

    @rule(
        lost=st.sampled_from([0, 0, 0, 0, 1, 3]), problem=st.sampled_from([0, 0, 0, 0, 31, 13]), age=st.floats(0, 0.7)
    )
    def announce(self, lost: int, problem: int, age: float) -> None:
        """A trigger; some before it may never arrive."""
        self.next_seq += lost
        key = FrameKey("l", "c", self.epoch, self.next_seq)
        self.next_seq += 1
        place = "none" if problem else "ring"
        frame = Frame(key, 0.0, DEADLINE_S * 1000, (4, 5), "uint8", "gray", 1000 + key.seq, place, problem=problem)
        if not problem and len(self.pending) < WINDOW:
            self.pending[key] = frame, self.now - age
        assert self.send(frame, self.now - age)

    @rule(data=st.data(), other=st.booleans())
    def announce_again(self, data: st.DataObject, other: bool) -> None:
        """A frame comes twice, or another picture under its key."""
        if self.next_seq:
            seq = data.draw(st.integers(0, self.next_seq - 1))
            key = FrameKey("l", "c", self.epoch, seq)
            frame = Frame(
                key, 0.0, DEADLINE_S * 1000, (4, 5), "uint8", "gray", 1000 + seq + (7777 if other else 0), "ring"
            )
            self.send(frame, self.now)

    @rule()
    def jump(self) -> None:
        """A jump too wide is refused whole; the source begins a new epoch."""
        before = self.ledger.open_parts
        assert not self.ledger.announced_up_to("c", self.epoch, self.next_seq + MAX_GAP + 10, self.now)
        assert self.ledger.open_parts == before
        self.restart_source()

    @rule()
    def restart_source(self) -> None:
        self.epoch, self.next_seq = self.epoch + 1, 0
        self.pending.clear()
        self.ledger.open_epoch("c", self.epoch)

    # ---- workers ------------------------------------------------------------------------------------------------

    @rule(credits=st.integers(1, 4))
    def worker_joins(self, credits: int) -> None:
        if len(self.dispatcher.seats) < 3:
            self.session += 1
            self.dispatcher.join(Seat(b"p", "w", self.session, credits, 0.4, "cpu", self.now))

    @rule(data=st.data(), blame=st.booleans())
    def worker_goes(self, data: st.DataObject, blame: bool) -> None:
        if self.dispatcher.seats:
            session = data.draw(st.sampled_from(sorted(self.dispatcher.seats)))
            self.dispatcher.leave(session)
            self.ledger.lose(session, self.now, blame=blame)

    @rule(
        data=st.data(),
        lie=st.sampled_from([{}, {}, {}, {}, {"bundle": "x"}, {"checksum": 5}, {"session": 999}, {"lease": 0}]),
        score=st.sampled_from([0.5, 0.5, 1.5, None]),
    )
    def worker_answers(self, data: st.DataObject, lie: dict[str, Any], score: float | None) -> None:
        """Any lease ever given may be answered at any time: fresh, stale, late, twice, or with a lie."""
        if not self.leased:
            return
        newest_first = st.integers(0, min(len(self.leased) - 1, 8)).map(lambda back: len(self.leased) - 1 - back)
        honest, part = self.leased[data.draw(newest_first)]
        answer = dataclasses.replace(honest, **{"score": score} | lie)
        epoch = self.ledger.epochs.get((part.key.camera, part.key.epoch))
        alive = epoch is not None and epoch.parts.get(part.key.seq) is part  # else another hub has leased it
        current = alive and part.open and part.due > self.now
        current = current and (part.lease, part.session) == (honest.lease, honest.session)
        before = part.state, part.decision
        seat = self.dispatcher.seats.get(answer.session)
        if seat is not None:
            seat.answered(answer.lease)
        taken = self.ledger.result(answer, "w", BUNDLE, self.may_pass, self.now)
        assert taken is (current and not lie)
        if taken and score == 0.5 and self.may_pass:
            self.proven.add(part.key)
        if not current:
            assert (part.state, part.decision) == before, "a late result changes nothing"

    @rule(may_pass=st.booleans())
    def station(self, may_pass: bool) -> None:
        self.may_pass = may_pass

    # ---- time, disk and death -----------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.1, 0.3, 0.6]))
    def turn(self, seconds: float) -> None:
        """One turn of the hub's loop."""
        self.now += seconds
        self.ledger.expire(self.now, bool(self.dispatcher.seats))
        for seat, part, lease in self.dispatcher.assign(self.ledger):
            assert part.frame is not None
            assert part.due > self.now
            answer = Result(part.key, lease, seat.session, BUNDLE, part.frame.checksum, 0, 0.5, 1.0, (), {})
            self.leased.append((answer, part))
        self.books.note(self.ledger.take_announced(), {})
        parts = self.ledger.take_decided()
        for part, row in zip(parts, self.books.write(parts, beat=seconds >= 0.1), strict=True):
            self.ledger.recorded(part, row)
        for part in self.ledger.release():
            self.show(part)
        assert not [p for e in self.ledger.epochs.values() for p in e.parts.values() if p.open and p.due <= self.now]

    def show(self, part: Part) -> None:
        key, decision = part.key, part.decision
        assert decision is not None
        assert key.seq >= self.released.get(key.epoch, 0), "in the order of sequence numbers"
        self.released[key.epoch] = key.seq + 1
        reason = decision.reason if part.row else self.disk.rows[key][1]
        assert self.shown.setdefault(key, reason) in (reason, Reason.JOURNAL), "shown once, or again"
        if reason is Reason.NONE:
            assert key in self.proven
        if part.row > 0:
            assert self.disk.rows[key] == (part.row, decision.reason), "on disk before it is shown"
        elif part.row < 0:
            assert decision.reason is Reason.JOURNAL
        self.tally[str(decision.verdict)] += part.row != 0
        self.pending.pop(key, None)

    @rule(broken=st.booleans())
    def disk_breaks_or_heals(self, broken: bool) -> None:
        self.disk.broken = broken

    @rule()
    def hub_is_killed(self) -> None:
        """A new one reads the journal; the source announces its window again."""
        if self.disk.broken:
            return  # it would not start
        self.dispatcher.seats.clear()
        self.boot()
        for frame, at in list(self.pending.values()):
            assert self.send(frame, at)

    # ---- what must always hold ----------------------------------------------------------------------------------

    @invariant()
    def memory_is_bounded(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for epoch in self.ledger.epochs.values():
            with_picture = [p for p in epoch.parts.values() if p.open and p.frame is not None]
            assert len(with_picture) <= WINDOW
        for seat in self.dispatcher.seats.values():
            assert len(seat.holds) <= seat.credits
            assert not seat.alone or len(seat.holds) <= 1

    @invariant()
    def counters_tell_what_was_shown(self) -> None:
        if hasattr(self, "ledger"):
            assert {str(v): self.ledger.counts[v] for v in Verdict} == {str(v): self.tally[str(v)] for v in Verdict}

    def teardown(self) -> None:
        """Whatever has happened: in the end the books balance."""
        if not hasattr(self, "disk"):
            return
        self.disk.broken = False
        self.ledger.stop(self.now)
        for _ in range(3):
            self.turn(0.6)
        assert self.ledger.open_parts == 0
        by_epoch = Counter(key.epoch for key in self.disk.rows)
        assert by_epoch == Counter({epoch: n for (_, epoch), n in self.disk.announced.items() if n})
        for key, (_, reason) in self.disk.rows.items():
            assert reason is not Reason.NONE or key in self.proven


TestLineMachine = LineMachine.TestCase
