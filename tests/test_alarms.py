"""Alarms stand until they are acknowledged, and come back whole from the journal."""

from __future__ import annotations

from line_worker.hub.alarms import Alarm, Alarms
from line_worker.verdicts import StopCause as S

RATE = Alarm(S.REJECT_RATE, "top", "30 of the last 100 parts were rejected", 1000.0)
SILENT = Alarm(S.SILENT, "side", "nothing fails", 1001.0)
CANARY = Alarm(S.CANARY, "top", "a canary passed", 1002.0)


def test_the_oldest_cause_stops_the_line_and_each_stands_once_a_camera() -> None:
    alarms = Alarms()
    assert alarms.stop_line is S.NONE
    assert alarms.sound(SILENT)
    assert alarms.sound(RATE)
    assert not alarms.sound(Alarm(S.SILENT, "side", "again", 2000.0)), "the first one stands"
    assert alarms.sound(Alarm(S.SILENT, "top", "nothing fails", 2000.0)), "another camera"
    assert alarms.stop_line is S.SILENT
    assert len(list(alarms)) == 3


def test_one_cause_or_all_are_acknowledged() -> None:
    alarms = Alarms((RATE, SILENT, CANARY))
    assert alarms.standing(S.CANARY, S.CHALLENGE) == (CANARY,)
    assert alarms.acknowledge(S.SILENT) == [SILENT]
    assert alarms.stop_line is S.REJECT_RATE
    assert alarms.acknowledge(S.SILENT) == []
    assert alarms.acknowledge() == [RATE, CANARY]
    assert alarms.stop_line is S.NONE


def test_what_is_dumped_is_loaded() -> None:
    assert list(Alarms.load(Alarms((RATE, CANARY)).dump())) == [RATE, CANARY]
    assert list(Alarms.load("")) == []


def test_an_alarm_says_what_and_where() -> None:
    assert str(RATE) == "REJECT_RATE: camera top: 30 of the last 100 parts were rejected"
    assert str(Alarm(S.JOURNAL, "", "set aside", 0.0)) == "JOURNAL: set aside"
