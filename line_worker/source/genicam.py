"""A GenICam camera (GigE Vision, USB3 Vision, CoaXPress, ...) through its vendor's GenTL producer.

The producer acquires into buffers of its own, so nothing is lost while the line is busy; a picture is copied out of its
buffer and the buffer goes back. Frames that the camera numbered and that never came, and buffers that came incomplete,
are triggers without a picture: gaps with a cause, never pictures. Whatever the configuration sets is read back.
"""

from __future__ import annotations

import contextlib
import difflib
import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from line_worker.errors import SourceError
from line_worker.source import Captured
from line_worker.source.pixels import picture
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from line_worker.config import GenicamSource
    from line_worker.config_triggers import Trigger

ROUNDED = 0.02  # a camera may set an exposure or a gain this share away from what was asked
LAST_BLOCK = 65535  # GigE Vision 1 counts frames from 1 to this, then again from 1
MOST_LOST = 10_000  # a larger jump in the numbers is another camera's counting, not loss


class Device(NamedTuple):
    """A camera that a producer sees."""

    id: str
    vendor: str
    model: str
    serial: str
    name: str  # that its user gave it

    def __str__(self) -> str:
        named = f", named {self.name}" if self.name else ""
        return f"{self.vendor} {self.model}, serial {self.serial}{named}"


class GenicamFrames:
    """See the module's text."""

    patient = False
    finished = False

    def __init__(self, config: GenicamSource) -> None:
        self._config = config
        self._harvester: Any = None
        self._acquirer: Any = None
        self._waiting: deque[Captured] = deque()
        self._last_at, self._numbers, self._incomplete = 0.0, Numbers(), 0

    def open(self) -> None:
        """Find the camera, set its nodes, start it; SourceError when that is impossible now."""
        self.close()
        with self._told("cannot be opened"):
            self._harvester = harvester(self._config)
            index = chosen(devices(self._harvester), self._config.device)
            self._acquirer = self._harvester.create(index)
            set_nodes(self._acquirer.remote_device.node_map, self._config.nodes)
            self._acquirer.num_buffers = max(self._config.buffers, self._acquirer.min_num_buffers)
            self._acquirer.add_callback(self._acquirer.Events.INCOMPLETE_BUFFER, _Counted(self))
            self._acquirer.start()
        self._numbers, self._incomplete = Numbers(), 0
        self._last_at = time.monotonic()

    def fire(self) -> None:
        """Take a picture, when the camera waits for its software trigger; SourceError when it does not take it."""
        if self._acquirer is not None and self._config.nodes.get("TriggerSource") == "Software":
            with self._told("does not take its trigger"):
                self._acquirer.remote_device.node_map.TriggerSoftware.execute()

    def read(self, timeout_s: float) -> Captured | None:
        """Return the next trigger; SourceError when the camera fails, or is silent for longer than it may be."""
        if self._acquirer is None:
            return None
        if not self._waiting:
            with self._told("has failed"):
                buffer = self._acquirer.try_fetch(timeout=timeout_s)
                if buffer is not None:
                    self._take(buffer)
        if self._waiting:
            self._last_at = self._waiting[0].at
            return self._waiting.popleft()
        silent_s = time.monotonic() - self._last_at
        if self._config.timeout_ms and silent_s > self._config.timeout_ms / 1000:
            raise SourceError(self._trouble(f"has given no frame for {silent_s:.1f} s"))
        return None

    def close(self) -> None:
        """Stop and let go of the camera."""
        from genicam.genapi import GenericException as NodeError
        from genicam.gentl import GenericException

        acquirer, self._acquirer = self._acquirer, None
        harvester_, self._harvester = self._harvester, None
        with contextlib.suppress(GenericException, NodeError, RuntimeError):  # one that is gone cannot be stopped
            if acquirer is not None:
                acquirer.destroy()  # stops it, too
        with contextlib.suppress(GenericException, RuntimeError):
            if harvester_ is not None:
                harvester_.reset()
        self._waiting.clear()

    # ---- inside -------------------------------------------------------------------------------------------------

    def incomplete(self) -> None:
        """Note a buffer that came incomplete: a trigger without a picture."""
        self._incomplete += 1
        self._waiting.append(Captured(None, time.monotonic(), Reason.LENGTH))

    def _take(self, buffer: Any) -> None:
        now = time.monotonic()
        with buffer:
            number = int(buffer.module.frame_id)
            lost = self._numbers.lost_before(number) - self._incomplete
            component = buffer.payload.components[0] if buffer.payload.components else None
            pixels = (
                None
                if component is None
                else picture(component.data, int(component.width), int(component.height), str(component.data_format))
            )
        self._incomplete = 0
        self._waiting.extend(Captured(None, now, Reason.NO_FRAME) for _ in range(lost))
        problem = Reason.NONE if pixels is not None else Reason.NO_FRAME
        self._waiting.append(Captured(pixels, now, problem, trigger=number % 2**32))

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what the camera's libraries raise into words."""
        from genicam.genapi import GenericException as NodeError
        from genicam.gentl import GenericException

        try:
            yield
        except SourceError:
            raise
        except (GenericException, NodeError, RuntimeError, OSError) as error:
            raise SourceError(self._trouble(f"{what} ({_first_line(error)})")) from error

    def _trouble(self, what: str) -> str:
        shown = f"camera {self._config.device or 'of ' + str(self._config.producer)}"
        return f"{shown}: {what}; parts cannot be seen; check its power and cable, and that no other program has it"


