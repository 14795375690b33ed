"""Line rules: which outcomes stop the line, and that each rule begins anew once it has tripped."""

from __future__ import annotations

import pytest

from line_worker.config_rules import LineRules
from line_worker.hub.rules import RuleWatch
from line_worker.verdicts import StopCause as S
from line_worker.verdicts import Verdict

VERDICTS = {"P": Verdict.PASS, "F": Verdict.FAIL, "N": Verdict.NO_DECISION}


def trips(outcomes: str, **rules: float) -> dict[int, list[S]]:
    """Return the causes that trip, by the outcome's place in `outcomes` (P, F, N)."""
    watch = RuleWatch(LineRules.model_validate(rules))
    found = {place: watch.take(VERDICTS[letter]) for place, letter in enumerate(outcomes)}
    return {place: [trip.cause for trip in tripped] for place, tripped in found.items() if tripped}


def test_without_rules_nothing_ever_trips() -> None:
    assert trips("F" * 300 + "N" * 300 + "P" * 300) == {}


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ("FFPFF", {}),
        ("FFF", {2: [S.REJECTS_IN_ROW]}),
        ("FNF", {2: [S.REJECTS_IN_ROW]}),  # to the line both are rejects
        ("FFFFF", {2: [S.REJECTS_IN_ROW]}),
        ("FFFFFF", {2: [S.REJECTS_IN_ROW], 5: [S.REJECTS_IN_ROW]}),
    ],
)
def test_rejects_in_a_row(outcomes: str, expected: dict[int, list[S]]) -> None:
    assert trips(outcomes, rejects_in_row=3) == expected


@pytest.mark.parametrize(
    ("outcomes", "expected"), [("NNFN", {}), ("PNNN", {3: [S.UNDECIDED_IN_ROW]}), ("NNPNNFNN", {})]
)
def test_undecided_in_a_row(outcomes: str, expected: dict[int, list[S]]) -> None:
    assert trips(outcomes, undecided_in_row=3) == expected


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ("FFF", {}),  # the window is not full
        ("FPFP", {}),  # exactly the rate
        ("FPFPFF", {5: [S.REJECT_RATE]}),  # three of the last four
        ("FFFPPPPFPF", {3: [S.REJECT_RATE]}),  # counted anew afterwards
        ("FFNP" * 2, {3: [S.REJECT_RATE], 7: [S.REJECT_RATE]}),
    ],
)
def test_a_reject_rate_over_a_window(outcomes: str, expected: dict[int, list[S]]) -> None:
    assert trips(outcomes, reject_rate=0.5, window=4) == expected


def test_the_rate_is_that_of_the_window_and_of_nothing_older() -> None:
    assert trips("FP" * 50 + "PPP" + "F" + "PPP" + "FF", reject_rate=0.5, window=4) == {}


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ("PPPFPPP", {}),
        ("PPPP", {3: [S.SILENT]}),
        ("PPNPP", {4: [S.SILENT]}),  # what was not decided does not show that defects are seen
        ("F" + "P" * 8, {4: [S.SILENT], 8: [S.SILENT]}),
    ],
)
def test_a_reject_rate_that_falls_to_zero(outcomes: str, expected: dict[int, list[S]]) -> None:
    assert trips(outcomes, silent_window=4) == expected


def test_several_rules_may_trip_at_once_and_say_why() -> None:
    watch = RuleWatch(LineRules(rejects_in_row=2, undecided_in_row=2, reject_rate=0.5, window=2))
    watch.take(Verdict.NO_DECISION)
    texts = [trip.text for trip in watch.take(Verdict.NO_DECISION)]
    assert texts == [
        "2 rejects in a row",
        "2 parts in a row were not decided",
        "2 of the last 2 parts were rejected",
    ]
