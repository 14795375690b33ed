"""How much one peer may send before it counts as a flood."""

from __future__ import annotations

from line_worker.hub.flood import BURST, EXCESS, OVER_WINDOW, RATE, Allowance


def test_a_correct_peer_never_runs_out() -> None:
    allowance = Allowance(at=0.0)
    assert all(allowance.take(n / 1000) for n in range(20_000)), "1,000 messages a second for 20 s"


def test_a_whole_window_sent_again_is_no_flood() -> None:
    allowance = Allowance(at=0.0)
    assert all(allowance.take(5.0) for _ in range(1000))


def test_what_comes_faster_than_the_rate_is_dropped_and_then_the_peer_is_cut() -> None:
    allowance = Allowance(at=0.0)
    taken = sum(allowance.take(n / (4 * RATE)) for n in range(int(4 * RATE)))  # four times the rate, for a second
    assert taken <= BURST + RATE + 1
    assert allowance.dropped == 4 * RATE - taken
    assert allowance.dropped > EXCESS
    assert allowance.used_up
    assert allowance.take(100.0), "it fills again"


def test_pictures_beyond_the_window_cost_more() -> None:
    allowance = Allowance(at=0.0)
    for _ in range(int(BURST / OVER_WINDOW)):
        allowance.charge(OVER_WINDOW)
    assert not allowance.take(0.0)
    assert not allowance.used_up
