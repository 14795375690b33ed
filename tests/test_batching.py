"""Batches by deadline: never too large, earliest first, and no larger than the first deadline allows."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from line_worker.worker.batching import Batcher, Pace

DUES = st.lists(st.floats(0, 10), max_size=30)
TIMES = st.dictionaries(st.integers(1, 8), st.lists(st.floats(0.001, 2), min_size=1, max_size=5), max_size=4)


def paced(times: dict[int, list[float]]) -> Pace:
    pace = Pace()
    for size, seconds in times.items():
        for each in seconds:
            pace.took(size, each)
    return pace


def filled(dues: list[float], largest: int, pace: Pace) -> Batcher[int]:
    batcher: Batcher[int] = Batcher(largest, pace)
    for item, due in enumerate(dues):
        batcher.add(item, due)
    return batcher


@given(DUES, TIMES, st.integers(1, 8), st.floats(-1, 5))
def test_batches_are_bounded_in_order_and_complete(
    dues: list[float], times: dict[int, list[float]], largest: int, now: float
) -> None:
    batcher = filled(dues, largest, paced(times))
    taken: list[int] = []
    while batch := batcher.take(now):
        assert len(batch) <= largest
        taken += batch
    assert taken == sorted(range(len(dues)), key=lambda item: (dues[item], item)), "each once, earliest deadline first"
    assert len(batcher) == 0


@given(DUES, TIMES, st.integers(1, 8), st.floats(-1, 5))
def test_a_batch_is_as_large_as_its_first_deadline_allows(
    dues: list[float], times: dict[int, list[float]], largest: int, now: float
) -> None:
    pace = paced(times)
    batch = filled(dues, largest, pace).take(now)
    if not dues:
        assert batch == []
        return
    slack = min(dues) - now
    assert len(batch) == 1 or pace.typical(len(batch)) <= slack
    full = min(len(dues), largest)
    assert len(batch) == full or pace.typical(len(batch) + 1) > slack


@given(DUES, TIMES, st.floats(-1, 5))
def test_too_late_is_what_not_even_the_fastest_batch_of_one_would_make(
    dues: list[float], times: dict[int, list[float]], now: float
) -> None:
    pace = paced(times)
    fastest = pace.fastest(1)
    batcher = filled(dues, 4, pace)
    late = batcher.too_late(now)
    assert sorted(late) == [item for item, due in enumerate(dues) if due - now < fastest]
    assert len(batcher) == len(dues) - len(late)
    assert pace.fastest(1) <= fastest


def test_without_experience_nothing_is_too_late_before_its_deadline() -> None:
    batcher = filled([1.0, 2.0], 4, Pace())
    assert batcher.too_late(1.0) == []
    assert batcher.too_late(1.5) == [0]
    assert batcher.take(1.5) == [1]
    assert batcher.take(1.5) == []


def test_one_slow_batch_does_not_make_everything_too_late_for_ever() -> None:
    pace = Pace()
    pace.took(1, 5.0)
    refused = 0
    while filled([0.1], 4, pace).too_late(0.0):
        refused += 1
    assert 10 < refused < 50


def test_the_pace_is_that_of_the_nearest_size_and_of_late() -> None:
    pace = paced({1: [0.125], 4: [0.25, 0.5]})
    assert pace.typical(1) == 0.125
    assert pace.typical(4) == 0.375
    assert pace.fastest(4) == 0.25
    assert pace.typical(8) == 0.75, "larger ones are scaled up"
    assert pace.typical(2) == 0.25, "from the nearest"
    assert pace.typical(3) == pace.typical(4), "never scaled down"
    for _ in range(16):
        pace.took(1, 0.01)
    assert round(pace.typical(1), 6) == 0.01
