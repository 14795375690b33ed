"""Parts of several cameras: one verdict each, by the deadline, whatever comes and in whatever order."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.config import Config, FreeTrigger, Parts, SinkTrigger
from line_worker.config_triggers import trigger_problems
from line_worker.hub.ledger import Ledger
from line_worker.hub.part import CameraRules, Decision, Part
from line_worker.hub.views import MAX_OPEN, STRAGGLING_S, Views
from line_worker.verdicts import Reason
from line_worker.wire.messages import Frame, FrameKey, Outcome, Result, View

CAMERAS = ("top", "side", "back")
D = 0.5


class Line:
    """A ledger with views, and a clock that a test turns."""

    def __init__(self, *, one_sink: bool = True, **parts: Any) -> None:
        rules = CameraRules(D, 8, 100, repeats=True)
        names = parts.setdefault("cameras", CAMERAS)
        self.ledger = Ledger("l", dict.fromkeys((*names, "alone"), rules) | {"p": CameraRules(D, 24, 0, gathered=True)})
        group = Parts.model_validate({"name": "p"} | parts)
        trigger = SinkTrigger(kind="sink", sink="plc") if one_sink else FreeTrigger()
        cameras = [SimpleNamespace(name=name, trigger=trigger) for name in names]
        self.views = Views(cast(Config, SimpleNamespace(parts=(group,), cameras=cameras)), self.ledger)
        self.views.open_epochs(1)
        self.now, self.rows, self.seqs = 100.0, 0, dict.fromkeys((*names, "alone"), 0)
        for name in self.seqs:
            self.ledger.open_epoch(name, 7)
        self.shown: list[tuple[float, Part]] = []

    def sees(
        self,
        camera: str,
        part_id: str = "",
        trigger: int = 0,
        age_s: float = 0.0,
        problem: Reason = Reason.NONE,
        unsure_s: float = 0.0,
    ) -> FrameKey:
        """A camera announces a picture."""
        key = FrameKey("l", camera, 7, self.seqs[camera])
        self.seqs[camera] += 1
        pixels = b"" if problem else bytes(20)
        place = "inline" if pixels else "none"
        header = (key, age_s * 1000, D * 1000, (4, 5), "uint8", "gray", 1, place)
        frame = Frame(*header, part_id=part_id, trigger=trigger, problem=int(problem), pixels=pixels)
        assert self.ledger.announce(frame, frame.pixels, self.now)
        self.views.seen(frame, self.now, unsure_s)
        return key

    def says(self, key: FrameKey, score: float, *, may_pass: bool = True) -> None:
        """A worker scores the picture; a good one stays under 1."""
        while (part := self.ledger.waiting()) is not None:
            self.ledger.lease(part, 1)
        part = self.ledger.find(key)
        assert part is not None
        result = Result(key, part.lease, 1, "b", 1, 0, score, 1.0, (), {})
        assert self.ledger.result(result, "w", "b", may_pass, self.now)

    def turn(self, now: float | None = None) -> dict[str, Reason]:
        """End a turn; returns what was shown of parts, by their id."""
        self.now = self.now if now is None else now
        self.ledger.expire(self.now, True)
        for part in self.views.settle(self.now):
            self.rows += 1
            self.ledger.recorded(part, self.rows)
        released = [part for part in self.ledger.release() if part.gathered]
        self.shown += [(self.now, part) for part in released]
        return {_name(part): part.decision.reason for part in released if part.decision}

    @property
    def reasons(self) -> list[Reason]:
        """Why the parts that were shown are what they are, in their order."""
        return [part.decision.reason for _, part in self.shown if part.decision]


def _name(part: Part) -> str:
    return (part.frame.part_id or str(part.frame.trigger)) if part.frame else "?"


def test_a_part_passes_when_all_its_views_have() -> None:
    line = Line()
    keys = [line.sees(camera, "A") for camera in CAMERAS]
    for key in keys[:2]:
        line.says(key, 0.3)
        assert line.turn() == {}
    line.says(keys[2], 0.9)
    assert line.turn() == {"A": Reason.NONE}
    [(_, part)] = line.shown
    assert part.decision is not None
    assert (part.decision.score, part.decision.bundle) == (0.9, "b"), (
        "the evidence is that of the view nearest its limit"
    )
    assert [view.key for view in part.decision.views] == keys
    assert (part.key.camera, part.key.seq, line.ledger.open_parts) == ("p", 0, 0)


def test_one_bad_view_fails_the_part_at_once() -> None:
    line = Line()
    keys = [line.sees(camera, "A") for camera in CAMERAS]
    line.says(keys[1], 1.5)
    assert line.turn() == {"A": Reason.ANOMALY}
    line.says(keys[0], 0.1)
    line.says(keys[2], 0.1)
    assert line.turn() == {}, "decided once"


def test_a_view_without_a_decision_gives_its_reason_unless_another_failed() -> None:
    line = Line()
    line.sees("top", "A", problem=Reason.DECODE)
    assert line.turn() == {"A": Reason.DECODE}
    line = Line(passes=2)
    key = line.sees("side", "B")
    line.sees("top", "B", problem=Reason.DECODE)
    line.says(key, 2.0)
    assert line.turn() == {"B": Reason.ANOMALY}


def test_a_view_that_never_comes_is_no_frame_at_the_deadline() -> None:
    line = Line()
    for camera in CAMERAS[:2]:
        line.says(line.sees(camera, "A", age_s=0.1), 0.1)
    assert line.turn(100.0 + D - 0.11) == {}
    assert line.turn(100.0 + D - 0.1) == {"A": Reason.NO_FRAME}


def test_the_deadline_counts_from_the_earliest_trigger_of_its_views() -> None:
    line = Line()
    keys = [line.sees("top", "A"), line.sees("side", "A", age_s=0.2), line.sees("back", "A", age_s=0.1)]
    for key in keys[:1]:
        line.says(key, 0.1)
    assert line.turn(100.0 + D - 0.21) == {}
    assert line.turn(100.0 + D - 0.2) == {"A": Reason.DEADLINE}, "all have come, one was not decided"


def test_as_many_views_as_configured_are_enough() -> None:
    line = Line(passes=2)
    keys = [line.sees(camera, "A") for camera in CAMERAS]
    line.says(keys[0], 1.5)
    assert line.turn() == {}
    line.says(keys[1], 0.1)
    line.says(keys[2], 0.1)
    assert line.turn() == {"A": Reason.NONE}
    keys = [line.sees(camera, "B") for camera in CAMERAS]
    line.says(keys[0], 1.5)
    line.says(keys[1], 1.2)
    assert line.turn() == {"B": Reason.ANOMALY}


def test_parts_of_one_trigger_are_told_apart_by_its_number() -> None:
    line = Line(cameras=("top", "side"))
    keys = [line.sees("top", "", 5), line.sees("top", "", 6), line.sees("side", "", 6), line.sees("side", "", 5)]
    for key in keys:
        line.says(key, 0.1 if key != keys[3] else 2.0)
    assert line.turn() == {"5": Reason.ANOMALY, "6": Reason.NONE}


def test_cameras_without_a_common_number_are_matched_by_time() -> None:
    line = Line(cameras=("top", "side"), match="time", within_ms=20)
    keys = [line.sees("top", trigger=900, age_s=0.1), line.sees("side", trigger=4, age_s=0.11)]
    keys += [line.sees("top", trigger=901, age_s=0.01), line.sees("side", trigger=5)]
    for key in keys:
        line.says(key, 0.1)
    assert list(line.turn().values()) == [Reason.NONE, Reason.NONE]


def test_a_second_picture_of_one_camera_is_a_conflict() -> None:
    line = Line()
    line.sees("top", "A")
    line.sees("top", "A")
    assert line.turn() == {"A": Reason.ID_CONFLICT}


def test_a_view_without_anything_to_match_by_never_passes() -> None:
    line = Line(cameras=("top",))
    line.says(line.sees("top"), 0.1)
    assert line.turn() == {"0": Reason.HEADER}


def test_a_late_view_belongs_to_the_part_that_was_decided() -> None:
    line = Line(cameras=("top", "side"))
    line.says(line.sees("top", "A"), 0.1)
    assert line.turn(101.0) == {"A": Reason.NO_FRAME}
    line.says(line.sees("side", "A"), 0.1)
    assert line.turn(103.0) == {}
    assert line.ledger.counts["late_view"] == 1


def test_a_part_that_comes_again_is_judged_again() -> None:
    line = Line(cameras=("top", "side"))
    for _ in range(2):
        for key in [line.sees("top", "A"), line.sees("side", "A")]:
            line.says(key, 0.1)
        assert line.turn() == {"A": Reason.NONE}
    line.says(line.sees("top", "B"), 0.1)
    assert line.turn(101.0) == {"B": Reason.NO_FRAME}
    line.now += STRAGGLING_S + 1
    line.says(line.sees("side", "B"), 0.1)
    assert line.turn() == {}
    assert line.turn(line.now + D) == {"B": Reason.NO_FRAME}, "after so long it is another visit"


def test_a_triggered_part_is_owed_an_answer_even_if_no_camera_sees_it() -> None:
    line = Line()
    line.views.fired(CAMERAS, "A", 3, line.now - 0.1, line.now)
    line.views.fired(CAMERAS, "A", 3, line.now, line.now)
    assert line.turn(100.0 + D - 0.1) == {"A": Reason.NO_FRAME}
    line.views.fired(["alone"], "B", 4, line.now, line.now)
    assert line.turn(110.0) == {}


def test_a_trigger_that_is_told_again_after_its_part_was_decided_is_no_other_part() -> None:
    line = Line()
    line.views.fired(CAMERAS, "A", 3, line.now, line.now)
    assert line.turn(line.now + D) == {"A": Reason.NO_FRAME}
    line.views.fired(CAMERAS, "A", 3, line.now, line.now, missed=True)
    line.views.fired(CAMERAS, "A", 4, line.now, line.now, missed=True)
    assert len([part for part in line.ledger.all_parts() if part.open]) == 1
    assert line.turn(line.now + D) == {"A": Reason.NO_FRAME}


def test_triggers_open_only_so_many_parts() -> None:
    line = Line()
    for number in range(1, MAX_OPEN + 50):
        line.views.fired(CAMERAS, "", number, line.now, line.now)
    assert sum(part.open for part in line.ledger.all_parts()) == MAX_OPEN
    assert set(line.turn().values()) == set(), "those before hold them back, in their order"
    assert set(line.turn(line.now + D).values()) == {Reason.NO_FRAME, Reason.OVERLOAD}


def test_cameras_outside_of_the_group_are_left_alone() -> None:
    line = Line()
    line.says(line.sees("alone", "A"), 0.1)
    assert line.turn() == {}
    assert line.ledger.open_parts == 0


def test_nothing_passes_while_the_station_does_not_run() -> None:
    line = Line(cameras=("top", "side"))
    for key in [line.sees("top", "A"), line.sees("side", "A")]:
        line.says(key, 0.1, may_pass=False)
    assert line.turn() == {"A": Reason.NOT_RUNNING}


def test_what_an_earlier_hub_has_decided_stands() -> None:
    line = Line(cameras=("top", "side"))
    view = View(FrameKey("l", "top", 7, 0), "FAIL", 1, 2.0, 1.0)
    decided = Outcome(
        4, FrameKey("l", "p", 0, 0), "FAIL", 1, 2.0, 1.0, (), "b", "w", 1, "A", 0, 5.0, 0.0, 0.0, {}, views=(view,)
    )
    line.views.restore("p", [decided], line.now)
    line.says(line.sees("side", "A"), 0.1)
    assert line.turn(line.now + D) == {}


def test_what_cameras_count_by_themselves_tells_nothing() -> None:
    line = Line(one_sink=False, cameras=("top", "side"))
    for key in (line.sees("top", trigger=100), line.sees("side", trigger=100)):
        line.says(key, 0.1)
    line.turn()
    assert line.reasons == [Reason.HEADER, Reason.HEADER], "a part each, and none may pass"
    for key in (line.sees("top", "A", trigger=3), line.sees("side", "A", trigger=9)):
        line.says(key, 0.1)
    assert line.turn() == {"A": Reason.NONE}, "the part's id is the same for all"


def test_an_id_that_stands_for_many_parts_is_told_apart_by_the_trigger() -> None:
    line = Line(cameras=("top", "side"))
    for number in (2, 3):
        line.views.fired(("top", "side"), "LOT", number, line.now, line.now)
    newer, older = line.sees("top", "LOT", 3), line.sees("side", "LOT", 2)
    line.says(newer, 0.1)
    line.says(older, 0.1)
    assert line.turn() == {}
    assert list(line.turn(line.now + D).values()) == [Reason.NO_FRAME]
    assert [(part.frame.trigger, part.decision.reason) for _, part in line.shown if part.frame and part.decision] == [
        (2, Reason.NO_FRAME),
        (3, Reason.NO_FRAME),
    ]


def test_a_view_whose_row_could_not_be_written_has_not_passed() -> None:
    line = Line(cameras=("top", "side"))
    first, second = line.sees("top", "A"), line.sees("side", "A")
    line.says(first, 0.1)
    [view] = line.views.settle(line.now)
    view.decision = Decision(Reason.JOURNAL, line.now)  # what the books make of it
    line.says(second, 0.1)
    assert line.turn() == {"A": Reason.JOURNAL}


def test_a_part_that_is_known_to_be_bad_never_passes() -> None:
    line = Line(passes=2)
    line.ledger.challenge("top", 1)
    keys = [line.sees(camera, "A") for camera in CAMERAS]
    line.says(keys[0], 2.0)
    line.says(keys[1], 0.1)
    line.says(keys[2], 0.1)
    assert line.turn() == {"A": Reason.CANARY}
    assert line.shown[-1][1].challenge, "the line's rules do not count it"


def test_views_of_two_bundles_make_no_pass() -> None:
    line = Line(cameras=("top", "side"))
    line.says(line.sees("top", "A"), 0.1)
    [view] = line.views.settle(line.now)
    assert view.decision is not None
    view.decision = dataclasses.replace(view.decision, bundle="another")
    line.says(line.sees("side", "A"), 0.1)
    assert line.turn() == {"A": Reason.NOT_RUNNING}


def test_time_that_could_mean_two_parts_means_none() -> None:
    line = Line(cameras=("top", "side"), match="time", within_ms=20)
    line.sees("top", age_s=0.025)
    line.sees("top")
    key = line.sees("side", age_s=0.012)
    line.says(key, 0.1)
    line.turn()
    assert line.reasons == [Reason.ID_CONFLICT, Reason.ID_CONFLICT]
    line.now += 1
    line.says(line.sees("top", unsure_s=0.2), 0.1)
    line.says(line.sees("side", unsure_s=0.2), 0.1)
    line.turn()
    assert set(line.reasons) == {Reason.ID_CONFLICT}, "they waited while nobody looked"


def test_an_id_that_comes_round_again_is_judged_once_each_time() -> None:
    line = Line(cameras=("top", "side"))
    for lap in range(3):
        line.says(line.sees("top", "carrier 1"), 2.0)
        assert line.turn() == {"carrier 1": Reason.ANOMALY}, lap
        line.says(line.sees("side", "carrier 1"), 0.1)
        assert line.turn(line.now + 5) == {}, lap


def test_a_view_that_is_announced_again_is_no_other_part() -> None:
    line = Line(cameras=("top", "side"))
    key = line.sees("top", "A")
    line.sees("side", "A")
    line.says(key, 2.0)
    assert line.turn() == {"A": Reason.ANOMALY}
    line.seqs["side"] -= 1
    line.sees("side", "A")
    assert line.turn() == {}
    assert line.turn(line.now + 2 * D) == {}


def test_a_part_that_was_open_when_the_hub_died_is_one_part_still() -> None:
    line = Line(cameras=("top", "side"))
    line.ledger.restore("p", 0, 3, [2], line.now, headers={2: ("A", 0)})
    line.views.restore("p", [], line.now)
    for camera in ("top", "side"):
        line.says(line.sees(camera, "A", age_s=0.1), 0.1)
    assert line.turn() == {"A": Reason.NONE}
    assert line.turn(line.now + D) == {}
    line.ledger.restore("p", 5, 1, [0], line.now, headers={0: ("B", 0)})
    line.views.restore("p", [], line.now)
    assert line.turn(line.now + D) == {"B": Reason.RESTART}


Step = st.tuples(st.sampled_from(["see", "say", "wait"]), st.sampled_from(CAMERAS), st.integers(1, 4), st.floats(0, 2))


@given(st.lists(Step, max_size=60), st.sampled_from(["all", 1, 2]))
def test_every_part_has_one_outcome_by_its_deadline(steps: list[tuple[str, str, int, float]], passes: Any) -> None:
    line = Line(passes=passes)
    for what, camera, number, value in steps:
        if what == "see" and line.ledger.epochs[camera, 7].open_parts < 8:
            line.sees(camera, trigger=number, age_s=value / 10)
        elif what == "say":
            while (waiting := line.ledger.waiting()) is not None:
                line.ledger.lease(waiting, 1)
            leased = [p for p in line.ledger.epochs[camera, 7].parts.values() if p.lease]
            if leased:
                line.says(leased[0].key, value)
        line.turn(line.now + value / 10 if what == "wait" else None)
    for _ in range(6):
        line.turn(line.now + 0.1)
    assert line.ledger.open_parts == 0
    epoch = line.ledger.epochs["p", 1]
    assert [part.key.seq for _, part in line.shown] == list(range(epoch.next_seq)), "each once, in order"
    needed = len(CAMERAS) if passes == "all" else passes
    for _, part in line.shown:
        assert part.decision is not None
        assert part.decision.at <= part.due + 0.2 + 1e-6, "the longest step"
        good = [view for view in part.decision.views if view.verdict == "PASS"]
        if part.decision.reason is Reason.NONE:
            assert len(good) >= needed


def camera(name: str, source: str = "synthetic", **trigger: Any) -> dict[str, Any]:
    return {"name": name, "source": {"kind": source}} | ({"trigger": trigger} if trigger else {})


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"cameras": ["top", "moon"]}, "parts: 'p' names camera 'moon'; there are top, side, web"),
        ({"cameras": ["top"], "name": "side"}, "parts: 'side' is a camera's name"),
        ({"cameras": ["top", "side"], "passes": 3}, "asks for 3 PASS of 2 cameras; no part could pass"),
        ({"cameras": ["top", "top"]}, "parts: camera 'top' is named twice"),
        ({"cameras": ["top", "web"]}, "pictures of web carry no id to match by"),
        ({"cameras": ["top", "web"], "match": "time", "within_ms": 30}, "should be under half of every_ms = 50"),
    ],
)
def test_a_group_that_cannot_be_is_refused(parts: dict[str, Any], says: str) -> None:
    cameras = [camera("top"), camera("side"), camera("web", "camera", kind="interval", every_ms=50)]
    raw = {"cameras": cameras, "parts": [{"name": "p"} | parts]}
    assert any(says in problem for problem in trigger_problems(raw)), trigger_problems(raw)


def test_cameras_that_one_sink_triggers_need_no_other_id() -> None:
    cameras = [camera(name, "camera", kind="sink", sink="plc") for name in ("top", "side")]
    raw = {"cameras": cameras, "parts": [{"name": "p", "cameras": ["top", "side"]}], "sinks": [{"kind": "plc"}]}
    assert trigger_problems(raw) == []
