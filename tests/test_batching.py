"""Batching by deadline: never too large, earliest first, nothing waits in vain, nothing is refused for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.worker.batching import Batcher, Pace


def _pace(*seen: tuple[int, float]) -> Pace:
    pace = Pace()
    for size, seconds in seen:
        pace.took(size, seconds)
    return pace


@given(st.lists(st.floats(0, 10), max_size=30), st.integers(1, 8), st.floats(0, 5))
def test_a_batch_holds_the_earliest_and_is_never_too_large(dues: list[float], largest: int, now: float) -> None:
    batcher: Batcher[float] = Batcher(largest, _pace((1, 0.01), (4, 0.03)))
    for due in dues:
        batcher.add(due, due)
    batch = batcher.take(now)
    assert batch == sorted(dues)[: len(batch)]
    assert len(batch) <= largest
    assert len(batcher) == len(dues) - len(batch)
    assert batch or not dues, "what is here is computed: nothing waits in vain"


def test_a_smaller_batch_saves_the_first_deadline() -> None:
    batcher: Batcher[str] = Batcher(4, _pace((1, 0.02), (2, 0.03), (4, 0.1)))
    for name in "abcd":
        batcher.add(name, 1.0)
    assert batcher.take(0.965) == ["a", "b"]
    assert batcher.take(0.5) == ["c", "d"]


def test_what_cannot_make_it_is_refused_at_once() -> None:
    batcher: Batcher[str] = Batcher(4, _pace((1, 0.1)))
    batcher.add("late", 1.05)
    batcher.add("fine", 2.0)
    assert list(batcher.too_late(1.0)) == ["late"]
    assert batcher.take(1.0) == ["fine"]


def test_one_slow_batch_does_not_make_everything_too_late_for_ever() -> None:
    pace = _pace((1, 100.0))
    batcher: Batcher[int] = Batcher(1, pace)
    refused = 0
    for number in range(200):
        batcher.add(number, number + 1.0)
        refused += len(list(batcher.too_late(float(number))))
        if batcher.take(float(number)):
            pace.took(1, 0.01)
    assert 10 < refused < 60


@pytest.mark.parametrize(("size", "expected"), [(1, 0.1), (2, 0.2), (3, 0.6), (8, 1.6)])
def test_the_prediction_scales_from_the_nearest_size(size: int, expected: float) -> None:
    pace = _pace((1, 0.1), (4, 0.8))
    predicted = pace.typical(size)
    assert predicted == pytest.approx({1: 0.1, 2: 0.2, 3: 0.8, 8: 1.6}[size])
    assert predicted >= expected - 1e-9


def test_nothing_seen_predicts_nothing() -> None:
    assert Pace().typical(4) == Pace().fastest(4) == 0.0
