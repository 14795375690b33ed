"""Which worker gets which part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.hub.dispatch import Dispatcher, Seat
from line_worker.hub.ledger import Ledger
from line_worker.hub.part import CameraRules
from line_worker.wire.messages import Frame, FrameKey

Announce = Callable[..., None]


def seat(session: int, credits: int = 2, now: float = 0.0) -> Seat:
    return Seat(f"p{session}".encode(), f"w{session}", session, credits, 0.4, "cpu", now)


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger("l", {"c": CameraRules(10.0, 100, 1000)})
    ledger.open_epoch("c", 1)
    return ledger


def announce(ledger: Ledger, count: int, deadline_ms: float = 1000.0, now: float = 0.0) -> None:
    first = ledger.epochs["c", 1].next_seq
    for seq in range(first, first + count):
        header = (0.0, deadline_ms, (4, 5), "uint8", "gray", seq, "ring")
        assert ledger.announce(Frame(FrameKey("l", "c", 1, seq), *header), b"", now)


def assigned(dispatcher: Dispatcher, ledger: Ledger) -> list[tuple[int, int]]:
    return [(seat.session, part.key.seq) for seat, part, _ in dispatcher.assign(ledger)]


def test_parts_go_to_whoever_has_most_credits_left(ledger: Ledger) -> None:
    dispatcher = Dispatcher()
    dispatcher.join(seat(1, credits=1))
    dispatcher.join(seat(2, credits=3))
    announce(ledger, 6)
    assert assigned(dispatcher, ledger) == [(2, 0), (2, 1), (1, 2), (2, 3)]
    assert assigned(dispatcher, ledger) == [], "nobody has credits left"


def test_an_answer_gives_its_credit_back(ledger: Ledger) -> None:
    dispatcher = Dispatcher()
    dispatcher.join(seat(1, credits=1))
    announce(ledger, 3)
    [(holder, _, lease)] = list(dispatcher.assign(ledger))
    holder.answered(lease + 1)
    assert assigned(dispatcher, ledger) == []
    holder.answered(lease)
    assert assigned(dispatcher, ledger) == [(1, 1)]


def test_the_earliest_deadline_goes_first(ledger: Ledger) -> None:
    dispatcher = Dispatcher()
    announce(ledger, 1, deadline_ms=900)
    announce(ledger, 1, deadline_ms=300)
    announce(ledger, 1, deadline_ms=600)
    dispatcher.join(seat(1, credits=3))
    assert assigned(dispatcher, ledger) == [(1, 1), (1, 2), (1, 0)]


def test_nobody_there_and_nothing_to_do(ledger: Ledger) -> None:
    dispatcher = Dispatcher()
    announce(ledger, 1)
    assert assigned(dispatcher, ledger) == []
    dispatcher.join(seat(1))
    assert assigned(dispatcher, ledger) == [(1, 0)]
    assert assigned(dispatcher, ledger) == []
    assert dispatcher.leave(1) is not None
    assert dispatcher.leave(1) is None


def test_a_suspect_is_leased_alone_to_a_worker_that_holds_nothing(ledger: Ledger) -> None:
    dispatcher = Dispatcher()
    dispatcher.join(seat(1, credits=4))
    announce(ledger, 2)
    assert assigned(dispatcher, ledger) == [(1, 0), (1, 1)]
    dispatcher.leave(1)
    ledger.lose(1, 0.1)
    announce(ledger, 2, deadline_ms=2000)
    dispatcher.join(seat(2, credits=4))
    [(holder, suspect, lease)] = list(dispatcher.assign(ledger))
    assert (suspect.key.seq, suspect.lost, holder.alone) == (0, 1, True)
    dispatcher.join(seat(3, credits=4))
    assert assigned(dispatcher, ledger) == [(3, 1)], "the second suspect, alone as well"
    holder.answered(lease)
    assert assigned(dispatcher, ledger) == [(2, 2), (2, 3)], "then the usual"


def test_a_suspect_waits_for_an_idle_worker(ledger: Ledger) -> None:
    dispatcher = Dispatcher()
    dispatcher.join(seat(1, credits=4))
    announce(ledger, 1)
    assigned(dispatcher, ledger)
    announce(ledger, 1, deadline_ms=2000)
    dispatcher.join(seat(2, credits=4))
    [(busy, _, lease)] = list(dispatcher.assign(ledger))
    dispatcher.leave(1)
    ledger.lose(1, 0.1)
    assert assigned(dispatcher, ledger) == []
    busy.answered(lease)
    assert assigned(dispatcher, ledger) == [(2, 0)]


def test_who_reports_no_progress_is_stalled() -> None:
    dispatcher = Dispatcher()
    dispatcher.join(seat(1))
    dispatcher.join(seat(2))
    assert dispatcher.stalled(0.4) == []
    assert dispatcher.progress(b"p1", 1, 0.3) is dispatcher.seats[1]
    assert dispatcher.progress(b"p9", 1, 0.5) is None, "a stranger with somebody else's session"
    assert dispatcher.progress(b"p9", 9, 0.5) is None
    assert [s.session for s in dispatcher.stalled(0.5)] == [2]


def test_on_a_slow_machine_a_worker_gets_the_time_that_its_last_batches_took() -> None:
    dispatcher = Dispatcher()
    dispatcher.join(seat(1))  # 0.4 s
    progress = lambda now: dispatcher.progress(b"p1", 1, now)  # noqa: E731
    progress(0.3)
    assert dispatcher.stalled(1.1) == [], "three times as long as the last one"
    assert dispatcher.stalled(1.3) == [dispatcher.seats[1]]
    progress(1.1)
    assert dispatcher.stalled(2.2) == []
    assert dispatcher.stalled(2.4) == [dispatcher.seats[1]], "but three stall times are the end"
    for turn in range(20):  # the machine is as quick as it was
        progress(1.1 + 0.01 * turn)
    assert dispatcher.stalled(1.29 + 0.39) == []
    assert dispatcher.stalled(1.29 + 0.41) == [dispatcher.seats[1]]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 30))
def test_every_part_is_leased_once_and_nobody_gets_more_than_its_credits(credits: list[int], parts: int) -> None:
    ledger = Ledger("l", {"c": CameraRules(10.0, 100, 1000)})
    ledger.open_epoch("c", 1)
    announce(ledger, parts)
    dispatcher = Dispatcher()
    for session, count in enumerate(credits):
        dispatcher.join(seat(session, count))
    given_out = list(dispatcher.assign(ledger))
    assert [part.key.seq for _, part, _ in given_out] == list(range(min(parts, sum(credits))))
    assert len({lease for _, _, lease in given_out}) == len(given_out)
    assert all(len(s.holds) <= s.credits for s in dispatcher.seats.values())
