"""A camera's GenICam nodes, set as the configuration says and read back, through whichever library speaks to it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from line_worker.errors import SourceError

if TYPE_CHECKING:
    from line_worker.config_triggers import Trigger

MODE = "TriggerMode"
ROUNDED = 0.02  # a camera may set an exposure or a gain this share away from what was asked

Value = bool | int | float | str


class Nodes(Protocol):
    """What a library has to offer."""

    errors: tuple[type[Exception], ...]  # what it raises for a node that does not take a value

    def names(self) -> Sequence[str]:
        """Return the names of all nodes."""

    def choices(self, name: str) -> Sequence[str]:
        """Return what an enumeration takes; nothing for another kind of node."""

    def text(self, name: str) -> str:
        """Return a node's value in words."""

    def put(self, name: str, value: Value) -> Any:
        """Set a node and return its value as read back; a command is executed, and returns `value`."""


def set_nodes(nodes: Nodes, wanted: Mapping[str, Value]) -> None:
    """Set nodes in the order given and read each back; SourceError for one that the camera does not take."""
    names = nodes.names() if wanted else ()
    for name, value in wanted.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, 3)
            hint = f"; it has {', '.join(near)}" if near else ""
            raise SourceError(f"the camera has no node {name}; it was not started{hint}")
        _set(nodes, name, value)


def _set(nodes: Nodes, name: str, value: Value) -> None:
    stopped = "the camera was not started"
    try:
        found = nodes.put(name, value)
    except nodes.errors as error:
        choices = nodes.choices(name)
        takes = f"; it takes {', '.join(choices)}" if choices else ""
        raise SourceError(f"node {name} = {value!r} is refused ({first_line(error)}); {stopped}{takes}") from error
    if not _same(value, found):
        raise SourceError(f"node {name} was set to {value!r} and is {found!r}; {stopped}; set what it can")


def _same(value: Value, found: Any) -> bool:
    if isinstance(value, float):
        return abs(value - float(found)) <= ROUNDED * max(abs(value), 1e-9)
    return bool(value == found)


def waits_unasked(nodes: Nodes, wanted: Mapping[str, Value]) -> bool:
    """Return whether the camera waits for a trigger that is not `wanted`: what was set once stays in a camera."""
    try:
        return MODE not in wanted and nodes.text(MODE) == "On"
    except nodes.errors:  # it has no such node, or does not tell
        return False


def trigger_nodes(trigger: Trigger) -> dict[str, Value]:
    """Return the nodes that make a camera wait for a signal at its input; none for other triggers."""
    if trigger.kind != "hardware":
        return {}
    edge = {"rising": "RisingEdge", "falling": "FallingEdge"}[trigger.edge]
    return {
        "TriggerSelector": "FrameStart",
        MODE: "On",
        "TriggerSource": trigger.line,
        "TriggerActivation": edge,
    }


def first_line(error: Exception) -> str:
    """Return what an error says, on one line and not too long."""
    return " ".join(str(error).split())[:160]
