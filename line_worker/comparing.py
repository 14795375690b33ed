"""What a replay is compared with: a recording without its pixels, and how two outcomes of one picture may differ.

A verdict or reason that changed, a score that moved by more than the recording's tolerance, and a frame that was not
decided are differences. A replay judges by the bundle's own limit; where another one held when the part was recorded,
its score is held against that. Not compared, but counted: frames whose picture the recording lacks, and outcomes that
were a matter of time or of the station then (DEADLINE, OVERLOAD, ...), which say nothing about the picture.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field, replace

from line_worker.errors import RecordingError
from line_worker.verdicts import Reason, Verdict, reason_of, verdict_of
from line_worker.wire.messages import Frame, FrameKey, Outcome
from line_worker.wire.recording import Recording

SHOWN = 50  # differences that the report lists

# what a picture can be answered with; every other reason is about time, the station or the way there
ABOUT_THE_PICTURE = frozenset(
    {Reason.NONE, Reason.ANOMALY, Reason.SHAPE, Reason.TOO_BIG, Reason.DECODE, Reason.NO_FRAME, Reason.NONFINITE}
    | {Reason.NO_OBJECT, Reason.POSE, Reason.EXPOSURE, Reason.FOCUS, Reason.FROZEN}
)


@dataclass(frozen=True, slots=True)
class Difference:
    """One part that came out otherwise; `was` and `now` as people read them."""

    key: str
    part_id: str
    what: str  # "verdict", "score" or "lost"
    was: str
    now: str


@dataclass(slots=True)
class Recorded:
    """What a recording holds, without its pixels.

    `frames`: camera -> headers in the order in which they are replayed; `missing`: how many parts have no picture
    that could be replayed, by why.
    """

    recording: Recording
    frames: dict[str, list[Frame]] = field(default_factory=dict)
    outcomes: dict[FrameKey, Outcome] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """Frames that can be replayed."""
        return sum(map(len, self.frames.values()))


@dataclass(frozen=True, slots=True)
class Replayed:
    """The result: `same` parts agree, `differences` do not, `not_compared` are counted by why."""

    recording: str
    finished: bool
    problems: tuple[str, ...]
    bundles_then: tuple[str, ...]
    bundle: str
    tolerance: float
    frames: int
    missing: dict[str, int]
    same: int
    not_compared: dict[str, int]
    differences: tuple[Difference, ...]
    seconds: float


def survey(recording: Recording) -> Recorded:
    """Read the whole recording and return what is in it; RecordingError when there is nothing to replay."""
    found = Recorded(recording)
    announced: set[FrameKey] = set()
    given: set[FrameKey] = set()
    missing: dict[FrameKey, str] = {}
    gathered = _gathered(recording)
    for item in recording:
        if isinstance(item, Outcome):
            if item.key.camera not in gathered:
                found.outcomes.setdefault(item.key, item)
            continue
        key = item.frame.key
        announced.add(key)
        if item.replayable and key not in given:
            given.add(key)
            found.frames.setdefault(key.camera, []).append(item.frame)
        elif not item.replayable:
            missing[key] = item.missing or f"no picture was taken ({_name(item.frame.problem)})"
    for key in found.outcomes.keys() - announced:
        missing[key] = "never announced" if found.outcomes[key].reason == Reason.GAP else "its frame is lost"
    found.missing.update(why for key, why in missing.items() if key not in given)
    _count_holes(found.missing, announced | found.outcomes.keys())
    if not given:
        problems = "; ".join(recording.problems) or "it is empty"
        raise RecordingError(f"{recording.path}: holds no frame that could be replayed ({problems})")
    return found


def _gathered(recording: Recording) -> set[str]:
    """Name the parts of several cameras: their outcomes follow from those of the pictures, which are compared."""
    config = json.loads(recording.meta.config or "{}")
    return {parts["name"] for parts in config.get("parts", ())}


def _count_holes(missing: Counter[str], known: set[FrameKey]) -> None:
    """Count the sequence numbers of which the recording says nothing at all."""
    epochs: dict[tuple[str, int], list[int]] = {}
    for key in known:
        epochs.setdefault((key.camera, key.epoch), []).append(key.seq)
    for seqs in epochs.values():
        first, last = min(seqs), max(seqs)
        before, between = first, last - first + 1 - len(seqs)
        missing.update({"came before the recording began": before} if before else {})
        missing.update({"every trace is lost": between} if between else {})


def compare(recorded: Recorded, outcomes: dict[tuple[str, int], Outcome], seconds: float = 0.0) -> Replayed:
    """Compare; `outcomes` are those of the replay, by camera and sequence number (the n-th frame that was replayed)."""
    meta, same = recorded.recording.meta, 0
    skipped: Counter[str] = Counter()
    differences = []
    for camera, frames in recorded.frames.items():
        for number, frame in enumerate(frames):
            then, now = recorded.outcomes.get(frame.key), outcomes.get((camera, number))
            if now is None or now.trigger != frame.key.seq:
                was = "no outcome" if then is None else _words(then)
                differences.append(Difference(str(frame.key), frame.part_id, "lost", was, "no outcome"))
            elif then is None or then.reason not in ABOUT_THE_PICTURE:
                skipped["no outcome" if then is None else _reason(then)] += 1
            elif difference := _difference(frame, then, now, meta.tolerance):
                differences.append(difference)
            else:
                same += 1
    return Replayed(
        recording=str(recorded.recording.path),
        finished=recorded.recording.finished,
        problems=tuple(recorded.recording.problems),
        bundles_then=tuple(sorted(recorded.recording.bundles)),
        bundle=next((o.bundle for o in outcomes.values() if o.bundle), ""),
        tolerance=meta.tolerance,
        frames=recorded.count,
        missing=dict(recorded.missing),
        same=same,
        not_compared=dict(skipped),
        differences=tuple(differences),
        seconds=seconds,
    )


def _difference(frame: Frame, then: Outcome, now: Outcome, tolerance: float) -> Difference | None:
    name, now = (str(frame.key), frame.part_id), _as_then(now, then)
    if now.reason not in ABOUT_THE_PICTURE:
        return Difference(*name, "lost", _words(then), _words(now))
    if (now.verdict, now.reason) != (then.verdict, then.reason):
        return Difference(*name, "verdict", _words(then), _words(now))
    if not _close(then, now, tolerance):
        return Difference(*name, "score", f"{then.score}", f"{now.score}")
    return None


def _as_then(now: Outcome, then: Outcome) -> Outcome:
    """Return `now` as it would be with the limit that somebody had set for its bundle then."""
    if now.bundle != then.bundle or now.score is None or then.threshold in (None, now.threshold):
        return now
    assert then.threshold is not None
    reason = Reason.ANOMALY if now.score > then.threshold else Reason.NONE
    return replace(now, threshold=then.threshold, reason=int(reason), verdict=verdict_of(reason))


def _close(then: Outcome, now: Outcome, tolerance: float) -> bool:
    """Whether the scores agree within `tolerance` of the recorded threshold."""
    if then.score is None or now.score is None:
        return then.score is now.score
    return abs(then.score - now.score) <= tolerance * abs(then.threshold or 1.0)


def _words(outcome: Outcome) -> str:
    score = "" if outcome.score is None else f" {outcome.score:.6g} of {outcome.threshold:.6g}"
    reason = f"({_reason(outcome)})" if outcome.verdict == Verdict.NO_DECISION else ""
    return f"{outcome.verdict}{reason}{score}"


def _reason(outcome: Outcome) -> str:
    return _name(outcome.reason)


def _name(code: int) -> str:
    reason = reason_of(code)
    return str(code) if reason is None else reason.name


# ---- showing ---------------------------------------------------------------------------------------------------------


def render(found: Replayed) -> str:
    """Return the result as text for people."""
    lines = [f"{found.recording}: {found.frames} frames replayed in {found.seconds:.1f} s, bundle {found.bundle[:12]}"]
    if found.bundles_then and found.bundles_then != (found.bundle,):
        lines.append(f"  recorded with another bundle: {', '.join(name[:12] for name in found.bundles_then)}")
    lines += [f"  recording: {problem}" for problem in found.problems]
    lines += [f"  not replayed: {count} part(s): {why}" for why, count in found.missing.items()]
    lines += [f"  not compared: {count} recorded as {why}" for why, count in found.not_compared.items()]
    lines.append(f"  the same: {found.same}")
    lines.append(f"  different: {len(found.differences)}")
    for difference in found.differences[:SHOWN]:
        part = f" ({difference.part_id})" if difference.part_id else ""
        lines.append(f"    {difference.key}{part}: {difference.what}: {difference.was} -> {difference.now}")
    if len(found.differences) > SHOWN:
        lines.append(f"    and {len(found.differences) - SHOWN} more")
    return "\n".join(lines)
