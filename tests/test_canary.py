"""Canaries and challenges: when one is due, who gets it, what its answer means, and where its defect lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from line_worker.config import Workers
from line_worker.hub.canary import OVERDUE, PATIENCE_S, Canaries
from line_worker.hub.challenge import Challenges
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason, Verdict
from line_worker.vision.canary import paint_spot
from line_worker.wire.messages import Frame, FrameKey, Result
from line_worker.worker.model import BundleModel, StubModel

NONE, ANOMALY = Reason.NONE, Reason.ANOMALY
UPRIGHT = np.array([[1.0, 0, 0], [0, 1.0, 0]])


class Line:
    """Canaries with a clock that stands still until it is told."""

    def __init__(self, every_s: float = 60.0, deadline_s: float = 0.5) -> None:
        self.now = 100.0
        self.canaries = Canaries({"c": every_s, "d": 0.0}, deadline_s, self.now)
        self.seq = 0

    def passes(self, latency_s: float = 0.1, compute_s: float = 0.05, camera: str = "c") -> Frame:
        self.seq += 1
        key = FrameKey("l", camera, 1, self.seq)
        frame = Frame(key, 0.0, 500.0, (4, 5), "uint8", "gray", 1000 + self.seq, "ring")
        self.canaries.passed(frame, b"", latency_s, compute_s, self.now)
        return frame

    def fly(self, *idle: int) -> tuple[int, int, Frame] | None:
        found = self.canaries.next(idle or (1,), self.now)
        return (found[0], found[1], found[2].frame) if found else None

    def answer(self, flight: tuple[int, int, Frame] | None, score: float | None = 2.0, **changes: Any) -> Reason | None:
        assert flight is not None
        lease, session, frame = flight
        whole = {"key": frame.key, "lease": lease, "session": session, "checksum": frame.checksum, "bundle": "b"}
        whole |= {"reason": 0, "score": score, "threshold": 1.0, "regions": (), "stages": {}}
        return self.canaries.result(Result(**whole | changes), "b", self.now)


@pytest.fixture
def line() -> Line:
    return Line()


def test_a_canary_that_fails_is_as_it_must_be_and_the_next_is_due_a_period_later(line: Line) -> None:
    frame = line.passes()
    flight = line.fly()
    assert flight == (-1, 1, frame)
    assert line.answer(flight) is ANOMALY
    assert (line.canaries.cameras["c"].failed, line.canaries.take_misses()) == (1, [])
    line.now += 59.9
    line.passes()
    assert line.fly() is None
    line.now += 0.1
    line.passes()
    assert line.fly() is not None


def test_a_canary_that_passes_is_a_miss_told_once(line: Line) -> None:
    line.passes()
    assert line.answer(line.fly(), score=0.5) is NONE
    [(camera, text)] = line.canaries.take_misses()
    assert camera == "c"
    assert "score 0.5 below its limit of 1" in text
    assert line.canaries.take_misses() == []


@pytest.mark.parametrize(
    "changes", [{"reason": int(Reason.CRC)}, {"reason": int(Reason.POSE)}, {"score": None}, {"reason": 999}]
)
def test_what_could_not_be_judged_is_tried_again_soon(line: Line, changes: dict[str, Any]) -> None:
    line.passes()
    flight = line.fly()
    score = changes.pop("score", 2.0)
    assert line.answer(flight, score, **changes) not in (None, NONE, ANOMALY)
    assert line.canaries.take_misses() == []
    line.passes()
    assert line.fly() is None, "not at once"
    line.now += 1.0
    line.passes()
    assert line.fly() is not None


@pytest.mark.parametrize("lie", [{"lease": -2}, {"session": 9}, {"checksum": 5}, {"bundle": "x"}])
def test_an_answer_that_does_not_fit_is_none(line: Line, lie: dict[str, Any]) -> None:
    line.passes()
    flight = line.fly()
    assert line.answer(flight, score=0.5, **lie) is None
    assert line.canaries.take_misses() == []


def test_without_slack_a_worker_or_a_period_there_is_none(line: Line) -> None:
    line.passes(latency_s=0.41)  # a part behind the canary would wait 0.1 s for painting and judging
    assert line.fly() is None
    line.passes(camera="d")
    assert line.fly() is None
    line.passes()
    assert line.canaries.next((), line.now) is None


def test_one_flies_at_a_time_and_the_newest_part_is_the_bait(line: Line) -> None:
    line.passes()
    newest = line.passes()
    flight = line.fly()
    assert flight is not None
    assert flight[2] is newest, "its pixels are the last to be overwritten"
    line.passes()
    assert line.fly() is None
    line.now += PATIENCE_S
    line.passes()
    assert line.fly() is not None, "the first one is lost"
    assert line.answer(flight, score=0.5) is None


def test_every_worker_gets_its_turn_and_a_dead_one_loses_its_canary() -> None:
    line, sessions = Line(every_s=1.0), []
    for _ in range(4):
        line.passes()
        flight = line.fly(1, 2)
        assert flight is not None
        sessions.append(flight[1])
        line.answer(flight)
        line.now += 1.0
    assert sessions == [1, 2, 1, 2]
    line.passes()
    line.fly(1, 2)
    line.canaries.lost(1)
    line.passes()
    assert line.fly(2) is not None


def test_a_line_whose_canaries_cannot_be_judged_is_warned_about_an_idle_one_is_not(line: Line) -> None:
    line.now += OVERDUE * 60.0 + 1
    assert line.canaries.warnings(line.now) == ()
    line.passes(latency_s=0.49)
    assert line.canaries.warnings(line.now) == ("camera c: no canary could be judged for 301 s",)
    line.passes()
    line.answer(line.fly())
    assert line.canaries.warnings(line.now) == ()


# ---- challenges ------------------------------------------------------------------------------------------------------


def test_a_challenge_is_met_when_all_of_its_parts_have_failed() -> None:
    challenges = Challenges({"c": 100.0}, {}, 0.0)
    assert challenges.overdue(99.0) == {}
    assert list(challenges.overdue(100.0)) == ["c"]
    challenges.begin("c", 2)
    assert not challenges.decided("c", Verdict.FAIL, 110.0)
    assert challenges.decided("c", Verdict.FAIL, 120.0)
    assert challenges.overdue(219.0) == {}
    assert "no challenge was met for 100 s" in challenges.overdue(220.0)["c"]
    assert challenges.cameras["c"].result == "met"
    assert not challenges.decided("c", Verdict.FAIL, 230.0), "nothing is expected any more"


@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.NO_DECISION])
def test_a_part_that_did_not_fail_spoils_the_challenge(verdict: Verdict) -> None:
    challenges = Challenges({"c": 100.0}, {}, 0.0)
    challenges.begin("c", 2)
    assert not challenges.decided("c", verdict, 1.0)
    assert challenges.under_way() == {"c": (2, 0)}
    assert not challenges.decided("c", Verdict.FAIL, 2.0)
    assert (challenges.cameras["c"].result, challenges.under_way()) == ("not met", {})
    assert challenges.overdue(100.0)


def test_a_restarted_hub_counts_from_the_challenge_before_it_and_none_is_due_where_none_is_asked_for() -> None:
    challenges = Challenges({"c": 100.0, "d": 0.0}, {"c": 60.0, "d": 1e9}, 1000.0)
    assert challenges.overdue(1039.0) == {}
    assert list(challenges.overdue(1040.0)) == ["c"]


# ---- the defect ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 4095)])
@pytest.mark.parametrize("share", [0.2, 0.8])
@pytest.mark.parametrize("colour", [(), (3,)])
def test_the_spot_lies_on_the_part_stands_out_and_touches_nothing_else(
    dtype: Any, white: int, share: float, colour: tuple[int, ...]
) -> None:
    image = np.full((120, 160, *colour), white * share, dtype)
    judged = np.zeros((120, 160), bool)
    judged[30:90, 20:140] = True
    before = image.copy()
    for seed in range(20):
        painted = paint_spot(image, UPRIGHT, judged, white, seed)
        changed = (painted != image).reshape(120, 160, -1).any(2)
        diameter = 0.2 * np.sqrt(60 * 120)
        assert np.pi / 4 * diameter**2 * 0.8 < changed.sum() < np.pi / 4 * diameter**2 * 1.4
        assert judged[changed].all()
        assert set(painted[changed].ravel()) == {0 if share > 0.5 else white}
    assert (image == before).all(), "the live picture stays as it is"


def test_the_spot_follows_the_part_to_where_it_lies() -> None:
    image, judged = np.full((200, 200), 200, np.uint8), np.ones((40, 40), bool)
    turned = np.array([[0.0, -2.0, 150.0], [2.0, 0.0, 50.0]])
    rows, cols = np.nonzero(paint_spot(image, turned, judged, 255, 0) != image)
    assert 150 - 2 * 40 <= cols.min() <= cols.max() <= 150
    assert 50 <= rows.min() <= rows.max() <= 50 + 2 * 40


def test_where_nothing_is_judged_there_is_no_place() -> None:
    with pytest.raises(ValueError, match="no pixel of the part is judged"):
        paint_spot(np.zeros((9, 9), np.uint8), UPRIGHT, np.zeros((9, 9), bool), 255, 0)


def test_a_bundle_fails_its_canaries_on_parts_that_pass(tiny_bundle: Path) -> None:
    model = BundleModel(Workers(bundle=tiny_bundle, threads=1, runtime="torch"))
    rng = np.random.default_rng(5)
    images = [draw_part(rng, size=(240, 320)).image for _ in range(8)]
    good = [image for image, found in zip(images, model.inspect(images), strict=True) if found.reason is NONE]
    assert len(good) >= 4
    reasons = [getattr(model.canary(image, seed), "reason", None) for seed, image in enumerate(good)]
    assert set(reasons) <= {ANOMALY, Reason.POSE}, "a spot may also hide the pose: such a canary is tried again"
    assert reasons.count(ANOMALY) > len(good) / 2


def test_a_picture_without_a_part_takes_no_canary(tiny_bundle: Path) -> None:
    model = BundleModel(Workers(bundle=tiny_bundle, threads=1, runtime="torch"))
    assert model.canary(np.full((240, 320), 128, np.uint8), 0) is None


@pytest.mark.parametrize(("blind", "reason"), [(False, ANOMALY), (True, NONE)])
def test_the_stub_fails_canaries_unless_it_is_blind(blind: bool, reason: Reason) -> None:
    finding = StubModel(0.0, blind).canary(np.zeros((4, 4), np.uint8), 0)
    assert finding is not None
    assert finding.reason is reason
