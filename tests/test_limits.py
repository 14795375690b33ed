"""Another limit than the bundle's own: who may set which, what it does to parts, and how long it holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from line_worker.bundle import Bundle
from line_worker.errors import ConfigError, JournalError
from line_worker.hub.commands import Commands
from line_worker.hub.journal import Journal
from line_worker.hub.limit_book import LimitBook
from line_worker.hub.limits import HIGHEST, KEPT, Change, Limits, checked
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason, StopCause
from line_worker.vision.evidence import anomaly_map, zone_limits
from line_worker.vision.inspection import Inspection
from line_worker.wire import messages as m
from scripted_hub import Rig, answer, asked, frame, rig_with


def change(after: float | None, camera: str = "cam", **more: Any) -> Change:
    fields = {"camera": camera, "bundle": "b", "own": 1.0, "before": 1.0, "after": after, "who": "Ada", "wall": 5.0}
    return Change(**fields | more)


# ---- pure ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 0, 0.0, -1.0, True, "1.2", [1.0], 10**400])
def test_what_is_no_limit_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"no limit|hardly anything"):
        checked(change(wrong), less_sensitive=True)


def test_a_higher_limit_has_to_be_asked_for_as_such() -> None:
    assert not checked(change(0.9), less_sensitive=False).less_sensitive
    assert not checked(change(1.0), less_sensitive=False).less_sensitive
    with pytest.raises(ConfigError, match="more defects may pass"):
        checked(change(1.01), less_sensitive=False)
    assert checked(change(1.01), less_sensitive=True).less_sensitive
    with pytest.raises(ConfigError, match="recalibrate"):
        checked(change(HIGHEST + 0.01), less_sensitive=True)
    checked(change(None), less_sensitive=False)


@pytest.mark.parametrize("who", ["", "x" * 65, None, 3, "Ada\nGrace"])
def test_nobody_changes_nothing(who: Any) -> None:
    with pytest.raises(ConfigError, match="needs a name"):
        checked(change(0.9, who=who), less_sensitive=False)


def test_limits_are_those_of_one_camera_and_one_bundle() -> None:
    limits = Limits().changed(change(1.5)).changed(change(0.8, camera="side"))
    assert (limits.of("cam", "b"), limits.of("side", "b"), limits.of("top", "b")) == (1.5, 0.8, None)
    assert limits.of("cam", "other") is None
    [warning] = limits.warnings("b")
    assert warning.startswith("camera cam: LESS SENSITIVE")
    assert "Ada has set its limit to 1.5, the bundle's own is 1" in warning
    assert limits.warnings("other") == ()
    assert Limits.load(limits.dump()).changes == limits.changes
    assert Limits.load("").changes == []
    back = limits.changed(change(None))
    assert back.of("cam", "b") is None
    assert not back.warnings("b")


def test_many_changes_forget_the_oldest_and_no_limit_that_holds() -> None:
    limits = Limits().changed(change(1.5, camera="side"))
    for n in range(3 * KEPT):
        limits = limits.changed(change(1.0 + n / 1000))
    assert len(limits.changes) == KEPT + 1
    assert limits.of("side", "b") == 1.5


# ---- the hub ---------------------------------------------------------------------------------------------------------


def set_limit(rig: Rig, at: float | None, **more: Any) -> dict[str, Any]:
    return asked(rig, "threshold", at=at, who="Ada", **more)


def test_parts_are_held_against_the_limit_of_when_they_were_leased(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    [before] = worker.hears(m.Lease)
    assert before.limit is None
    with capture_logs() as logged:
        told = set_limit(rig, 1.5, less_sensitive=True)
    assert (told["camera"], told["before"], told["after"], told["own"]) == ("cam", 1.0, 1.5, 1.0)
    [entry] = [one for one in logged if one["event"] == "threshold changed"]
    assert (entry["camera"], entry["old"], entry["new"], entry["who"]) == ("cam", 1.0, 1.5, "Ada")
    source.say(frame(1), frame(2))
    after, third = worker.hears(m.Lease, 3)[1:]
    assert (after.limit, third.limit) == (1.5, 1.5)
    worker.say(
        answer(before, score=1.2), answer(after, score=1.2, threshold=1.5), answer(third, score=1.6, threshold=1.5)
    )
    assert rig.outcomes(3) == {0: Reason.ANOMALY, 1: Reason.NONE, 2: Reason.ANOMALY}
    assert [one.threshold for one in rig.sink.got(m.Outcome)] == [1.0, 1.5, 1.5]
    assert rig.hub.journal.find(after.frame.key).threshold == 1.5, "the record says what it was held against"


def test_an_answer_that_was_held_against_another_limit_is_refused(rig: Rig) -> None:
    source, worker = rig.running()
    set_limit(rig, 0.5)
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0], score=0.8))  # against the bundle's own, 1.0: it would pass
    again = worker.hears(m.Lease, 2)[1]
    assert rig.hub.ledger.counts["mismatch"] == 1
    assert (again.attempt, again.limit) == (2, 0.5)
    worker.say(answer(again, score=0.8, threshold=0.5))
    assert rig.outcomes(1) == {0: Reason.ANOMALY}


def test_a_limit_and_its_warning_outlive_the_hub(rig: Rig) -> None:
    rig.running()
    assert rig.beat().warnings == ()
    with pytest.raises(ConfigError, match="more defects may pass"):
        Commands(rig.hub).threshold(at=1.5, who="Ada")
    set_limit(rig, 1.5, less_sensitive=True)
    rig.restart()
    rig.watch()
    [warning] = rig.beat().warnings
    assert "LESS SENSITIVE" in warning
    status = asked(rig, "status")
    assert status["thresholds"] == {"cam": {"at": 1.5, "own": 1.0, "less_sensitive": True}}
    [told] = status["threshold_changes"]
    assert (told["camera"], told["from"], told["to"], told["who"]) == ("cam", 1.0, 1.5, "Ada")
    set_limit(rig, None)
    assert rig.beat().warnings == ()
    status = asked(rig, "status")
    assert status["thresholds"]["cam"]["at"] == 1.0
    assert [one["to"] for one in status["threshold_changes"]] == [1.0, 1.5]


def test_a_limit_that_cannot_be_written_down_does_not_hold(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(name: str, text: str) -> None:
        raise JournalError("the disk is full")

    monkeypatch.setattr(rig.hub.journal, "keep", full)
    with pytest.raises(JournalError):
        Commands(rig.hub).threshold(at=0.5, who="Ada")
    assert rig.hub.limits.of("cam", "stub") is None


@pytest.mark.parametrize("wrong", [{"camera": "side"}, {"camera": 3}, {"at": math.nan}, {"at": -1.0}, {"who": ""}])
def test_nonsense_is_refused_and_changes_nothing(rig: Rig, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Commands(rig.hub).threshold(**({"at": 0.5, "who": "Ada"} | wrong))
    assert rig.hub.limits.of("cam", "stub") is None
    assert rig.hub.journal.kept("limits") == ""


def test_a_limit_so_high_that_the_canary_passes_lets_nothing_pass(short_path: Path) -> None:
    with rig_with(short_path, canary_every_s=3600.0) as rig:
        source, worker = rig.running()
        set_limit(rig, 2.5, less_sensitive=True)
        source.say(frame(0, place="inline", pixels=b"1234"))
        worker.say(answer(worker.hears(m.Lease)[0], threshold=2.5))
        canary = worker.hears(m.Lease, 2)[1]
        assert (canary.canary, canary.limit) == (True, 2.5)
        worker.say(answer(canary, score=2.2, threshold=2.5))
        rig.until(lambda: rig.hub.guard.alarms.stop_line is StopCause.CANARY)
        source.say(frame(1))
        worker.say(answer(worker.hears(m.Lease, 3)[2], threshold=2.5))
        assert rig.outcomes(2) == {0: Reason.NONE, 1: Reason.CANARY}


def test_a_limit_is_its_bundles_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.sqlite", "l")
    book = LimitBook(journal, ("cam",), "a" * 64, 1.0)
    book.change("cam", 0.5, "Ada", less_sensitive=False)
    book.follow("b" * 64, 4.0)
    assert book.status()["thresholds"]["cam"] == {"at": 4.0, "own": 4.0, "less_sensitive": False}
    with capture_logs() as logged:
        book.follow("a" * 64, 1.0)
    assert logged[0]["at"] == 0.5, "it comes back with its bundle, and says so"
    assert book.status()["thresholds"]["cam"]["at"] == 0.5
    book.follow("", 0.0)
    with pytest.raises(ConfigError, match="no bundle judges"):
        book.change("cam", 0.5, "Ada", less_sensitive=False)
    journal.close()


# ---- the worker's side -----------------------------------------------------------------------------------------------


def test_a_part_is_explained_by_the_limit_that_it_was_held_against(tiny_bundle: Path) -> None:
    inspection = Inspection.from_bundle(Bundle.load(tiny_bundle))
    rng = np.random.default_rng(11)
    image = draw_part(rng, size=(240, 320)).image
    [passed] = inspection.inspect([image])
    assert passed.reason is Reason.NONE
    low = passed.score * 0.9
    own, strict, odd = inspection.inspect([image, image, image[:100]], limits=[None, low, low])
    assert (own.reason, own.threshold) == (Reason.NONE, passed.threshold)
    assert (strict.reason, strict.threshold, strict.score) == (Reason.ANOMALY, low, passed.score)
    assert (odd.reason, odd.threshold) == (Reason.SHAPE, low)
    box = strict.boxes[0]
    assert box.error > box.limit, "its figures are those of the limit in use"
    assert strict.allowed[box.zone] == pytest.approx(box.limit, rel=1e-5)
    assert np.isinf(strict.allowed[~inspection.standard.zones.mask.numpy()]).all()


def test_map_and_limits_of_a_reject_are_drawn_where_the_part_lay(tiny_bundle: Path) -> None:
    inspection = Inspection.from_bundle(Bundle.load(tiny_bundle))
    drawn = draw_part(np.random.default_rng(13), defect="missing", size=(240, 320))
    [failed] = inspection.inspect([drawn.image])
    shown, zones = anomaly_map(drawn.image, failed), zone_limits(drawn.image, failed)
    assert shown is not None
    assert zones is not None
    assert shown.shape == zones.shape
    assert shown.shape[1] == 320
    under = shown[-240:].astype(int)
    box = failed.boxes[0]
    inside = under[box.y : box.y + box.h, box.x : box.x + box.w]
    assert inside[..., 1].max() > under[:20, :20, 1].max() + 50, "hot where the box is, the dim picture elsewhere"
    flat = zone_limits(drawn.image, failed._replace(allowed=np.where(np.isfinite(failed.allowed), 2.0, np.inf)))
    assert flat is not None
    assert flat[-240:].std() < zones[-240:].std()
    [passed] = inspection.inspect([draw_part(np.random.default_rng(11), size=(240, 320)).image])
    assert zone_limits(drawn.image, passed) is None
