"""Score drift: quiet on good parts, however few scores the calibration had, and loud when they shift."""

from __future__ import annotations

from bisect import bisect_left
from fractions import Fraction
from math import comb

import numpy as np
import pytest

from line_worker.hub import drift
from line_worker.hub.drift import FALSE_ALARM, LEVEL, WINDOW, DriftWatch, critical_count
from line_worker.verdicts import Reason, verdict_of
from line_worker.wire.messages import FrameKey, Outcome


def outcome(p_value: float | None, reason: Reason = Reason.NONE, camera: str = "c", bundle: str = "b") -> Outcome:
    key, score = FrameKey("l", camera, 1, 0), None if p_value is None else 0.5
    verdict = str(verdict_of(reason))
    return Outcome(1, key, verdict, int(reason), score, 1.0, (), bundle, "w", 1, "", 0, 1.0, 1.0, 1.0, {}, p_value)


def watch_of(p_values: list[float], calibrated: int = 256, window: int = WINDOW) -> DriftWatch:
    watch = DriftWatch("b", calibrated, window)
    for p_value in p_values:
        watch.take(outcome(p_value))
    return watch


def exact(count: int, parts: int, below: int, steps: int) -> Fraction:
    """The chance that `count` of `parts` scores come before the first of `steps` that is not `below`: by counting."""
    ways = comb(count + below - 1, count) * comb(parts - count + steps - below, parts - count)
    return Fraction(ways, comb(parts + steps, parts))


@pytest.mark.parametrize(("parts", "calibrated"), [(200, 20), (200, 29), (200, 256), (40, 100)])
def test_the_limit_is_where_the_exact_chance_of_a_false_alarm_falls_below_one_in_a_million(
    parts: int, calibrated: int
) -> None:
    below = sum(Fraction(j, calibrated + 1) < Fraction(1, 10) for j in range(1, calibrated + 1))
    limit = critical_count(parts, calibrated)

    def tail(count: int) -> float:
        return float(sum(exact(i, parts, below, calibrated) for i in range(count, parts + 1)))

    assert tail(limit) < FALSE_ALARM <= tail(limit - 1)


def test_good_parts_behave_as_the_formula_says() -> None:
    """Real conformal p-values: calibrations and parts of one kind, many times over."""
    rng, parts, calibrated, below = np.random.default_rng(0), 50, 40, 4
    counts = []
    for _ in range(4000):
        good = sorted(rng.standard_normal(calibrated))
        p_values = [
            (1 + calibrated - bisect_left(good, score)) / (calibrated + 1) for score in rng.standard_normal(parts)
        ]
        counts.append(sum(p < LEVEL for p in p_values))
    for count in (5, 10, 15):
        expected = float(sum(exact(i, parts, below, calibrated) for i in range(count, parts + 1)))
        assert np.mean(np.array(counts) >= count) == pytest.approx(expected, abs=0.03)
        shown = sum(drift._probability(i, parts, below, calibrated + 1 - below) for i in range(count, parts + 1))
        assert shown == pytest.approx(expected, rel=1e-6)


def test_parts_that_begin_to_score_higher_raise_the_alarm_once_and_it_goes_with_them() -> None:
    rng = np.random.default_rng(1)
    watch = watch_of(list(rng.uniform(0.03, 1, WINDOW)))
    assert watch.changed() == ([], [])
    assert watch.warnings == ()
    for p_value in rng.uniform(0.03, 0.3, WINDOW):  # everything scores as the highest third did
        watch.take(outcome(p_value))
    [come], gone = watch.changed()
    assert (come.camera, come.parts, come.alarm, gone) == ("c", WINDOW, True, [])
    assert come.share > come.limit > LEVEL
    assert watch.changed() == ([], [])
    [said] = watch.warnings
    assert said.startswith(
        f"camera c: of the last 200 passed parts {come.share:.0%} score as only 10% of good parts did"
    )
    for p_value in rng.uniform(0.03, 1, WINDOW):
        watch.take(outcome(p_value))
    assert watch.changed() == ([], ["c"])
    assert watch.warnings == ()


def test_the_statistic_is_what_a_person_would_count() -> None:
    [seen] = watch_of([0.05, 0.0999, 0.1, 0.6]).seen()
    assert (seen.parts, seen.share, seen.median, seen.alarm) == (4, 0.5, pytest.approx(0.09995), False)


def test_no_alarm_before_the_window_is_full() -> None:
    watch = watch_of([0.01] * (WINDOW - 1))
    assert not watch.seen()[0].alarm
    watch.take(outcome(0.01))
    assert watch.seen()[0].alarm


@pytest.mark.parametrize(
    "other",
    [
        outcome(0.01, Reason.ANOMALY),
        outcome(0.01, Reason.NOT_RUNNING),
        outcome(0.01, bundle="another"),
        outcome(None),
    ],
    ids=["a reject", "no decision", "another bundle", "no p-value"],
)
def test_only_parts_that_this_bundle_has_passed_count(other: Outcome) -> None:
    watch = watch_of([0.5] * WINDOW)
    for _ in range(WINDOW):
        watch.take(other)
    assert [(seen.share, seen.median) for seen in watch.seen()] == [(0.0, 0.5)]


def test_cameras_are_told_apart() -> None:
    watch = watch_of([0.5] * WINDOW)
    for _ in range(WINDOW):
        watch.take(outcome(0.01, camera="d"))
    assert {seen.camera: seen.alarm for seen in watch.seen()} == {"c": False, "d": True}


@pytest.mark.parametrize("calibrated", [0, 5, 9])
def test_a_calibration_that_is_too_small_to_tell_never_alarms(calibrated: int) -> None:
    [seen] = watch_of([0.01] * WINDOW, calibrated).seen()
    assert not seen.alarm
    assert seen.limit > 1


def test_a_restarted_hub_goes_on_where_the_other_one_was() -> None:
    watch = DriftWatch("b", 256)
    watch.restore("c", [0.01] * WINDOW)
    assert watch.seen()[0].alarm
    assert len(watch.changed()[0]) == 1
