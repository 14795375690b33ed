"""The words for what becomes of a part: PASS, FAIL or NO_DECISION with a reason.

There is no path on which an error, a time-out or an empty result reads as PASS: PASS is the one verdict that
must be reached, everything else is a reject. The codes are what a PLC sees; they never change meaning.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum


class Verdict(StrEnum):
    """What the line decided for one part."""

    PASS = "PASS"
    FAIL = "FAIL"
    NO_DECISION = "NO_DECISION"


class Reason(IntEnum):
    """Why; the value is the 16-bit reason code in the PLC's registers."""

    NONE = 0  # PASS
    ANOMALY = 1  # FAIL: the part differs from good parts
    # the part was not decided in time, or nobody could decide it
    DEADLINE = 10
    TOO_LATE = 11  # a worker saw that it could not make the deadline
    NO_WORKER = 12
    OVERLOAD = 13  # the source's window was full
    NO_MODEL = 14
    POISON = 15  # two workers were lost with this frame in flight
    SHUTDOWN = 16
    RESTART = 17  # the hub restarted and the deadline had passed
    JOURNAL = 18  # the outcome could not be written, so it must not be a PASS
    DEVICE = 19  # the worker's device failed on this frame
    NOT_RUNNING = 20  # the station was not in a state that may pass parts
    # the frame is missing or damaged
    GAP = 30
    NO_FRAME = 31
    LENGTH = 32
    CRC = 33
    SHAPE = 34
    TOO_BIG = 35
    DECODE = 36
    HEADER = 37
    ID_CONFLICT = 38
    # the picture is intact but shows no part that can be judged
    NO_OBJECT = 50
    POSE = 51
    EXPOSURE = 52
    FOCUS = 53
    FROZEN = 54
    NONFINITE = 55
    # the station is not to be trusted
    CANARY = 70


class StationState(IntEnum):
    """The state of the whole station, as the PLC reads it; only RUNNING may pass parts."""

    SELFTEST = 0
    READY = 1
    RUNNING = 2
    DEGRADED = 3
    FAULT = 4
    STOPPED = 5


class StopCause(IntEnum):
    """Why the line should stop until the operator has acknowledged it; the value is what the PLC reads."""

    NONE = 0
    REJECTS_IN_ROW = 1
    UNDECIDED_IN_ROW = 2
    REJECT_RATE = 3
    SILENT = 4  # nothing fails any more
    CANARY = 5  # the station has passed a part that it had to fail
    CHALLENGE = 6  # known-bad parts have not been shown to it for too long
    JOURNAL = 7  # the journal was damaged, and a new one was begun


class RecipeState(IntEnum):
    """What became of the recipe that the PLC wants; the value is what it reads."""

    STEADY = 0  # it inspects, or the PLC wants none
    CHANGING = 1  # the one in `recipe` still inspects
    REFUSED = 2  # there is none of this number, or it cannot be loaded; the one in `recipe` goes on


def verdict_of(reason: Reason) -> Verdict:
    """Return the only verdict that `reason` can stand beside."""
    if reason is Reason.NONE:
        return Verdict.PASS
    return Verdict.FAIL if reason is Reason.ANOMALY else Verdict.NO_DECISION


def reason_of(code: int) -> Reason | None:
    """Return the reason with this code, None for a code that nobody has defined."""
    try:
        return Reason(code)
    except ValueError:
        return None
