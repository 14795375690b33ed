"""A hub that is killed, stopped, or whose journal fails, with peers that follow a script."""

from __future__ import annotations

import contextlib
import sqlite3
import time

from line_worker.verdicts import Reason, StationState, StopCause
from line_worker.wire import messages as m
from scripted_hub import DEADLINE_MS, EPOCH, PATIENCE_S, Rig, answer, asked, done_by, frame


def test_a_hub_that_is_killed_continues_where_it_was(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(*(frame(seq) for seq in range(3)))
    leases = worker.hears(m.Lease, 3)
    worker.say(answer(leases[1]))
    rig.until(lambda: rig.hub.journal.last_row() == 1)
    rig.beat()
    rig.restart()
    assert (rig.hub.ledger.open_parts, rig.hub.ledger.counts["PASS"]) == (2, 1)
    rig.watch()
    worker.say(answer(leases[0]))
    rig.until(lambda: worker.got(m.HubHello)[-1].instance == rig.hub.instance)
    assert worker.got(m.HubHello)[-1].known is False
    worker.say(m.WorkerHello("worker-1", 2, 4, "stub", 10_000.0, "cpu"))
    source.say(m.SourceHello("cam", EPOCH, 3), m.SourceAlive("cam", EPOCH, 3, True, ""))
    rig.until_state(StationState.RUNNING)
    worker.heard.clear()
    source.say(frame(0, age_ms=100.0), frame(1, age_ms=100.0))
    worker.say(answer(worker.hears(m.Lease)[0], session=2))
    assert rig.outcomes(3) == {0: Reason.NONE, 1: Reason.NONE, 2: Reason.RESTART}
    held_back = next(outcome for outcome in rig.sink.got(m.Outcome) if outcome.key.seq == 1)
    assert (held_back.row, held_back.worker) == (1, "worker-1"), "as it stands in the journal"
    assert 0 < held_back.left_ms < DEADLINE_MS - 100
    rig.until(lambda: done_by(source) == {(EPOCH, 0), (EPOCH, 1), (EPOCH, 2)})
    assert rig.hub.ledger.counts == {"PASS": 2, "NO_DECISION": 1, "late_result": 1}


def test_a_journal_that_cannot_be_written_lets_nothing_pass_and_catches_up(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    [lease] = worker.hears(m.Lease)
    with contextlib.closing(sqlite3.connect(rig.config.journal_path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        worker.say(answer(lease))
        assert rig.outcomes(1) == {0: Reason.JOURNAL}
        rig.until_state(StationState.FAULT)
        other.execute("ROLLBACK")
    rig.until_state(StationState.RUNNING)
    assert [o.reason for o in rig.hub.journal.after(0, 10)] == [Reason.JOURNAL]
    assert source.hears(m.FrameDone) == [m.FrameDone("cam", EPOCH, (0,))]


def test_stopping_settles_what_is_open_and_shows_it(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.hears(m.Lease)
    rig.hub.stop()
    source.say(frame(1))
    assert rig.outcomes(2) == {0: Reason.SHUTDOWN, 1: Reason.SHUTDOWN}
    assert rig.beat().state == StationState.STOPPED


def test_a_result_that_arrives_while_the_hub_stops_is_too_late(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0]))
    end = time.monotonic() + PATIENCE_S
    while not rig.hub.workers._peers.channel.socket.poll(10) and time.monotonic() < end:
        pass  # it is there, and nobody has read it
    rig.hub.stop()
    assert rig.outcomes(1) == {0: Reason.SHUTDOWN}
    assert rig.hub.ledger.counts["late_result"] == 1


def test_a_hub_that_is_killed_still_knows_the_last_picture(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0, checksum=5))
    worker.say(answer(worker.hears(m.Lease)[0]))
    rig.outcomes(1)
    rig.beat()
    rig.restart()
    rig.watch()
    source.say(m.SourceHello("cam", EPOCH, 1), frame(1, checksum=5))
    assert rig.outcomes(2)[1] is Reason.FROZEN


def test_a_damaged_journal_is_a_fault_until_it_is_acknowledged_over_a_restart(rig: Rig) -> None:
    source, worker = rig.running()
    source.say(frame(0))
    worker.say(answer(worker.hears(m.Lease)[0]))
    assert rig.outcomes(1) == {0: Reason.NONE}
    rig.hub.close()
    rig.config.journal_path.write_bytes(b"this is no journal any more" * 1000)
    rig.restart()
    rig.restart()
    rig.watch()
    rig.until_state(StationState.FAULT)
    assert "journal.sqlite.damaged-" in rig.hub.station.cause
    assert rig.beat().stop_line == StopCause.JOURNAL
    [cleared] = asked(rig, "acknowledge", cause="journal")["cleared"]
    assert "journal.sqlite.damaged-" in cleared
    rig.restart()
    rig.watch()
    assert rig.beat().stop_line == 0
    assert rig.hub.station.state is not StationState.FAULT


def test_an_epoch_whose_journal_is_lost_must_end(rig: Rig) -> None:
    source, _ = rig.running()
    rig.hub.close()
    rig.config.journal_path.write_bytes(b"this is no journal any more" * 1000)
    rig.restart()
    rig.watch()
    source.heard.clear()
    source.say(m.SourceHello("cam", EPOCH, 40))
    [refused] = source.hears(m.Refused)
    assert refused.old_epoch == EPOCH
    source.pulse = None
    source.say(m.SourceHello("cam", EPOCH + 1, 0), frame(0, epoch=EPOCH + 1))
    rig.until(lambda: rig.hub.ledger.open_parts == 1)