class _Counted:
    """What harvesters calls when it discards an incomplete buffer."""

    def __init__(self, frames: GenicamFrames) -> None:
        self._frames = frames

    def emit(self, context: object | None = None) -> None:
        """Count it."""
        self._frames.incomplete()


class Numbers:
    """The camera's own numbers of its frames, and what is missing between them."""

    def __init__(self) -> None:
        self._last: int | None = None

    def lost_before(self, number: int) -> int:
        """Return how many frames lie between the last one and this."""
        last, self._last = self._last, number
        if last is None or number == last:
            return 0
        step = number - last if number > last else number - last + LAST_BLOCK
        return step - 1 if 0 < step <= MOST_LOST else 0


def trigger_nodes(trigger: Trigger) -> dict[str, bool | int | float | str]:
    """Return the nodes that make a camera wait for a signal at its input; none for other triggers."""
    if trigger.kind != "hardware":
        return {}
    edge = {"rising": "RisingEdge", "falling": "FallingEdge"}[trigger.edge]
    return {
        "TriggerSelector": "FrameStart",
        "TriggerMode": "On",
        "TriggerSource": trigger.line,
        "TriggerActivation": edge,
    }


def harvester(config: GenicamSource) -> Any:
    """Return the cameras of a producer; SourceError when it cannot be loaded or is not installed."""
    try:
        from harvesters.core import Harvester
    except ImportError:
        raise SourceError("GenICam cameras need: pip install line-worker[genicam]; parts cannot be seen") from None
    if not config.producer.is_file():
        raise SourceError(
            f"{config.producer}: is not there; parts cannot be seen; install the camera vendor's GenTL producer and "
            "give the path of its .cti file"
        )
    found = Harvester()
    found.add_file(str(config.producer.resolve()), check_existence=True, check_validity=True)
    found.update()
    return found


def devices(found: Any) -> list[Device]:
    """Return the cameras that a producer sees."""
    fields = ("id_", "vendor", "model", "serial_number", "user_defined_name")
    return [Device(*(_known(info, field) for field in fields)) for info in found.device_info_list]


def _known(info: Any, field: str) -> str:
    from genicam.gentl import GenericException

    try:
        return str(getattr(info, field) or "")
    except GenericException:  # not every producer knows everything
        return ""


def chosen(there: list[Device], wanted: str) -> int:
    """Return which camera is meant: by serial number, user's name, id or model; SourceError unless exactly one is."""
    listed = "; ".join(map(str, there)) or "none"
    matches = [k for k, device in enumerate(there) if not wanted or wanted in device._replace(vendor="")]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise SourceError(f"no camera {wanted or 'at all'} is connected; parts cannot be seen; connected: {listed}")
    raise SourceError(
        f"{len(matches)} cameras are {wanted!r}; parts cannot be seen; set `device` to what only one is called: "
        f"{listed}"
    )


def set_nodes(node_map: Any, nodes: dict[str, Any]) -> None:
    """Set the camera's nodes in the order given and read each back; SourceError for one that it does not take."""
    for name, value in nodes.items():
        if not node_map.has_node(name):
            near = difflib.get_close_matches(name, [str(node.node.name) for node in node_map.nodes], 3)
            hint = f"; it has {', '.join(near)}" if near else ""
            raise SourceError(f"the camera has no node {name}; it was not started{hint}")
        _set(node_map.get_node(name), name, value)


def _set(node: Any, name: str, value: Any) -> None:
    from genicam.genapi import GenericException

    stopped = "the camera was not started"
    try:
        if hasattr(node, "execute"):
            node.execute()
            return
        node.value = value
        found = node.value
    except (GenericException, TypeError, AttributeError) as error:
        takes = f"; it takes {', '.join(node.symbolics)}" if hasattr(node, "symbolics") else ""
        raise SourceError(f"node {name} = {value!r} is refused ({_first_line(error)}); {stopped}{takes}") from error
    if not _same(value, found):
        raise SourceError(f"node {name} was set to {value!r} and is {found!r}; {stopped}; set what it can")


def _same(value: Any, found: Any) -> bool:
    if isinstance(value, float):
        return abs(value - float(found)) <= ROUNDED * max(abs(value), 1e-9)
    return bool(value == found)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
