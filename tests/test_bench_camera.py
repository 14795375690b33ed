"""`bench camera`: a fake GigE Vision camera beside a whole line; the camera's own numbers are the judge."""

from __future__ import annotations

import json

import pytest

from bench.camera import Shots, count
from bench.fake_camera import INSTALL, FakeCamera
from line_worker.cli import main
from line_worker.verdicts import Reason
from line_worker.wire.messages import FrameKey, Outcome


def outcome(seq: int, number: int, reason: Reason = Reason.NONE) -> Outcome:
    key, verdict = FrameKey("l", "c", 1, seq), "NO_DECISION" if reason else "PASS"
    return Outcome(seq, key, verdict, int(reason), None, None, (), "b", "w", 1, "", number, 1.0, 1.0, float(seq), {})


def test_numbers_that_follow_each_other_are_no_break_also_where_they_begin_anew() -> None:
    found = count(Shots(), [outcome(k, n) for k, n in enumerate([65534, 65535, 1, 2])], [1.0] * 4)
    assert (found.breaks, found.unaccounted, found.seconds, found.whole) == (0, 0, 3.0, True)


@pytest.mark.parametrize("numbers", [[5, 7], [5, 5], [5, 0], [65535, 0]])
def test_a_number_that_is_missing_or_double_is_a_break(numbers: list[int]) -> None:
    found = count(Shots(), [outcome(k, n) for k, n in enumerate(numbers)], [])
    assert (found.breaks, found.whole) == (1, False)


def test_gaps_are_counted_by_cause_and_lost_outcomes_too() -> None:
    found = count(Shots(), [outcome(0, 1), outcome(1, 2, Reason.LENGTH), outcome(3, 3, Reason.NO_FRAME)], [])
    assert found.reasons == {"LENGTH": 1, "NO_FRAME": 1}
    assert (found.counts, found.unaccounted, found.whole) == ({"PASS": 1, "NO_DECISION": 2}, 1, False)


def test_without_pictures_nothing_is_whole() -> None:
    assert not count(Shots(), [], []).whole
    assert not count(Shots(), [outcome(0, 1, Reason.LENGTH)], []).whole


@pytest.mark.long
@pytest.mark.skipif(not FakeCamera.installed(), reason=f"{INSTALL}, then: pytest tests/test_bench_camera.py")
def test_every_frame_of_a_camera_that_loses_packets_is_accounted_for(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("viva_genicam", reason=INSTALL)
    arguments = ["--seconds", "0.6", "--size", "320x240", "--lose", "40", "--packet-size", "3000"]
    with pytest.raises(SystemExit) as end:
        main(["bench", "camera", *arguments, "--json"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["breaks"], found["unaccounted"], found["whole"]) == (0, 0, True)
    assert found["outcomes"] == sum(found["counts"].values()) > 10
    assert found["counts"]["PASS"] > 0
    assert found["reasons"]["LENGTH"] > 0
    assert end.value.code == 0
