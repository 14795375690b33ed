"""What a header alone decides, and what a worker's result stands for. Pure."""

from __future__ import annotations

from line_worker.verdicts import Reason, reason_of
from line_worker.wire.messages import DTYPES, PLACES, Frame, Result


def header_problem(frame: Frame, inline: int, frame_bytes: int) -> Reason:
    """Return why no worker needs to see this frame, or NONE.

    `inline` is the number of pixel bytes in the message, `frame_bytes` the most that the camera may send.
    """
    if frame.problem:
        return _said(frame.problem)
    if frame.place not in PLACES:
        return Reason.HEADER
    if frame.place == "none":
        return Reason.NO_FRAME
    if frame.dtype not in DTYPES or frame.nbytes < 0:
        return Reason.SHAPE
    if frame.nbytes > frame_bytes:
        return Reason.TOO_BIG
    if frame.place == "inline" and inline != frame.nbytes:
        return Reason.LENGTH
    return Reason.NONE


def _said(problem: int) -> Reason:
    """Return the source's reason for having no picture; a source may not say that a part is an anomaly."""
    reason = reason_of(problem)
    return Reason.HEADER if reason in (None, Reason.NONE, Reason.ANOMALY) else reason


def judge(result: Result, may_pass: bool) -> Reason:
    """Return the reason that a valid result stands for; only a finite score under its threshold reads as PASS."""
    reason = reason_of(result.reason)
    if reason is None:
        return Reason.HEADER
    if reason is not Reason.NONE:
        return reason
    if result.score is None or result.threshold is None:
        return Reason.NONFINITE
    if not result.score <= result.threshold:
        return Reason.ANOMALY
    return Reason.NONE if may_pass else Reason.NOT_RUNNING
