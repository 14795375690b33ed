"""What counts as a difference between a recording and its replay, on recordings written for the purpose."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.comparing import ABOUT_THE_PICTURE, Recorded, Replayed, compare, render, survey
from line_worker.errors import RecordingError
from line_worker.verdicts import Reason, verdict_of
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import RecordingMeta, Trigger, read_recording
from line_worker.wire.recording_writer import RecordingWriter

PICTURE = np.zeros((4, 4), np.uint8)
TOLERANCE = 0.01
EPOCH = 9


def header(seq: int, problem: Reason = Reason.NONE) -> Frame:
    key = FrameKey("l", "cam", EPOCH, seq)
    if problem:
        return Frame(key, 0.0, 1.0, (), "", "", 0, "none", problem=int(problem))
    return Frame(key, 0.0, 1.0, (4, 4), "uint8", "gray", checksum(PICTURE), "inline", part_id=f"p{seq}")


def outcome(seq: int, reason: Reason = Reason.NONE, score: float | None = 5.0, trigger: int | None = None) -> Outcome:
    scored = reason in (Reason.NONE, Reason.ANOMALY)
    return Outcome(
        row=seq,
        key=FrameKey("l", "cam", EPOCH, seq),
        verdict=str(verdict_of(reason)),
        reason=reason,
        score=score if scored else None,
        threshold=10.0 if scored else None,
        regions=(),
        bundle="b" * 64,
        worker="w",
        attempt=1,
        part_id="",
        trigger=seq if trigger is None else trigger,
        wall=0.0,
        latency_ms=1.0,
        left_ms=1.0,
        stages={},
    )


def recorded(path: Path, *items: Frame | Trigger | Outcome, config: str = "") -> Recorded:
    writer = RecordingWriter(path / "r.mcap", RecordingMeta("l", 0.0, TOLERANCE, config=config))
    for item in items:
        if isinstance(item, Outcome):
            writer.outcome(item, 0)
        else:
            trigger = item if isinstance(item, Trigger) else Trigger(item)
            has_picture = trigger.frame.place != "none" and not trigger.missing
            writer.frame(trigger, PICTURE if has_picture else None, 0, 0)
    writer.close()
    return survey(read_recording(path / "r.mcap"))


def one(path: Path, then: Outcome | None, now: Outcome | None) -> Replayed:
    """Return the comparison of a single part."""
    found = recorded(path, header(0), *([then] if then else []))
    return compare(found, {("cam", 0): now} if now else {})


def test_the_same_outcome_is_the_same(tmp_path: Path) -> None:
    found = one(tmp_path, outcome(0), outcome(0))
    assert (found.same, found.differences, found.not_compared, found.missing) == (1, (), {}, {})


@pytest.mark.parametrize(
    ("then", "now", "what"),
    [
        (outcome(0), outcome(0, Reason.ANOMALY), "verdict"),
        (outcome(0, Reason.ANOMALY), outcome(0), "verdict"),
        (outcome(0, Reason.POSE), outcome(0, Reason.FOCUS), "verdict"),
        (outcome(0, Reason.DECODE), outcome(0), "verdict"),
        (outcome(0, score=5.0), outcome(0, score=5.11), "score"),
        (outcome(0, score=5.0), outcome(0, score=4.89), "score"),
        (outcome(0), None, "lost"),
        (None, None, "lost"),
        (outcome(0, Reason.DEADLINE), None, "lost"),
        (outcome(0), outcome(0, Reason.OVERLOAD), "lost"),
        (outcome(0), outcome(0, trigger=1), "lost"),
    ],
)
def test_differences(tmp_path: Path, then: Outcome | None, now: Outcome | None, what: str) -> None:
    found = one(tmp_path, then, now)
    assert [d.what for d in found.differences] == [what]
    assert found.same == 0
    assert f"l/cam/9/0 (p0): {what}: " in render(found)


@pytest.mark.parametrize(
    ("limit", "reason", "bundle", "differences"),
    [
        (20.0, Reason.NONE, "b", 0),
        (20.0, Reason.NONE, "c", 1),  # another bundle has its own limit
        (20.0, Reason.ANOMALY, "b", 1),
        (10.0, Reason.ANOMALY, "b", 0),
    ],
)
def test_a_limit_that_held_then_holds_in_the_comparison(
    tmp_path: Path, limit: float, reason: Reason, bundle: str, differences: int
) -> None:
    then = dataclasses.replace(outcome(0, reason, 15.0), threshold=limit)
    now = dataclasses.replace(outcome(0, Reason.ANOMALY, 15.0), bundle=bundle * 64)  # the bundle's own limit is 10
    assert len(one(tmp_path, then, now).differences) == differences


@given(st.floats(0, 20), st.floats(-1, 1))
def test_scores_may_differ_by_the_tolerance_of_the_threshold(score: float, share: float) -> None:
    then, now = outcome(0, score=score), outcome(0, score=score + share * TOLERANCE * 10.0 * 0.999)
    assert compare(_held(then), {("cam", 0): now}).differences == ()
    beyond = outcome(0, score=score + (1 if share >= 0 else -1) * TOLERANCE * 10.0 * 1.001)
    assert len(compare(_held(then), {("cam", 0): beyond}).differences) == 1


def _held(then: Outcome) -> Recorded:
    class NoFile:
        path, finished, problems, bundles = Path("r"), True, (), frozenset({"b"})
        meta = RecordingMeta("l", 0.0, TOLERANCE)

    return Recorded(NoFile(), {"cam": [header(0)]}, {then.key: then})  # type: ignore[arg-type]


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason not in ABOUT_THE_PICTURE])
def test_what_was_a_matter_of_time_is_counted_and_not_compared(tmp_path: Path, reason: Reason) -> None:
    found = one(tmp_path, outcome(0, reason), outcome(0))
    assert (found.same, found.differences, found.not_compared) == (0, (), {reason.name: 1})
    assert f"not compared: 1 recorded as {reason.name}" in render(found)


def test_a_frame_without_an_outcome_is_counted(tmp_path: Path) -> None:
    assert one(tmp_path, None, outcome(0)).not_compared == {"no outcome": 1}


def test_everything_that_cannot_be_replayed_is_counted_by_why(tmp_path: Path) -> None:
    found = recorded(
        tmp_path,
        *(header(2), outcome(2)),
        *(header(3, Reason.OVERLOAD), outcome(3, Reason.OVERLOAD)),
        *(Trigger(header(4), missing="the disk does not keep up"), outcome(4)),
        outcome(5, Reason.GAP),
        outcome(6),  # its frame never reached the recorder
        *(header(9), outcome(9)),  # and of 7 and 8 there is no trace
    )
    assert dict(found.missing) == {
        "no picture was taken (OVERLOAD)": 1,
        "the disk does not keep up": 1,
        "never announced": 1,
        "its frame is lost": 1,
        "came before the recording began": 2,
        "every trace is lost": 2,
    }
    assert [frame.key.seq for frame in found.frames["cam"]] == [2, 9]
    result = compare(found, {("cam", 0): outcome(0, trigger=2), ("cam", 1): outcome(1, trigger=9)})
    assert (result.same, result.frames, sum(result.missing.values())) == (2, 2, 8)


def test_an_undecodable_image_is_replayed_and_compared(tmp_path: Path) -> None:
    found = recorded(tmp_path, header(0, Reason.DECODE), outcome(0, Reason.DECODE))
    assert compare(found, {("cam", 0): outcome(0, Reason.DECODE)}).same == 1


def test_outcomes_of_parts_that_several_cameras_see_are_not_compared(tmp_path: Path) -> None:
    whole = dataclasses.replace(outcome(0), key=FrameKey("l", "pairs", 3, 0))
    found = compare(recorded(tmp_path, header(0), outcome(0), whole, config='{"parts": [{"name": "pairs"}]}'), {})
    assert (found.frames, found.missing) == (1, {})


def test_a_frame_recorded_twice_counts_once(tmp_path: Path) -> None:
    found = recorded(tmp_path, Trigger(header(0), missing="overwritten"), header(0), header(0), outcome(0), outcome(0))
    assert (found.count, dict(found.missing)) == (1, {})


def test_nothing_to_replay_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="no frame that could be replayed"):
        recorded(tmp_path, header(0, Reason.OVERLOAD), outcome(0, Reason.OVERLOAD))


def test_another_bundle_is_said(tmp_path: Path) -> None:
    now = dataclasses.replace(outcome(0), bundle="c" * 64)
    assert "recorded with another bundle: bbbbbbbbbbbb" in render(one(tmp_path, outcome(0), now))


def test_a_long_list_is_cut(tmp_path: Path) -> None:
    found = recorded(tmp_path, *(header(seq) for seq in range(60)), *(outcome(seq) for seq in range(60)))
    text = render(compare(found, {}))
    assert "different: 60" in text
    assert text.endswith("and 10 more")
