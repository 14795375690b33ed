"""The ledger: one outcome for every announced part, whatever happens and in whatever order."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from line_worker.hub import leases
from line_worker.hub.judging import header_problem, judge
from line_worker.hub.ledger import MAX_GAP, Ledger
from line_worker.hub.part import OPEN, TRANSITIONS, CameraRules, Decision, Event, Part, State
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.messages import Frame, FrameKey, Result

RULES = CameraRules(deadline_s=0.5, window=4, frame_bytes=100)
EPOCH, SESSION = 7, 42


class Line:
    """A ledger with a clock that stands still until it is told, and a journal that only counts."""

    def __init__(self) -> None:
        self.ledger = Ledger("l", {"c": RULES, "d": RULES})
        self.now, self.row = 100.0, 0
        assert self.ledger.open_epoch("c", EPOCH)

    def announce(self, seq: int, **changes: Any) -> bool:
        sent = frame(seq, **changes)
        return self.ledger.announce(sent, sent.pixels, self.now)

    def lease(self, session: int = SESSION) -> Part:
        part = self.ledger.waiting()
        assert part is not None
        self.ledger.lease(part, session)
        return part

    def answer(self, part: Part, *, may_pass: bool = True, **changes: Any) -> bool:
        return self.ledger.result(result(part, **changes), "w", "b", may_pass, self.now)

    def released(self, workers: bool = True) -> dict[int, Reason]:
        """End a turn; return what was released, in this order."""
        self.ledger.expire(self.now, workers)
        for part in self.ledger.take_decided():
            self.row += 1
            self.ledger.recorded(part, self.row)
        return {p.key.seq: p.decision.reason for p in self.ledger.release() if p.decision}


def frame(seq: int, camera: str = "c", epoch: int = EPOCH, **changes: Any) -> Frame:
    whole = {"place": "inline", "shape": (4, 5), "dtype": "uint8", "colour": "gray", "checksum": 1000 + seq}
    whole |= {"age_ms": 0.0, "deadline_ms": 500.0, "pixels": b"x" * 20}
    return Frame(FrameKey("l", camera, epoch, seq), **whole | changes)


def result(part: Part, **changes: Any) -> Result:
    assert part.frame is not None
    whole = {"lease": part.lease, "session": part.session, "bundle": "b", "checksum": part.frame.checksum}
    whole |= {"key": part.key, "reason": 0, "score": 0.5, "threshold": 1.0, "regions": (), "stages": {}}
    return Result(**whole | changes)


@pytest.fixture
def line() -> Line:
    return Line()


# ---- the table -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("state", "event"), list(itertools.product(State, Event)))
def test_every_state_and_event(state: State, event: Event) -> None:
    part = Part(FrameKey("l", "c", 1, 2), 0.0, 1.0, state=state)
    happens = {
        State.WAITING: {Event.LEASE: State.LEASED, Event.GATHER: State.DECIDED, Event.SETTLE: State.DECIDED},
        State.LEASED: {Event.RESULT: State.DECIDED, Event.LOST: State.WAITING, Event.SETTLE: State.DECIDED},
        State.DECIDED: {Event.RECORD: State.RECORDED},
        State.RECORDED: {Event.RELEASE: State.RELEASED},
        State.RELEASED: {},
    }[state]
    assert part.on(event) is (event in happens)
    assert part.state is happens.get(event, state)
    assert part.open is (part.state in OPEN)


def test_nothing_leads_back_into_a_decided_part() -> None:
    closed = set(State) - set(OPEN)
    assert not [pair for pair, following in TRANSITIONS.items() if pair[0] in closed and following in OPEN]


@pytest.mark.parametrize("state", list(State))
def test_a_decision_is_made_once(state: State) -> None:
    first = Decision(Reason.GAP, 1.0)
    part = Part(FrameKey("l", "c", 1, 2), 0.0, 1.0, state=state, decision=first, pixels=b"x")
    assert part.settle(Decision(Reason.DEADLINE, 2.0)) is (state in OPEN)
    assert (part.decision is first) is (state not in OPEN)
    assert (part.pixels == b"") is (state in OPEN), "pixels go with the decision"


# ---- the usual -------------------------------------------------------------------------------------------------------


def test_a_part_passes(line: Line) -> None:
    assert line.announce(0)
    part = line.lease()
    assert (part.attempt, part.due, part.pixels) == (1, 100.5, b"x" * 20)
    line.now += 0.1
    assert line.answer(part)
    assert line.released() == {0: Reason.NONE}
    assert part.decision is not None
    assert (part.decision.verdict, part.decision.worker, part.decision.bundle) == (Verdict.PASS, "w", "b")
    assert (part.row, part.pixels, part.frame.pixels if part.frame else None) == (1, b"", b"")
    assert line.ledger.open_parts == 0
    assert line.ledger.counts == {"PASS": 1}
    assert line.ledger.is_settled(part.key)


def test_parts_are_released_in_order_and_a_late_one_holds_the_rest_until_its_deadline(line: Line) -> None:
    for seq in range(3):
        line.announce(seq)
    parts = [line.lease() for _ in range(3)]
    line.answer(parts[2])
    line.answer(parts[1])
    assert line.released() == {}
    line.now = 100.4999
    assert line.released() == {}
    line.now = 100.5
    assert list(line.released().items()) == [(0, Reason.DEADLINE), (1, Reason.NONE), (2, Reason.NONE)]


def test_cameras_do_not_wait_for_each_other(line: Line) -> None:
    line.ledger.open_epoch("d", 1)
    line.announce(0)
    line.announce(0, camera="d", epoch=1)
    parts = {part.key.camera: part for part in (line.lease(), line.lease())}
    line.answer(parts["d"])
    line.released()
    assert list(line.ledger.epochs["c", EPOCH].parts) == [0]
    assert not line.ledger.epochs["d", 1].parts


def test_the_source_s_age_counts(line: Line) -> None:
    line.announce(0, age_ms=400.0)
    assert line.ledger.next_due() == pytest.approx(100.1)
    line.announce(1, age_ms=600.0)
    line.announce(2, age_ms=-50.0)  # from the future: it is of now
    assert line.released() == {}
    line.now = 100.1
    assert line.released() == {0: Reason.DEADLINE, 1: Reason.DEADLINE}
    assert line.ledger.next_due() == 100.5


def test_a_deadline_is_never_longer_than_the_configuration_s(line: Line) -> None:
    line.announce(0, deadline_ms=90_000.0)
    line.announce(1, deadline_ms=100.0)
    assert line.ledger.waiting() is line.ledger.epochs["c", EPOCH].parts[1], "earliest deadline first"
    assert line.ledger.next_due() == pytest.approx(100.1)


# ---- announcements ---------------------------------------------------------------------------------------------------


def test_a_gap_is_a_reject_at_once(line: Line) -> None:
    line.announce(0)
    line.announce(3)
    line.answer(line.lease())
    line.answer(line.lease())
    assert line.released() == {0: Reason.NONE, 1: Reason.GAP, 2: Reason.GAP, 3: Reason.NONE}
    assert line.ledger.announced_up_to("c", EPOCH, 6, line.now)
    assert line.released() == {4: Reason.GAP, 5: Reason.GAP}
    assert line.ledger.take_announced() == {("c", EPOCH): 6}
    assert line.ledger.take_announced() == {}


def test_a_frame_that_comes_after_its_gap_was_announced_changes_nothing(line: Line) -> None:
    line.announce(1)
    assert line.announce(0)
    assert line.ledger.counts["duplicate"] == 1
    line.answer(line.lease())
    assert line.released() == {0: Reason.GAP, 1: Reason.NONE}


def test_too_wide_a_gap_demands_a_new_epoch(line: Line) -> None:
    assert line.announce(MAX_GAP)
    line.ledger.take_announced()
    assert not line.announce(2 * MAX_GAP + 2)
    assert not line.ledger.announced_up_to("c", EPOCH, 2**62, line.now)
    assert line.ledger.take_announced() == {}, "what was refused was not announced"
    assert line.ledger.open_parts == MAX_GAP + 1
    assert line.ledger.open_epoch("c", EPOCH + 1)
    assert line.announce(0, epoch=EPOCH + 1)


def test_an_unknown_epoch_camera_or_line_is_refused(line: Line) -> None:
    assert not line.announce(0, epoch=EPOCH + 1)
    assert not line.announce(0, camera="d")
    assert not line.announce(0, camera="x")
    other = dataclasses.replace(frame(0), key=FrameKey("other", "c", EPOCH, 0))
    assert not line.ledger.announce(other, b"", line.now)
    assert not line.ledger.open_epoch("x", 1)
    assert not line.ledger.announced_up_to("x", 1, 3, line.now)
    assert line.ledger.open_parts == 0


def test_open_frames_of_an_old_epoch_close_at_their_deadline(line: Line) -> None:
    line.announce(0)
    line.announce(1)
    part = line.lease()
    line.ledger.open_epoch("c", EPOCH + 1)
    assert not line.announce(2), "the old source is not heard any more"
    assert line.announce(0, epoch=EPOCH + 1)
    old, new = line.ledger.epochs["c", EPOCH], line.ledger.epochs["c", EPOCH + 1]
    assert line.answer(part), "what is in hand still counts"
    line.released()
    assert (list(old.parts), list(new.parts)) == ([1], [0])
    line.now += 0.5
    line.released()
    assert not old.parts
    assert list(line.ledger.epochs) == [new.name]


def test_epochs_that_are_over_are_forgotten(line: Line) -> None:
    for epoch in range(EPOCH, EPOCH + 5):
        line.ledger.open_epoch("c", epoch)
        line.announce(0, epoch=epoch)
        line.answer(line.lease())
        line.released()
    assert list(line.ledger.epochs) == [("c", EPOCH + 4)]


def test_the_same_frame_again_is_a_duplicate(line: Line) -> None:
    line.announce(0)
    assert line.announce(0)
    part = line.lease()
    assert line.announce(0)
    line.answer(part)
    assert line.announce(0)
    assert line.released() == {0: Reason.NONE}
    assert line.announce(0)
    assert line.ledger.counts == {"duplicate": 4, "PASS": 1}
    assert line.ledger.waiting() is None


@pytest.mark.parametrize("leased", [False, True])
def test_another_picture_under_the_same_key_is_a_conflict_while_it_is_undecided(line: Line, leased: bool) -> None:
    line.announce(0)
    part = line.lease() if leased else None
    assert line.announce(0, checksum=5)
    assert part is None or not line.answer(part)
    assert line.released() == {0: Reason.ID_CONFLICT}


def test_after_the_decision_the_first_picture_stands(line: Line) -> None:
    line.announce(0)
    line.answer(line.lease())
    line.announce(0, checksum=5)
    assert line.ledger.counts["id_conflict"] == 1
    assert line.released() == {0: Reason.NONE}


def test_more_than_the_window_is_overload(line: Line) -> None:
    for seq in range(6):
        line.announce(seq)
    line.lease()
    assert line.released() == {}
    line.now += 0.5
    reasons = list(line.released().values())
    assert reasons == [Reason.DEADLINE] * 4 + [Reason.OVERLOAD] * 2


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"problem": int(Reason.OVERLOAD), "place": "none"}, Reason.OVERLOAD),
        ({"problem": 12345}, Reason.HEADER),
        ({"problem": int(Reason.ANOMALY)}, Reason.HEADER),
        ({"place": "none"}, Reason.NO_FRAME),
        ({"place": "moon"}, Reason.HEADER),
        ({"dtype": "float32"}, Reason.SHAPE),
        ({"shape": (0, 5)}, Reason.SHAPE),
        ({"shape": (4, 5, 4), "colour": "bgr"}, Reason.SHAPE),
        ({"shape": (2**40, 2**40)}, Reason.TOO_BIG),
        ({"shape": (11, 10)}, Reason.TOO_BIG),
        ({"pixels": b"x" * 19}, Reason.LENGTH),
        ({"pixels": b""}, Reason.LENGTH),
        ({"place": "ring", "pixels": b""}, Reason.NONE),
    ],
)
def test_a_header_that_already_decides(line: Line, changes: dict[str, Any], reason: Reason) -> None:
    sent = frame(0, **changes)
    assert header_problem(sent, len(sent.pixels), RULES.frame_bytes) is reason
    line.announce(0, **changes)
    assert line.released() == ({} if reason is Reason.NONE else {0: reason})
    assert (line.ledger.waiting() is None) is (reason is not Reason.NONE)


# ---- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "may_pass", "reason"),
    [
        ({}, True, Reason.NONE),
        ({"score": 1.0}, True, Reason.NONE),
        ({}, False, Reason.NOT_RUNNING),
        ({"score": 1.5}, True, Reason.ANOMALY),
        ({"score": 1.5}, False, Reason.ANOMALY),
        ({"reason": 1, "score": 0.1}, True, Reason.ANOMALY),
        ({"score": None}, True, Reason.NONFINITE),
        ({"threshold": None}, True, Reason.NONFINITE),
        ({"score": float("nan")}, True, Reason.ANOMALY),
        ({"reason": int(Reason.POSE)}, True, Reason.POSE),
        ({"reason": 4711}, True, Reason.HEADER),
    ],
)
def test_what_a_result_stands_for(line: Line, changes: dict[str, Any], may_pass: bool, reason: Reason) -> None:
    line.announce(0)
    part = line.lease()
    assert judge(result(part, **changes), may_pass) is reason
    assert line.answer(part, may_pass=may_pass, **changes)
    assert line.released() == {0: reason}


@pytest.mark.parametrize(
    "changes",
    [
        {"lease": 999},
        {"lease": 0},
        {"lease": -1},
        {"key": FrameKey("l", "c", EPOCH, 77)},
        {"key": FrameKey("x", "c", EPOCH, 0)},
        {"key": FrameKey("l", "x", EPOCH, 0)},
    ],
)
def test_a_result_that_nobody_asked_for_is_a_mismatch(line: Line, changes: dict[str, Any]) -> None:
    line.announce(0)
    part = line.lease()
    assert not line.answer(part, **changes)
    assert part.state is State.LEASED
    assert line.ledger.counts == {"mismatch": 1}
    assert line.answer(part)


def test_a_part_s_old_lease_or_another_hub_s_is_late_and_no_mismatch(line: Line) -> None:
    line.announce(0)
    part = line.lease(session=1)
    stale = result(part)
    line.ledger.lose(1, line.now)
    part = line.lease(session=2)
    assert not line.ledger.result(stale, "w", "b", True, line.now)
    assert not line.answer(part, session=3), "nobody was given anything under this session"
    assert line.answer(part)
    assert not line.answer(part, lease=2, session=2, checksum=1000)
    assert line.ledger.counts["late_result"] == 3
    assert line.ledger.counts["mismatch"] == 0


def test_one_worker_s_lease_in_another_one_s_name_is_a_mismatch(line: Line) -> None:
    line.announce(0)
    line.announce(1)
    first, second = line.lease(session=1), line.lease(session=2)
    assert not line.answer(first, session=2)
    assert line.ledger.counts == {"mismatch": 1}
    assert line.answer(first)
    assert line.answer(second)


def test_leases_are_remembered_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "REMEMBERED", 2)
    monkeypatch.setattr(leases, "SESSIONS", 2)
    given, key = leases.Leases(), FrameKey("l", "c", 1, 0)
    numbers = [given.give(key, session) for session in (1, 2, 3)]
    part = Part(key, 0.0, 1.0, frame=frame(0), session=3)
    assert numbers == [1, 2, 3]
    assert (len(given._given), len(given._sessions)) == (2, 2)
    assert not given.mistaken(result(part, lease=1, session=3)), "so old that it can only be late"
    assert given.mistaken(result(part, lease=2, session=3))


# ---- the same picture again ------------------------------------------------------------------------------------------


def test_the_bytes_of_the_picture_before_are_frozen_and_another_picture_ends_it(line: Line) -> None:
    reasons: dict[int, Reason] = {}
    for seq, checksum in enumerate((5, 5, 5, 5, 6, 5)):
        line.announce(seq, checksum=checksum)
        assert line.ledger.frozen("c") is (seq == 3), "three in a row, not two"
        if line.ledger.waiting() is not None:
            line.answer(line.lease())
        reasons |= line.released()
    frozen = Reason.FROZEN
    assert reasons == dict(enumerate((Reason.NONE, frozen, frozen, frozen, Reason.NONE, Reason.NONE)))


def test_a_missing_picture_does_not_hide_that_the_camera_is_frozen(line: Line) -> None:
    line.announce(0, checksum=5)
    line.announce(2, checksum=0, place="none", problem=int(Reason.NO_FRAME), pixels=b"")
    line.announce(3, checksum=5)
    line.answer(line.lease())
    assert line.released()[3] is Reason.FROZEN


def test_a_camera_and_an_epoch_have_their_own_pictures(line: Line) -> None:
    line.ledger.open_epoch("d", 1)
    line.announce(0, checksum=5)
    line.announce(0, camera="d", epoch=1, checksum=5)
    line.ledger.open_epoch("c", EPOCH + 1)
    line.announce(0, epoch=EPOCH + 1, checksum=5)
    assert line.ledger.open_parts == 3
    assert line.released() == {}, "nothing is decided"


def test_a_camera_that_may_repeat_itself_is_never_frozen() -> None:
    line = Line()
    line.ledger = Ledger("l", {"c": dataclasses.replace(RULES, repeats=True)})
    line.ledger.open_epoch("c", EPOCH)
    for seq in range(4):
        line.announce(seq, checksum=5)
    assert line.released() == {}
    assert not line.ledger.frozen("c")


def test_a_restarted_hub_knows_the_last_picture_of_the_earlier_one(line: Line) -> None:
    line.ledger.restore("c", EPOCH + 1, 8, [], line.now, last=(7, 5))
    line.ledger.open_epoch("c", EPOCH + 1)
    line.announce(8, epoch=EPOCH + 1, checksum=5)
    assert line.released() == {8: Reason.FROZEN}


@pytest.mark.parametrize("changes", [{"checksum": 5}, {"bundle": "other"}])
def test_a_result_about_other_pixels_or_of_another_bundle_is_refused_and_the_part_leased_again(
    line: Line, changes: dict[str, Any]
) -> None:
    line.announce(0)
    part = line.lease()
    stale = result(part)
    assert not line.answer(part, **changes)
    assert (part.state, part.lost) == (State.WAITING, 0)
    assert line.lease() is part
    assert not line.ledger.result(stale, "w", "b", True, line.now), "the first lease is void"
    assert line.answer(part)
    assert (part.attempt, line.ledger.counts["mismatch"]) == (2, 1)


def test_a_result_at_the_deadline_is_too_late(line: Line) -> None:
    line.announce(0)
    part = line.lease()
    line.now = part.due
    assert not line.answer(part)
    assert line.released() == {0: Reason.DEADLINE}
    assert not line.answer(part)
    assert line.ledger.counts == {"late_result": 2, "NO_DECISION": 1}


# ---- workers lost ----------------------------------------------------------------------------------------------------


def test_a_lost_worker_s_parts_are_leased_again(line: Line) -> None:
    line.announce(0)
    line.announce(1)
    first, second = line.lease(SESSION), line.lease(43)
    stale = result(first)
    assert line.ledger.lose(SESSION, line.now) == []
    assert (first.state, first.lost, second.state) == (State.WAITING, 1, State.LEASED)
    assert line.lease(43) is first
    assert not line.ledger.result(stale, "w", "b", True, line.now)
    assert line.answer(first)
    assert line.ledger.lose(SESSION, line.now) == [], "what it has answered is not its any more"
    assert line.answer(second)


def test_two_workers_lost_with_the_same_part_make_it_poison(line: Line) -> None:
    line.announce(0)
    part = line.lease(1)
    line.ledger.lose(1, line.now)
    line.lease(2)
    assert line.ledger.lose(2, line.now) == [part]
    assert line.released() == {0: Reason.POISON}
    assert line.ledger.waiting() is None


def test_a_worker_that_leaves_in_good_order_proves_nothing(line: Line) -> None:
    line.announce(0)
    for session in range(5):
        part = line.lease(session)
        assert line.ledger.lose(session, line.now, blame=False) == []
    assert (part.lost, part.state) == (0, State.WAITING)


def test_without_workers_the_reason_is_their_absence(line: Line) -> None:
    line.announce(0)
    line.now += 0.5
    assert line.released(workers=False) == {0: Reason.NO_WORKER}


# ---- stop and restart ------------------------------------------------------------------------------------------------


def test_stop_settles_everything_that_is_open(line: Line) -> None:
    for seq in range(3):
        line.announce(seq)
    line.answer(line.lease())
    part = line.lease()
    line.ledger.stop(line.now)
    assert line.released() == {0: Reason.NONE, 1: Reason.SHUTDOWN, 2: Reason.SHUTDOWN}
    assert not line.answer(part)


def test_open_keys_of_an_earlier_hub(line: Line) -> None:
    line.ledger.restore("c", EPOCH, 10, [4, 6, 7], line.now)
    line.ledger.restore("gone", 1, 3, [0], line.now)
    assert line.ledger.open_epoch("c", EPOCH)
    assert all(line.ledger.is_settled(FrameKey("l", "c", EPOCH, seq)) for seq in (0, 3, 5, 8, 9))
    assert not any(line.ledger.is_settled(FrameKey("l", "c", EPOCH, seq)) for seq in (4, 6, 7, 10))
    line.now += 0.1
    assert line.announce(6), "its source announces its window again"
    assert line.announce(5)
    assert line.announce(10)
    assert line.answer(line.lease())
    assert line.answer(line.lease())
    assert line.released() == {}
    line.now = 100.5
    shown = line.released()
    assert shown.pop(5) is not None, "announced again: what stands in the journal is shown, in its turn"
    assert shown == {4: Reason.RESTART, 6: Reason.NONE, 7: Reason.RESTART, 10: Reason.NONE}


def test_decided_keys_of_an_earlier_hub_are_shown_in_order_and_within_their_deadline(line: Line) -> None:
    line.ledger.restore("c", EPOCH, 10, [], line.now)
    line.ledger.open_epoch("c", EPOCH)
    line.announce(6, age_ms=501.0)
    line.announce(7)
    line.announce(9)
    line.announce(8)
    line.announce(7)
    assert list(line.released()) == [7, 9], "6 is too old, 8 comes after 9, 7 was shown"
    assert not any(line.ledger.counts[verdict] for verdict in Verdict), "an earlier hub has counted them"


def test_a_frame_announced_again_keeps_its_own_deadline(line: Line) -> None:
    line.ledger.restore("c", EPOCH, 2, [0, 1], line.now)
    line.ledger.open_epoch("c", EPOCH)
    line.announce(0, age_ms=400.0)
    line.announce(1, age_ms=501.0)
    assert line.ledger.next_due() is not None
    assert line.released() == {}
    line.now += 0.1
    assert line.released() == {0: Reason.RESTART, 1: Reason.RESTART}, "not only when the restored one would be due"


def test_outcomes_that_stood_already_are_not_counted_twice(line: Line) -> None:
    line.announce(0)
    line.answer(line.lease())
    for part in line.ledger.take_decided():
        line.ledger.recorded(part, 0)
    assert len(list(line.ledger.release())) == 1
    assert line.ledger.counts["PASS"] == 0


def test_settled_parts_hold_no_pixels(line: Line) -> None:
    """A deadline may be minutes away; until then the queue of deadlines knows the part."""
    line.announce(0)
    part = line.lease()
    line.answer(part)
    line.released()
    assert part.frame is not None
    assert part.pixels == part.frame.pixels == b""
