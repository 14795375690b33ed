"""What a hub does when somebody should look: rules, canaries, challenges; peers follow a script."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from line_worker.errors import ConfigError, JournalError
from line_worker.hub.commands import Commands
from line_worker.verdicts import Reason, StationState, StopCause
from line_worker.wire import messages as m
from line_worker.wire.links import OUTCOMES
from scripted_hub import Peer, Rig, answer, asked, frame, rig_with


def test_a_rule_that_trips_stops_the_line_until_it_is_acknowledged_over_a_restart(short_path: Path) -> None:
    with rig_with(short_path, rules={"rejects_in_row": 2}) as rig:
        source, worker = rig.running()
        source.say(frame(0), frame(1))
        for lease in worker.hears(m.Lease, 2):
            worker.say(answer(lease, score=2.0))
        assert rig.outcomes(2) == {0: Reason.ANOMALY, 1: Reason.ANOMALY}
        rig.beat()
        state = rig.beat()
        assert state.stop_line == StopCause.REJECTS_IN_ROW
        assert state.warnings == ("REJECTS_IN_ROW: camera cam: 2 rejects in a row",)
        assert rig.hub.station.state is StationState.RUNNING, "verdicts go on"
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == StopCause.REJECTS_IN_ROW
        assert asked(rig, "acknowledge", cause="canary") == {"ok": True, "cleared": []}
        assert rig.beat().stop_line == StopCause.REJECTS_IN_ROW
        [cleared] = asked(rig, "acknowledge", cause="rejects_in_row")["cleared"]
        assert cleared == "REJECTS_IN_ROW: camera cam: 2 rejects in a row"
        assert rig.beat().stop_line == 0
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == 0


def test_the_status_says_how_the_line_is(rig: Rig) -> None:
    rig.running()
    status = asked(rig, "status")
    assert (status["line"], status["state"], status["stop_line"], status["alarms"]) == ("t", "RUNNING", "NONE", [])
    assert (status["workers"], status["cameras"], status["sinks"]) == (1, {"cam": True}, {"watcher": True})


def test_the_status_says_why_a_sink_is_not_well_and_how_many_outcomes_wait_for_it(rig: Rig) -> None:
    nats = rig.peer(OUTCOMES, "nats")
    nats.say(m.SinkHello("nats", True, False))
    rig.until(lambda: len(rig.hub.outbox.views()) == 2)
    source, worker = rig.running()
    source.say(frame(0), frame(1))
    for lease in worker.hears(m.Lease, 2):
        worker.say(answer(lease))
    nats.hears(m.Outcome, 2)
    assert asked(rig, "status")["sink_troubles"] == {}
    nats.say(m.SinkState("nats", False, "no route to the broker"))
    rig.sink.say(m.SinkState("watcher", False, "jammed"))
    rig.until(lambda: not any(view.reachable for view in rig.hub.outbox.views()))
    assert asked(rig, "status")["sink_troubles"] == {
        "watcher": {"why": "jammed", "waiting": 0},
        "nats": {"why": "no route to the broker", "waiting": 2},
    }


def test_a_cause_that_does_not_exist_is_refused(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="one of: NONE, REJECTS_IN_ROW"):
        rig.hub.guard.acknowledge("FIRE")
    with pytest.raises(ConfigError, match="should be a word"):
        Commands(rig.hub).acknowledge(cause=3)  # type: ignore[arg-type]


def test_an_alarm_that_cannot_be_written_now_is_written_later(short_path: Path) -> None:
    with rig_with(short_path, rules={"undecided_in_row": 1}) as rig:
        rig.source().say(frame(0, place="none", problem=int(Reason.DECODE)))
        with contextlib.closing(sqlite3.connect(rig.config.journal_path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            rig.until(lambda: bool(rig.hub.guard.alarms.stop_line))
            assert rig.beat().stop_line == StopCause.UNDECIDED_IN_ROW, "the PLC is told all the same"
            assert rig.hub.journal.kept("alarms") == ""
            other.execute("ROLLBACK")
        rig.until(lambda: "UNDECIDED_IN_ROW" in rig.hub.journal.kept("alarms"))


def canary_of(worker: Peer) -> m.Lease:
    """Wait for a canary; returns its lease."""
    worker._rig.until(lambda: any(lease.canary for lease in worker.got(m.Lease)))
    return [lease for lease in worker.got(m.Lease) if lease.canary][-1]


def test_a_missed_canary_lets_nothing_pass_until_it_is_acknowledged(short_path: Path) -> None:
    with rig_with(short_path, canary_every_s=3600.0) as rig:
        source, worker = rig.running()
        source.say(frame(0, place="inline", pixels=b"1234"))
        worker.say(answer(worker.hears(m.Lease)[0]))
        assert rig.outcomes(1) == {0: Reason.NONE}
        canary = canary_of(worker)
        assert (canary.lease, canary.pixels, canary.frame.key.seq) == (-1, b"1234", 0)
        source.say(frame(1))
        worker.hears(m.Lease, 3)
        worker.say(answer(canary))  # it has passed
        worker.say(answer(worker.got(m.Lease)[-1], score=5.0))
        source.say(frame(2))
        worker.say(answer(worker.hears(m.Lease, 4)[-1]))
        assert rig.outcomes(3) == {0: Reason.NONE, 1: Reason.CANARY, 2: Reason.CANARY}
        assert asked(rig, "status")["canaries"]["cam"]["missed"] == 1
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == StopCause.CANARY, "it stands over a restart"
        assert rig.hub.ledger.distrusted
        asked(rig, "acknowledge")
        assert not rig.hub.ledger.distrusted
        totals = {"PASS": 1, "NO_DECISION": 2}
        assert rig.hub.journal.totals() == totals, "the canary is in no book"


def test_a_canary_that_fails_changes_nothing_and_waits_for_parts(short_path: Path) -> None:
    with rig_with(short_path, canary_every_s=3600.0) as rig:
        source, worker = rig.running()
        source.say(frame(0), frame(1))
        first, second = worker.hears(m.Lease, 2)
        worker.say(answer(first))
        rig.outcomes(1)
        assert not [lease for lease in worker.got(m.Lease) if lease.canary], "the worker still holds a part"
        worker.say(answer(second))
        worker.say(answer(canary_of(worker), score=5.0))
        source.say(frame(2))
        worker.say(answer(worker.hears(m.Lease, 4)[-1]))
        assert set(rig.outcomes(3).values()) == {Reason.NONE}
        assert asked(rig, "status")["canaries"] == {
            "cam": {"failed": 1, "missed": 0, "score": 5.0, "threshold": 1.0},
        }


def test_an_answer_to_a_canary_that_nobody_sent_is_refused(short_path: Path) -> None:
    with rig_with(short_path, canary_every_s=3600.0) as rig:
        source, worker = rig.running()
        source.say(frame(0))
        [lease] = worker.hears(m.Lease)
        with capture_logs() as logs:
            worker.say(answer(lease, lease=-7))
            rig.until(lambda: any("no canary of ours" in str(entry["event"]) for entry in logs))
        worker.say(answer(lease))
        assert rig.outcomes(1) == {0: Reason.NONE}


def test_known_bad_parts_must_fail_and_one_that_would_pass_stops_everything(short_path: Path) -> None:
    with rig_with(short_path, rules={"rejects_in_row": 2}, challenge_every_s=3600.0) as rig:
        source, worker = rig.running()
        assert asked(rig, "challenge", parts=2) == {"ok": True, "camera": "cam", "parts": 2}
        source.say(frame(0), frame(1))
        for lease in worker.hears(m.Lease, 2):
            worker.say(answer(lease, score=5.0))
        assert rig.outcomes(2) == {0: Reason.ANOMALY, 1: Reason.ANOMALY}
        assert rig.beat().stop_line == 0, "the rules do not count them"
        assert rig.hub.guard.challenges.cameras["cam"].failed == 2
        asked(rig, "challenge", camera="cam", parts=1)
        source.say(frame(2), frame(3))
        for lease in worker.hears(m.Lease, 4)[2:]:
            worker.say(answer(lease))
        assert rig.outcomes(4)[2] is Reason.CANARY
        assert rig.outcomes(4)[3] is Reason.CANARY
        rig.beat()
        assert rig.beat().stop_line == StopCause.CANARY
        [cleared] = asked(rig, "acknowledge")["cleared"]
        assert "a known-bad part passed (t/cam/1000/2)" in cleared
        source.say(frame(4))
        worker.say(answer(worker.hears(m.Lease, 5)[-1]))
        assert rig.outcomes(5)[4] is Reason.NONE


def test_a_challenge_that_a_restart_breaks_off_is_told_once(short_path: Path) -> None:
    with rig_with(short_path) as rig:
        source, worker = rig.running()
        asked(rig, "challenge", parts=3)
        assert asked(rig, "status")["challenges"]["cam"]["result"] == "under way"
        source.say(frame(0), frame(1))
        first, _ = worker.hears(m.Lease, 2)
        worker.say(answer(first, score=5.0))
        assert rig.outcomes(1) == {0: Reason.ANOMALY}
        rig.beat()
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == StopCause.CHALLENGE
        assert asked(rig, "status")["challenges"]["cam"]["result"] == "none"
        [told] = asked(rig, "acknowledge")["cleared"]
        assert "a challenge of 3 known-bad parts was broken off by a restart, 1 of them had failed" in told
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == 0, "it has been told"


def test_a_challenge_that_came_to_its_end_is_no_broken_one(short_path: Path) -> None:
    with rig_with(short_path) as rig:
        source, worker = rig.running()
        asked(rig, "challenge", parts=1)
        source.say(frame(0))
        [lease] = worker.hears(m.Lease)
        worker.say(answer(lease, score=5.0))
        rig.outcomes(1)
        rig.beat()
        assert asked(rig, "status")["challenges"]["cam"]["result"] == "met"
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == 0


def test_a_challenge_that_cannot_be_written_down_does_not_begin(short_path: Path) -> None:
    with rig_with(short_path) as rig:
        rig.running()
        rig.hub.journal._db.execute("PRAGMA query_only = 1")
        with pytest.raises(JournalError, match="challenges under way are not kept"):
            Commands(rig.hub).challenge(parts=2)
        rig.hub.journal._db.execute("PRAGMA query_only = 0")
        assert rig.hub.guard.challenges.under_way() == {}


def test_an_overdue_challenge_warns_or_stops_and_is_remembered_over_a_restart(short_path: Path) -> None:
    with rig_with(short_path, challenge_every_s=1000.0, challenge_overdue="stop") as rig:
        rig.hub.guard._met["cam"] = time.time() - 990
        rig.hub.guard._unsaved = True
        rig.hub.guard.save()
        rig.restart()
        rig.watch()
        assert rig.beat().stop_line == 0
        now = time.monotonic() + 20
        assert "camera cam: no challenge was met for" in rig.hub.guard.warnings(now)[0]
        rig.hub.guard.watch(now)
        assert rig.beat().stop_line == StopCause.CHALLENGE
        asked(rig, "acknowledge")
        rig.hub.guard.watch(now)
        assert rig.beat().stop_line == 0, "it says so once a period"


@pytest.mark.parametrize("wrong", [{"camera": "x"}, {"camera": 1}, {"parts": -1}, {"parts": 5000}, {"parts": "2"}])
def test_a_challenge_of_nothing_is_refused(rig: Rig, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Commands(rig.hub).challenge(**wrong)


def test_parts_that_a_stop_leaves_undecided_stop_no_line(short_path: Path) -> None:
    with rig_with(short_path, rules={"undecided_in_row": 1}) as rig:
        source, worker = rig.running()
        source.say(frame(0))
        worker.hears(m.Lease)
        rig.hub.stop()
        assert rig.outcomes(1) == {0: Reason.SHUTDOWN}
        assert rig.beat().stop_line == 0
