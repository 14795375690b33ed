"""Reasons, states and causes in words for the people beside the line."""

from __future__ import annotations

from line_worker.verdicts import Reason, StationState, StopCause

REASONS = {
    Reason.NONE: "",
    Reason.ANOMALY: "looks unlike good parts",
    Reason.DEADLINE: "no answer in time",
    Reason.TOO_LATE: "the answer would have come too late",
    Reason.NO_WORKER: "no worker was ready",
    Reason.OVERLOAD: "parts come faster than they can be judged",
    Reason.NO_MODEL: "no approved bundle is loaded",
    Reason.POISON: "two workers were lost with this picture",
    Reason.SHUTDOWN: "the station was stopping",
    Reason.RESTART: "the station was restarting",
    Reason.JOURNAL: "the journal could not be written",
    Reason.DEVICE: "the computing device failed",
    Reason.NOT_RUNNING: "the station was not running",
    Reason.GAP: "the picture never arrived",
    Reason.NO_FRAME: "the camera gave no picture",
    Reason.LENGTH: "the picture is incomplete",
    Reason.CRC: "the picture was damaged on its way",
    Reason.SHAPE: "the picture has the wrong size or kind",
    Reason.TOO_BIG: "the picture is too large",
    Reason.DECODE: "the picture cannot be read",
    Reason.HEADER: "the camera's message cannot be read",
    Reason.ID_CONFLICT: "two pictures have the same number",
    Reason.NO_OBJECT: "no part in the picture",
    Reason.POSE: "the part lies as no good part did",
    Reason.EXPOSURE: "the picture is too dark or too bright",
    Reason.FOCUS: "the picture is out of focus",
    Reason.FROZEN: "the camera repeats the same picture",
    Reason.NONFINITE: "the model gave no usable number",
    Reason.CANARY: "the station has missed a test defect",
}

STATES = {
    StationState.SELFTEST: "Self-test",
    StationState.READY: "Ready",
    StationState.RUNNING: "Running",
    StationState.DEGRADED: "Degraded",
    StationState.FAULT: "Fault",
    StationState.STOPPED: "Stopped",
}

STOPS = {
    StopCause.NONE: "",
    StopCause.REJECTS_IN_ROW: "too many rejects in a row",
    StopCause.UNDECIDED_IN_ROW: "too many undecided parts in a row",
    StopCause.REJECT_RATE: "the reject rate is too high",
    StopCause.SILENT: "nothing fails any more: does the station still see?",
    StopCause.CANARY: "a test defect passed",
    StopCause.CHALLENGE: "known-bad parts are overdue or passed",
    StopCause.JOURNAL: "the journal was damaged and begun anew",
}
