"""Outcomes and states in the words of OPC 40100-1 (OPC UA for Machine Vision), for every sink that speaks to a plant.

A result is plain data (text, numbers, lists, dicts), named as the companion specification names it:

    ResultId                 the frame's key, the same however often a result is sent: receivers drop what they have
    IsPartial                always false: a part has one outcome
    IsSimulated              true when no camera took the picture, or no model judged it
    ResultState              1 completed (PASS, FAIL), 4 failed (NO_DECISION)
    MeasId, PartId           the part's number since the camera's start; the part's own id, empty where it has none
    JobId                    the camera's run: its name and the number of its start
    InternalRecipeId         the bundle's sha256
    InternalConfigurationId  line and camera
    CreationTime             when it was decided (wall clock, UTC)
    ProcessingTimes          from the trigger to the decision; ProcessingDuration in ms is the worker's own
    ResultContent            what was found: verdict, reason, score, threshold, regions
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from line_worker.verdicts import Reason, StationState, StopCause, Verdict
from line_worker.wire.messages import HubState, Outcome

if TYPE_CHECKING:
    from line_worker.config import Config

COMPLETED, FAILED = 1, 4  # ResultState


class VisionState(NamedTuple):
    """A state of VisionStateMachineType and, inside Operational, one of its automatic mode."""

    name: str
    automatic: str = ""


STATES = {
    StationState.SELFTEST: VisionState("Preoperational"),
    StationState.READY: VisionState("Operational", "Ready"),
    StationState.RUNNING: VisionState("Operational", "ContinuousExecution"),
    StationState.DEGRADED: VisionState("Error"),
    StationState.FAULT: VisionState("Error"),
    StationState.STOPPED: VisionState("Halted"),
}


def simulated_cameras(config: Config) -> frozenset[str]:
    """Name the cameras, and parts of several, that are drawn or recorded; all of them where workers carry no model."""
    stub, drawn = config.workers.stub, ("synthetic", "replay")
    made_up = frozenset(camera.name for camera in config.cameras if stub or camera.source.kind in drawn)
    return made_up | {parts.name for parts in config.parts if made_up & {*parts.cameras}}


def result_of(outcome: Outcome, *, simulated: bool) -> dict[str, Any]:
    """Return `outcome` as OPC 40100's ResultDataType, times as `datetime`."""
    key, decided = outcome.key, _utc(outcome.wall)
    times: dict[str, Any] = {"StartTime": _utc(outcome.wall - outcome.latency_ms / 1000), "EndTime": decided}
    if outcome.stages:
        times["ProcessingDuration"] = sum(outcome.stages.values())
    return {
        "ResultId": {"Id": str(key)},
        "IsPartial": False,
        "IsSimulated": simulated,
        "ResultState": FAILED if outcome.verdict == Verdict.NO_DECISION else COMPLETED,
        "MeasId": {"Id": str(key.seq)},
        "PartId": {"Id": outcome.part_id},
        "InternalRecipeId": {"Id": outcome.bundle},
        "InternalConfigurationId": {"Id": f"{key.line}/{key.camera}"},
        "JobId": {"Id": f"{key.camera}/{key.epoch}"},
        "CreationTime": decided,
        "ProcessingTimes": times,
        "ResultContent": [_content(outcome)],
    }


def _content(outcome: Outcome) -> dict[str, Any]:
    return {
        "Verdict": outcome.verdict,
        "Reason": Reason(outcome.reason).name,
        "Score": outcome.score,
        "Threshold": outcome.threshold,
        "PValue": outcome.p_value,
        "Trigger": outcome.trigger,
        "Regions": [asdict(region) for region in outcome.regions],
        "Views": [
            {
                "Camera": view.key.camera,
                "ResultId": str(view.key),
                "Verdict": view.verdict,
                "Reason": Reason(view.reason).name,
            }
            for view in outcome.views
        ],
    }


def state_of(state: HubState) -> dict[str, Any]:
    """Return the station's state with its cause in words."""
    named = STATES[StationState(state.state)]
    return {
        "VisionStateMachine": named.name,
        "AutomaticModeStateMachine": named.automatic or None,
        "Station": StationState(state.state).name,
        "Cause": state.cause,
        "StopLine": StopCause(state.stop_line).name,
        "Warnings": list(state.warnings),
        "ActiveRecipeId": state.bundle,
    }


def silent_state(last: dict[str, Any]) -> dict[str, Any]:
    """Return the state of a station whose hub says nothing any more."""
    words = {"VisionStateMachine": "Error", "AutomaticModeStateMachine": None, "Station": StationState.FAULT.name}
    return last | words | {"Cause": "the hub is silent"}


def jsonable(value: Any) -> Any:
    """Return `value` with every `datetime` as ISO 8601 text, UTC, to the millisecond."""
    match value:
        case datetime():
            return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        case dict():
            return {name: jsonable(item) for name, item in value.items()}
        case list():
            return [jsonable(item) for item in value]
    return value


def _utc(wall: float) -> datetime:
    return datetime.fromtimestamp(wall, UTC)
