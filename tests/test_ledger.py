"""The ledger: every state and event, every way a part can end, and the invariants under random histories."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from line_worker.hub.ledger import MAX_GAP, Ledger
from line_worker.hub.part import TRANSITIONS, CameraRules, Decision, Event, Part, State
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.messages import Frame, FrameKey, Result

LINE, CAMERA, EPOCH, BUNDLE, WINDOW, DEADLINE_S = "line", "camera", 7, "b" * 64, 4, 1.0
SESSION = 11


def _ledger() -> Ledger:
    ledger = Ledger(LINE, {CAMERA: CameraRules(DEADLINE_S, WINDOW, 1000)})
    assert ledger.open_epoch(CAMERA, EPOCH)
    return ledger


def _frame(seq: int, *, checksum: int = 5, age_ms: float = 0.0, epoch: int = EPOCH, problem: int = 0) -> Frame:
    key = FrameKey(LINE, CAMERA, epoch, seq)
    return Frame(key, age_ms, DEADLINE_S * 1000, (4, 5), "uint8", "gray", checksum, "ring", "r", problem=problem)


def _result(part: Part, reason: Reason = Reason.NONE, **changes: object) -> Result:
    assert part.frame is not None
    values: dict[str, object] = {
        "key": part.key, "lease": part.lease, "session": part.session, "bundle": BUNDLE,
        "checksum": part.frame.checksum, "reason": int(reason), "score": 0.5, "threshold": 1.0,
        "regions": (), "stages": {},
    }  # fmt: skip
    return Result(**{**values, **changes})  # type: ignore[arg-type]


def _lease(ledger: Ledger, session: int = SESSION) -> Part:
    part = ledger.waiting()
    assert part is not None
    ledger.lease(part, session)
    return part


def _record(ledger: Ledger, start_row: int = 1) -> list[Part]:
    decided = ledger.take_decided()
    for row, part in enumerate(decided, start_row):
        ledger.recorded(part, row)
    return decided


def _reasons(parts: list[Part]) -> list[tuple[int, Reason]]:
    return [(part.key.seq, part.decision.reason) for part in parts if part.decision]


# ---- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_every_state_and_event(state: State, event: Event) -> None:
    part = Part(FrameKey(LINE, CAMERA, EPOCH, 0), 0.0, 1.0, state=state)
    expected = TRANSITIONS.get((state, event))
    assert part.on(event) is (expected is not None)
    assert part.state is (expected or state)


def test_the_table_leads_from_waiting_to_released_and_only_a_loss_leads_back() -> None:
    order = list(State)
    back = {pair for pair, following in TRANSITIONS.items() if order.index(following) <= order.index(pair[0])}
    assert back == {(State.LEASED, Event.LOST)}
    assert not [pair for pair in TRANSITIONS if pair[0] is State.RELEASED]


@pytest.mark.parametrize("state", [State.DECIDED, State.RECORDED, State.RELEASED])
def test_a_decision_never_changes(state: State) -> None:
    first = Decision(Reason.GAP, 1.0)
    part = Part(FrameKey(LINE, CAMERA, EPOCH, 0), 0.0, 1.0, state=state, decision=first)
    assert not part.settle(Decision(Reason.NONE, 2.0))
    assert not part.settle(Decision(Reason.NONE, 2.0), Event.RESULT)
    assert part.decision is first


# ---- one part --------------------------------------------------------------------------------------------------------


def test_a_good_part_passes() -> None:
    ledger = _ledger()
    assert ledger.announce(_frame(0), b"", 0.0)
    part = _lease(ledger)
    assert ledger.result(_result(part), "w", BUNDLE, may_pass=True, now=0.5)
    assert list(ledger.release()) == [], "not before its row is on disk"
    assert _reasons(_record(ledger)) == [(0, Reason.NONE)]
    assert [p.key.seq for p in ledger.release()] == [0]
    assert ledger.counts[Verdict.PASS] == 1
    assert ledger.is_settled(part.key)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"score": 1.5}, Reason.ANOMALY),
        ({"score": None}, Reason.NONFINITE),
        ({"threshold": None}, Reason.NONFINITE),
        ({"reason": 999}, Reason.HEADER),
        ({"reason": int(Reason.POSE), "score": None}, Reason.POSE),
    ],
)
def test_only_a_finite_score_under_its_threshold_passes(changes: dict[str, object], reason: Reason) -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    assert ledger.result(_result(_lease(ledger), **changes), "w", BUNDLE, may_pass=True, now=0.1)
    assert _reasons(ledger.take_decided()) == [(0, reason)]


def test_nothing_passes_while_the_station_does_not_run() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    ledger.result(_result(_lease(ledger)), "w", BUNDLE, may_pass=False, now=0.1)
    assert _reasons(ledger.take_decided()) == [(0, Reason.NOT_RUNNING)]


@pytest.mark.parametrize("changes", [{"checksum": 6}, {"bundle": "other"}])
def test_a_result_about_other_pixels_or_by_another_bundle_is_refused_and_the_part_waits_again(
    changes: dict[str, object],
) -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    part = _lease(ledger)
    assert not ledger.result(_result(part, **changes), "w", BUNDLE, may_pass=True, now=0.1)
    assert ledger.counts["mismatch"] == 1
    assert ledger.waiting() is part


@pytest.mark.parametrize("changes", [{"lease": 99}, {"session": 99}, {"key": FrameKey("x", CAMERA, EPOCH, 0)}])
def test_a_result_of_a_stale_lease_changes_nothing(changes: dict[str, object]) -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    part = _lease(ledger)
    assert not ledger.result(_result(part, **changes), "w", BUNDLE, may_pass=True, now=0.1)
    assert part.state is State.LEASED


def test_a_late_result_changes_nothing() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    part = _lease(ledger)
    result = _result(part)
    ledger.expire(1.0, have_workers=True)
    assert not ledger.result(result, "w", BUNDLE, may_pass=True, now=1.1)
    assert _reasons(ledger.take_decided()) == [(0, Reason.DEADLINE)]
    assert ledger.counts["late_result"] == 1


@pytest.mark.parametrize(("workers", "reason"), [(True, Reason.DEADLINE), (False, Reason.NO_WORKER)])
def test_the_deadline_counts_from_the_frames_age(workers: bool, reason: Reason) -> None:
    ledger = _ledger()
    ledger.announce(_frame(0, age_ms=400), b"", 10.0)
    ledger.expire(10.59, workers)
    assert ledger.take_decided() == []
    assert ledger.next_due() == pytest.approx(10.6)
    ledger.expire(10.61, workers)
    assert _reasons(ledger.take_decided()) == [(0, reason)]


def test_a_worker_lost_once_is_forgiven_and_twice_is_poison() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    part = _lease(ledger)
    assert ledger.lose(SESSION, 0.1) == []
    assert _lease(ledger, 12) is part
    assert ledger.lose(12, 0.2) == [part]
    assert _reasons(ledger.take_decided()) == [(0, Reason.POISON)]


def test_workers_that_leave_in_good_order_poison_nothing() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    for session in range(5):
        _lease(ledger, session)
        assert ledger.lose(session, 0.1, blame=False) == []
    assert ledger.waiting() is not None


# ---- sequence --------------------------------------------------------------------------------------------------------


def test_a_jump_leaves_gaps_and_release_keeps_the_order() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    ledger.announce(_frame(3), b"", 0.1)
    first = _lease(ledger)
    assert _reasons(_record(ledger)) == [(1, Reason.GAP), (2, Reason.GAP)]
    assert list(ledger.release()) == [], "0 holds the rest"
    ledger.result(_result(first), "w", BUNDLE, may_pass=True, now=0.2)
    _record(ledger, 3)
    assert [p.key.seq for p in ledger.release()] == [0, 1, 2]


def test_a_jump_too_far_demands_a_new_epoch() -> None:
    ledger = _ledger()
    assert not ledger.announce(_frame(MAX_GAP + 1), b"", 0.0)
    assert ledger.open_parts == 0


def test_frames_lost_at_the_end_become_gaps() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    ledger.announced_up_to(CAMERA, EPOCH, 3, 0.1)
    assert _reasons(ledger.take_decided()) == [(1, Reason.GAP), (2, Reason.GAP)]


def test_a_duplicate_is_answered_and_another_picture_under_its_key_is_a_conflict() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    assert ledger.announce(_frame(0), b"", 0.1)
    assert (ledger.counts["duplicate"], ledger.counts["id_conflict"]) == (1, 0)
    assert ledger.announce(_frame(0, checksum=6), b"", 0.2)
    assert _reasons(ledger.take_decided()) == [(0, Reason.ID_CONFLICT)]


def test_the_first_outcome_stands_when_a_decided_key_comes_again_with_other_pixels() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    ledger.result(_result(_lease(ledger)), "w", BUNDLE, may_pass=True, now=0.1)
    ledger.announce(_frame(0, checksum=6), b"", 0.2)
    assert _reasons(ledger.take_decided()) == [(0, Reason.NONE)]
    assert ledger.counts["id_conflict"] == 1


def test_a_full_window_is_overload_at_once() -> None:
    ledger = _ledger()
    for seq in range(WINDOW + 1):
        ledger.announce(_frame(seq), b"", 0.0)
    assert _reasons(ledger.take_decided()) == [(WINDOW, Reason.OVERLOAD)]


def test_a_header_can_decide_alone() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0, problem=int(Reason.NO_FRAME)), b"", 0.0)
    ledger.announce(_frame(1, problem=int(Reason.NONE)), b"", 0.0)
    ledger.announce(_frame(2, problem=int(Reason.ANOMALY)), b"", 0.0)
    assert _reasons(ledger.take_decided()) == [(0, Reason.NO_FRAME), (2, Reason.HEADER)]


def test_an_unknown_camera_or_an_old_epoch_is_refused() -> None:
    ledger = _ledger()
    assert not ledger.open_epoch("other", 1)
    assert not ledger.announce(_frame(0, epoch=8), b"", 0.0)
    ledger.open_epoch(CAMERA, 8)
    assert not ledger.announce(_frame(0), b"", 0.0)


def test_an_old_epochs_open_parts_close_at_their_deadline() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    ledger.open_epoch(CAMERA, 8)
    ledger.announce(_frame(0, epoch=8), b"", 0.1)
    ledger.expire(1.05, have_workers=True)
    _record(ledger)
    assert [p.key.epoch for p in ledger.release()] == [EPOCH]
    assert (CAMERA, EPOCH) not in ledger.epochs


def test_stop_settles_what_is_open() -> None:
    ledger = _ledger()
    ledger.announce(_frame(0), b"", 0.0)
    ledger.announce(_frame(1), b"", 0.0)
    _lease(ledger)
    ledger.stop(0.1)
    assert _reasons(_record(ledger)) == [(0, Reason.SHUTDOWN), (1, Reason.SHUTDOWN)]
    assert len(list(ledger.release())) == 2


# ---- after a restart -------------------------------------------------------------------------------------------------


def test_orphans_that_nobody_sends_again_are_restart() -> None:
    ledger = Ledger(LINE, {CAMERA: CameraRules(DEADLINE_S, WINDOW, 1000)})
    ledger.restore(CAMERA, EPOCH, 5, [1, 3], 0.0)
    ledger.expire(1.0, have_workers=True)
    assert _reasons(_record(ledger)) == [(1, Reason.RESTART), (3, Reason.RESTART)]
    assert [p.key.seq for p in ledger.release()] == [1, 3], "2 and 4 were released by the hub before"


def test_an_orphan_sent_again_in_time_is_scored_and_a_decided_one_is_answered() -> None:
    ledger = Ledger(LINE, {CAMERA: CameraRules(DEADLINE_S, WINDOW, 1000)})
    ledger.restore(CAMERA, EPOCH, 3, [1], 0.0)
    ledger.open_epoch(CAMERA, EPOCH)
    for seq in (1, 2):
        assert ledger.announce(_frame(seq, age_ms=200), b"", 0.1)
    assert ledger.is_settled(_frame(2).key)
    part = _lease(ledger)
    assert part.key.seq == 1
    assert ledger.result(_result(part), "w", BUNDLE, may_pass=True, now=0.2)
    assert _reasons(ledger.take_decided()) == [(1, Reason.NONE)]


# ---- random histories ------------------------------------------------------------------------------------------------


class Histories(RuleBasedStateMachine):
    """Any history of announcements, leases, results, losses and time keeps the invariants of the contract."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = _ledger()
        self.now, self.next_seq, self.session, self.row = 0.0, 0, 100, 0
        self.rows: dict[int, Reason] = {}
        self.released: list[int] = []
        self.leased: list[Part] = []
        self.old: list[Result] = []

    @rule(jump=st.sampled_from([0, 0, 0, 1, 3]), age_ms=st.sampled_from([0.0, 300.0, 2000.0]))
    def announce(self, jump: int, age_ms: float) -> None:
        seq = self.next_seq + jump
        assert self.ledger.announce(_frame(seq, age_ms=age_ms), b"", self.now)
        self.next_seq = seq + 1

    @precondition(lambda self: self.next_seq)
    @rule(data=st.data(), checksum=st.sampled_from([5, 5, 6]))
    def announce_again(self, data: st.DataObject, checksum: int) -> None:
        seq = data.draw(st.integers(0, self.next_seq - 1))
        assert self.ledger.announce(_frame(seq, checksum=checksum), b"", self.now)

    @rule()
    def lease(self) -> None:
        part = self.ledger.waiting()
        if part is not None:
            self.session += 1
            self.ledger.lease(part, self.session)
            self.leased.append(part)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), reason=st.sampled_from([Reason.NONE, Reason.ANOMALY, Reason.POSE]), good=st.booleans())
    def answer(self, data: st.DataObject, reason: Reason, good: bool) -> None:
        part = data.draw(st.sampled_from(self.leased))
        if part.frame is None or not part.lease:
            return
        result = _result(part, reason, checksum=part.frame.checksum if good else 77)
        taken = self.ledger.result(result, "w", BUNDLE, may_pass=True, now=self.now)
        assert taken <= (good and part.due > self.now)
        self.old.append(result)

    @precondition(lambda self: self.old)
    @rule(data=st.data())
    def answer_again(self, data: st.DataObject) -> None:
        result = data.draw(st.sampled_from(self.old))
        assert not self.ledger.result(result, "w", BUNDLE, may_pass=True, now=self.now)

    @rule(back=st.integers(0, 5), blame=st.booleans())
    def lose(self, back: int, blame: bool) -> None:
        self.ledger.lose(self.session - back, self.now, blame=blame)

    @rule(seconds=st.sampled_from([0.001, 0.2, 0.7, 1.5]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.expire(self.now, have_workers=True)
        parts = self.ledger.epochs[CAMERA, EPOCH].parts.values()
        assert all(part.due > self.now for part in parts if part.open), "nothing stays open beyond its deadline"

    @rule()
    def record_and_release(self) -> None:
        for part in self.ledger.take_decided():
            assert part.decision is not None
            assert part.key.seq not in self.rows, "one row per key"
            self.row += 1
            self.rows[part.key.seq] = part.decision.reason
            self.ledger.recorded(part, self.row)
        for part in self.ledger.release():
            assert part.decision is not None
            assert self.rows[part.key.seq] is part.decision.reason, "recorded first, and never changed"
            self.released.append(part.key.seq)

    @invariant()
    def released_in_order_and_without_holes(self) -> None:
        assert self.released == list(range(len(self.released)))

    @invariant()
    def memory_is_bounded_by_what_is_open(self) -> None:
        assert self.ledger.open_parts == self.next_seq - len(self.released)
        assert self.ledger.epochs[CAMERA, EPOCH].open_parts <= WINDOW

    def teardown(self) -> None:
        """After the last deadline the books balance."""
        self.now += 2 * DEADLINE_S
        self.ledger.expire(self.now, have_workers=True)
        self.record_and_release()
        assert self.released == list(range(self.next_seq))
        verdicts = Counter(Decision(reason, 0.0).verdict for reason in self.rows.values())
        assert sum(verdicts.values()) == self.next_seq
        assert all(self.ledger.counts[verdict] == verdicts[verdict] for verdict in Verdict)


TestHistories = Histories.TestCase
