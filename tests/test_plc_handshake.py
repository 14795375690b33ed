"""The handshake: every state and event, what a PLC may see, and random lives of a line that must keep the promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from line_worker.sink import PartHere, RecipeWanted
from line_worker.sink.plc.handshake import DEPTH, HUB_SILENT_S, REJECT_GRACE_S, Handshake
from line_worker.sink.plc.registers import MAP_VERSION, RESULT_AT, STOP_AT, Code, Fault, Plc, Result, Station, decode
from line_worker.verdicts import Reason, StationState
from line_worker.wire.messages import FrameKey, HubState, Outcome

STALE_S = 1.0
SYNC = 500


def outcome(seq: int, *, reason: int = 0, left_ms: float = 200.0, camera: str = "top") -> Outcome:
    verdict = {0: "PASS", 1: "FAIL"}.get(reason, "NO_DECISION")
    key = FrameKey("line-1", camera, 0xABCDE, seq)
    return Outcome(
        *(seq + 1, key, verdict, reason, 0.5, 1.0, (), "beef" * 16, "worker-0", 1, f"part-{seq}", seq + 1),
        *(10.0, left_ms, 0.0, {}),
    )


def state(beat: int) -> HubState:
    return HubState(1, beat, StationState.RUNNING, "", "beef" * 16, 3, 2, {})


class Line:
    """A handshake with a well-behaved hub and PLC around it, and a clock in its hand."""

    def __init__(self) -> None:
        self.hand = Handshake(SYNC, STALE_S)
        self.now, self.beats, self.plc = 100.0, 0, Plc()
        self.plc_beats = True
        self.tell()

    def run(self, seconds: float, *, hub: bool = True, plc: bool = True) -> None:
        """Let time pass in steps of 10 ms while both sides beat."""
        end = self.now + seconds
        while self.now < end - 1e-9:
            self.now += 0.01
            if hub:
                self.beats += 1
                self.hand.beat(state(self.beats), self.now)
            if plc:
                self.tell(plc_heartbeat=(self.plc.plc_heartbeat + 1) & 0xFFFF)
            self.hand.tick(self.now)

    def tell(self, **changes: int) -> None:
        self.plc = replace(self.plc, **changes)
        self.hand.take(self.plc, self.now)

    def offer(self, *outcomes: Outcome) -> None:
        for one in outcomes:
            self.hand.offer(one, self.now)

    @property
    def station(self) -> Station:
        return decode(Station, self.hand.words(self.now)[:RESULT_AT])

    @property
    def result(self) -> Result:
        return decode(Result, self.hand.words(self.now)[RESULT_AT:STOP_AT])

    def acknowledge(self) -> int:
        """Take the result on show as a PLC does; returns its seq."""
        shown = self.result
        self.tell(ack_seq=shown.seq, ack_toggle=shown.toggle)
        return shown.seq

    def synchronise(self) -> None:
        self.tell(sync_echo=self.station.sync)


def ready() -> Line:
    line = Line()
    line.run(0.05)
    line.synchronise()
    return line


@pytest.fixture
def line() -> Line:
    return ready()


# ---- the ordinary way ------------------------------------------------------------------------------------------------


def test_a_pass_is_shown_with_its_evidence(line: Line) -> None:
    line.offer(outcome(7))
    shown = line.result
    assert (shown.verdict, shown.complement, shown.reason16) == (0x5AA5, 0xA55A, 0)
    assert (shown.seq, shown.epoch16, shown.trigger, shown.bundle16) == (7, 0xBCDE, 8, 0xBEEF)
    assert (shown.camera, shown.part_id, shown.score, shown.threshold) == ("top", "part-7", 0.5, 1.0)
    assert line.hand.reachable() == (True, "")


def test_results_are_shown_in_order_each_until_it_is_acknowledged(line: Line) -> None:
    line.offer(outcome(0), outcome(1, reason=1), outcome(2, reason=Reason.GAP))
    toggles, codes = [], []
    for seq in range(3):
        toggles.append(line.result.toggle)
        codes.append(line.result.verdict)
        assert line.acknowledge() == seq
    assert len(set(toggles)) == 3
    assert 0 not in toggles
    assert codes == [Code.PASS, Code.FAIL, Code.NO_DECISION]
    assert line.hand.counts == {"acknowledged": 3}
    assert not line.hand.pending


def test_the_last_result_stays_readable_after_its_acknowledgement(line: Line) -> None:
    line.offer(outcome(0))
    toggle = line.result.toggle
    line.acknowledge()
    line.run(1.0)
    assert (line.result.toggle, line.result.verdict) == (toggle, Code.PASS)


def test_an_outcome_that_comes_twice_is_offered_once(line: Line) -> None:
    line.offer(outcome(0), outcome(0))
    assert line.station.queued == 1
    line.acknowledge()
    line.offer(outcome(0))
    assert line.station.queued == 0


def test_the_same_seq_of_another_camera_is_another_part(line: Line) -> None:
    line.offer(outcome(0), outcome(0, camera="side"))
    line.acknowledge()
    assert (line.result.camera, line.station.queued) == ("side", 1)


def test_the_station_block_tells_what_the_hub_tells(line: Line) -> None:
    line.offer(outcome(0))
    station = line.station
    assert (station.state, station.workers, station.open_parts, station.queued) == (StationState.RUNNING, 2, 3, 1)
    assert (station.alive, station.fault, station.sync, station.map_version) == (1, Fault.NONE, SYNC, MAP_VERSION)


# ---- heartbeats ------------------------------------------------------------------------------------------------------


def test_only_a_new_beat_of_the_hub_drives_the_heartbeat(line: Line) -> None:
    before = line.station.heartbeat
    line.hand.beat(state(line.beats), line.now)
    assert line.station.heartbeat == before
    line.hand.beat(state(line.beats + 1), line.now)
    assert line.station.heartbeat == before + 1


def test_a_silent_hub_freezes_the_heartbeat_and_withdraws(line: Line) -> None:
    line.offer(outcome(0, left_ms=60_000))
    before = line.station.heartbeat
    line.run(HUB_SILENT_S + 0.02, hub=False)
    station = line.station
    assert (station.heartbeat, station.alive, station.state) == (before, 0, StationState.FAULT)
    assert line.result.verdict == Code.NO_DECISION


def test_before_the_first_beat_the_station_is_in_selftest() -> None:
    assert (Line().station.state, Line().station.alive) == (StationState.SELFTEST, 0)


@pytest.mark.parametrize("when", ["on show", "queued", "offered while stale"])
def test_no_pass_while_the_plc_heartbeat_is_stale_and_none_comes_back(line: Line, when: str) -> None:
    sent = [outcome(0, left_ms=60_000), outcome(1, left_ms=60_000)]
    if when != "offered while stale":
        line.offer(*sent)
    line.run(STALE_S + 0.02, plc=False)
    line.offer(*sent)
    ok, why = line.hand.reachable()
    assert not ok
    assert "heartbeat stands still" in why
    line.run(0.1)
    assert line.hand.reachable() == (True, "")
    if when == "queued":
        line.acknowledge()
    assert (line.result.verdict, line.result.reason16) == (Code.NO_DECISION, Reason.NOT_RUNNING)
    assert line.result.complement == 0xFFFF ^ Code.NO_DECISION


def test_a_heartbeat_that_was_never_seen_to_move_is_stale() -> None:
    line = Line()
    line.tell(plc_heartbeat=77)
    line.run(0.2, plc=False)
    line.synchronise()
    line.offer(outcome(0))
    assert line.result.verdict == Code.PASS  # 0 -> 77 was a move
    line = Line.__new__(Line)
    line.hand, line.now, line.beats = Handshake(SYNC, STALE_S), 0.0, 0
    line.plc = Plc(plc_heartbeat=77, sync_echo=SYNC)  # registers that some dead PLC has left behind
    line.tell()
    line.run(0.2, plc=False)
    line.offer(outcome(0))
    assert line.result.verdict == Code.NO_DECISION


# ---- windows ---------------------------------------------------------------------------------------------------------


def test_a_pass_is_withdrawn_when_its_window_ends_and_never_shown_again(line: Line) -> None:
    line.offer(outcome(0, left_ms=50))
    toggle = line.result.toggle
    line.run(0.06)
    assert (line.result.toggle, line.result.verdict, line.result.reason16) == (
        toggle,
        Code.NO_DECISION,
        Reason.DEADLINE,
    )
    assert line.station.expired == 1
    line.offer(outcome(0))
    line.run(0.1)
    assert line.result.verdict == Code.NO_DECISION


def test_a_queued_result_whose_window_ends_is_skipped(line: Line) -> None:
    line.offer(outcome(0), outcome(1, left_ms=20), outcome(2))
    line.run(0.03)
    line.acknowledge()
    assert (line.result.seq, line.hand.counts["expired"]) == (2, 1)


def test_a_pass_whose_time_is_over_on_arrival_is_never_shown(line: Line) -> None:
    line.offer(outcome(0, left_ms=-1.0))
    assert line.result.toggle == 0
    assert line.hand.counts == {"expired": 1}


def test_a_reject_may_be_late(line: Line) -> None:
    line.offer(outcome(0, reason=Reason.DEADLINE, left_ms=-3.0))
    assert (line.result.seq, line.result.reason16) == (0, Reason.DEADLINE)
    line.run(REJECT_GRACE_S + 0.02)
    assert line.station.expired == 1


def test_an_acknowledgement_that_crosses_the_end_of_the_window_is_no_fault(line: Line) -> None:
    line.offer(outcome(0, left_ms=50), outcome(1))
    late = line.result
    line.run(0.06)
    line.tell(ack_seq=late.seq, ack_toggle=late.toggle)
    assert (line.station.fault, line.hand.counts["late_acks"]) == (Fault.NONE, 1)
    assert line.acknowledge() == 1
    assert line.hand.counts["acknowledged"] == 1


# ---- faults ----------------------------------------------------------------------------------------------------------


def test_the_ninth_unacknowledged_result_is_a_fault_and_overwrites_nothing(line: Line) -> None:
    line.offer(*(outcome(seq) for seq in range(DEPTH)))
    shown = line.result
    assert (line.station.fault, line.station.queued) == (Fault.NONE, DEPTH)
    line.offer(outcome(DEPTH))
    station = line.station
    assert (station.fault, station.state, station.queued) == (Fault.OVERFLOW, StationState.FAULT, 0)
    assert (line.result.seq, line.result.toggle) == (shown.seq, shown.toggle)
    assert line.result.verdict == Code.NO_DECISION
    assert line.hand.counts["undelivered"] == DEPTH + 1


@pytest.mark.parametrize(("seq", "toggle"), [(-1, 0), (1, 0), (0, 1), (-1, -2), (-3, -3)])
def test_a_wrong_acknowledgement_is_a_fault_at_once(line: Line, seq: int, toggle: int) -> None:
    for number in range(4):
        line.offer(outcome(number))
        line.acknowledge()
    line.offer(outcome(4))
    line.tell(ack_seq=line.result.seq + seq, ack_toggle=line.result.toggle + toggle)
    assert (line.station.fault, line.station.state) == (Fault.WRONG_ACK, StationState.FAULT)
    assert line.result.verdict == Code.NO_DECISION
    ok, why = line.hand.reachable()
    assert not ok
    assert "WRONG_ACK" in why


def test_an_acknowledgement_that_does_not_change_its_toggle_is_not_finished_yet(line: Line) -> None:
    line.offer(outcome(0))
    line.tell(ack_seq=0)  # a PLC that writes register by register, the toggle last
    assert (line.station.fault, line.station.queued) == (Fault.NONE, 1)
    line.tell(ack_toggle=line.result.toggle)
    assert (line.station.fault, line.station.queued) == (Fault.NONE, 0)


def test_a_fault_turns_a_fail_on_show_into_no_decision_too(line: Line) -> None:
    line.offer(outcome(0, reason=Reason.ANOMALY))
    line.tell(ack_seq=1, ack_toggle=line.result.toggle)
    assert (line.result.verdict, line.result.reason16) == (Code.NO_DECISION, Reason.NOT_RUNNING)


def test_the_fault_names_expected_and_got(line: Line) -> None:
    line.offer(outcome(5))
    line.tell(ack_seq=4, ack_toggle=line.result.toggle)
    (note,) = [note for note in line.hand.take_notes() if note.event == "PLC fault"]
    assert note.serious
    assert note.details["text"] == "expected seq 5, toggle 1; got seq 4, toggle 1"


def test_an_acknowledgement_of_nothing_is_a_fault(line: Line) -> None:
    line.tell(ack_seq=3, ack_toggle=9)
    assert line.station.fault == Fault.WRONG_ACK


def test_after_a_fault_everything_is_no_decision_until_the_plc_synchronises(line: Line) -> None:
    line.offer(outcome(0))
    line.tell(ack_seq=99, ack_toggle=line.result.toggle)
    line.offer(outcome(1))
    line.run(0.2)
    assert (line.result.seq, line.result.verdict) == (0, Code.NO_DECISION)
    assert line.station.sync == SYNC + 1
    line.synchronise()
    assert (line.station.fault, line.hand.reachable()) == (Fault.NONE, (True, ""))
    assert line.result.verdict == Code.NO_DECISION
    line.offer(outcome(2))
    assert (line.result.seq, line.result.verdict) == (2, Code.PASS)
    assert line.acknowledge() == 2


def test_a_plc_that_restarts_begins_again_without_a_fault(line: Line) -> None:
    line.offer(outcome(0), outcome(1))
    line.acknowledge()
    line.tell(sync_echo=0, ack_toggle=0, ack_seq=0)
    assert (line.station.fault, line.result.verdict, line.station.queued) == (Fault.NONE, Code.NO_DECISION, 0)
    line.synchronise()
    line.offer(outcome(2))
    assert (line.result.verdict, line.station.fault) == (Code.PASS, Fault.NONE)


def test_stale_acknowledgement_registers_are_no_fault_when_the_plc_synchronises() -> None:
    line = Line()
    line.run(0.05)
    line.tell(sync_echo=SYNC, ack_seq=1234, ack_toggle=77)
    assert (line.station.fault, line.hand.synced) == (Fault.NONE, True)


@pytest.mark.parametrize("left_behind", [0, 1, 2, 3, 0xFFFF])
def test_what_an_earlier_station_left_in_the_acknowledgement_is_never_taken_for_one(left_behind: int) -> None:
    line = Line()
    line.run(0.05)
    line.tell(ack_toggle=left_behind)
    line.synchronise()
    for seq in range(3):
        line.offer(outcome(seq))
        assert line.result.toggle not in (0, line.plc.ack_toggle)
        line.acknowledge()
    assert line.hand.counts == {"acknowledged": 3}


def test_nothing_is_offered_before_the_plc_synchronises() -> None:
    line = Line()
    line.run(0.05)
    line.offer(outcome(0))
    ok, why = line.hand.reachable()
    assert (ok, line.result.toggle, line.result.verdict) == (False, 0, Code.NO_DECISION)
    assert "must copy `sync` (500)" in why
    line.synchronise()
    assert line.result.toggle == 0


def test_sync_and_toggle_wrap_past_zero() -> None:
    line = Line()
    line.hand = Handshake(0xFFFF, STALE_S)
    line.tell()
    line.run(0.05)
    line.synchronise()
    line.hand._toggle = 0xFFFF
    line.offer(outcome(0))
    assert line.result.toggle == 1
    line.tell(ack_seq=9, ack_toggle=1)
    assert line.station.sync == 1


# ---- every state and event -------------------------------------------------------------------------------------------

STATES: dict[str, Callable[[], Line]] = {}
EVENTS: dict[str, Callable[[Line], None]] = {
    "offer": lambda line: line.offer(outcome(50)),
    "beat": lambda line: line.run(0.01, plc=False),
    "plc beats": lambda line: line.run(0.01, hub=False),
    "right ack": lambda line: line.tell(ack_seq=line.result.seq, ack_toggle=line.result.toggle),
    "wrong ack": lambda line: line.tell(ack_seq=77, ack_toggle=line.plc.ack_toggle + 5),
    "echo": lambda line: line.synchronise(),
    "echo gone": lambda line: line.tell(sync_echo=0),
    "time": lambda line: line.run(0.5),
}
W, S = "waiting", "synced"
NEXT = {
    #               offer  beat plc  right  wrong  echo gone time
    "waiting": (W, W, W, W, W, S, W, W),
    "idle": (S, S, S, S, W, S, W, S),
    "showing": (S, S, S, S, W, S, W, S),
    "full": (W, S, S, S, W, S, W, S),
    "overflow": (W, W, W, W, W, S, W, W),
    "wrong ack": (W, W, W, W, W, S, W, W),
}


def test_the_line_stops_while_the_hub_says_so() -> None:
    hand = Handshake(SYNC, STALE_S)
    assert hand.words(0.0)[STOP_AT:] == [0, 0, 0]
    hand.beat(replace(state(1), stop_line=3, recipe=7, recipe_state=1), 0.0)
    assert hand.words(0.0)[STOP_AT:] == [3, 7, 1]
    hand.beat(state(2), 0.0)
    assert hand.words(0.0)[STOP_AT:] == [0, 0, 0]


# ---- what the PLC asks for -------------------------------------------------------------------------------------------


def counting(*counts: tuple[float, int, str]) -> Handshake:
    """Return a handshake whose PLC beats ten times a second and counts its parts so."""
    hand, beats, now = Handshake(SYNC, STALE_S), 0, counts[0][0] - 0.3
    for at, triggers, part_id in counts:
        before = Plc(triggers=counts[0][1])
        while now < at:
            beats, now = beats + 1, now + 0.1
            before = replace(hand._plc if beats > 1 else before, plc_heartbeat=beats)
            hand.take(before, now)
        hand.take(Plc(plc_heartbeat=beats, triggers=triggers, next_part=part_id), at)
    return hand


def test_every_count_is_a_part() -> None:
    hand = counting((1.0, 41, "what stands there at our start is no part"), (2.0, 42, "A-7"), (2.1, 42, "A-8"))
    assert hand.take_asks() == [PartHere(42, "A-7", 2.0)]
    assert hand.take_asks() == []


def test_counts_that_went_by_between_two_looks_are_missed_parts() -> None:
    hand = counting((1.0, 0xFFFFFFFF, ""), (2.0, 2, "C"))
    assert hand.take_asks() == [
        PartHere(0, "", 2.0, missed=True),
        PartHere(1, "", 2.0, missed=True),
        PartHere(2, "C", 2.0),
    ]


def test_a_count_after_the_plc_was_away_is_a_part_of_nobody_knows_when() -> None:
    hand = counting((1.0, 41, ""))
    hand.take(Plc(plc_heartbeat=99, triggers=42, next_part="A"), 1.0 + STALE_S + 1)
    assert hand.take_asks() == [PartHere(42, "A", 2.0 + STALE_S, missed=True)]


def test_a_plc_that_counts_anew_triggers_nothing() -> None:
    hand = counting((1.0, 500, ""), (2.0, 0, ""), (3.0, 1, ""))
    assert hand.take_asks() == [PartHere(1, "", 3.0)]
    assert [note.event for note in hand.take_notes()] == ["PLC counts anew"]


def test_a_recipe_is_asked_for_once() -> None:
    hand = Handshake(SYNC, STALE_S)
    for wanted in (0, 3, 3, 0, 4):
        hand.take(Plc(recipe_wanted=wanted), 1.0)
    assert hand.take_asks() == [RecipeWanted(3), RecipeWanted(4)]
    again = Handshake(SYNC, STALE_S)
    again.take(Plc(recipe_wanted=4), 1.0)
    assert again.take_asks() == [RecipeWanted(4)], "what stands there at our start is a wish, too"


def state_named(name: str) -> Line:
    if name == "waiting":
        line = Line()
        line.run(0.05)
        return line
    line = ready()
    line.offer(*(outcome(seq) for seq in range({"showing": 1, "full": DEPTH, "overflow": DEPTH + 1}.get(name, 0))))
    if name == "wrong ack":
        line.tell(ack_seq=1, ack_toggle=1)
    return line


@pytest.mark.parametrize("event", range(len(EVENTS)), ids=list(EVENTS))
@pytest.mark.parametrize("start", NEXT)
def test_every_event_in_every_state(start: str, event: int) -> None:
    line = state_named(start)
    before = line.result
    list(EVENTS.values())[event](line)
    assert line.hand.synced == (NEXT[start][event] == S)
    if not line.hand.synced:
        assert line.result.verdict == Code.NO_DECISION
        assert line.result.toggle == before.toggle


# ---- random lives ----------------------------------------------------------------------------------------------------

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.sampled_from([0, 0, 0, 1, 10]), st.sampled_from([-5.0, 15.0, 200.0])),
        st.tuples(st.just("run"), st.sampled_from([0.01, 0.02, 1.1]), st.sampled_from(["both", "hub", "plc"])),
        st.tuples(st.just("ack"), st.sampled_from(["right", "right", "right", "seq", "toggle"]), st.none()),
        st.tuples(st.just("sync"), st.sampled_from(["echo", "echo", "echo", "zero"]), st.none()),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=200, deadline=None)
def test_whatever_happens_the_promise_holds(steps: list[tuple[str, object, object]]) -> None:
    line, life = ready(), Life()
    for what, first, second in steps:
        if what == "offer":
            one = outcome(len(life.sent), reason=int(str(first)), left_ms=float(str(second)))
            life.sent[one.key.seq] = (one, line.now + one.left_ms / 1000)
            line.offer(one)
        elif what == "run":
            line.run(float(str(first)), hub=second != "plc", plc=second != "hub")
        elif what == "ack":
            off = {"seq": (1, 0), "toggle": (0, 3)}.get(str(first), (0, 0))
            shown, before = line.result, line.hand.counts["acknowledged"]
            line.tell(ack_seq=shown.seq + off[0], ack_toggle=(shown.toggle + off[1]) & 0xFFFF)
            if line.hand.counts["acknowledged"] > before:
                life.taken.add(shown.seq)
        else:
            line.tell(sync_echo=line.station.sync if first == "echo" else 0)
        life.check(line)


class Life:
    """What was sent, taken and shown so far."""

    def __init__(self) -> None:
        self.sent: dict[int, tuple[Outcome, float]] = {}
        self.taken: set[int] = set()
        self.shown: dict[int, tuple[int, int]] = {}  # toggle -> seq and verdict

    def check(self, line: Line) -> None:
        station, shown, counts = line.station, line.result, line.hand.counts
        assert shown.verdict ^ shown.complement == 0xFFFF
        assert station.queued <= DEPTH
        ends = counts["acknowledged"] + counts["expired"] + counts["undelivered"]
        assert ends + station.queued == len(self.sent)
        if shown.verdict == Code.PASS:
            one, latest = self.sent[shown.seq]
            assert one.passed
            assert line.hand.synced
            assert station.alive
            assert line.hand.reachable()[0]
            assert shown.seq in self.taken or line.now < latest
        if shown.toggle:
            seq, verdict = self.shown.setdefault(shown.toggle, (shown.seq, shown.verdict))
            assert seq == shown.seq
            assert shown.verdict in (verdict, Code.NO_DECISION)
            self.shown[shown.toggle] = (seq, shown.verdict)
