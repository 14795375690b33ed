"""A GenICam camera (GigE Vision, USB3 Vision, CoaXPress, ...) through its vendor's GenTL producer.

The producer acquires into buffers of its own, so nothing is lost while the line is busy; a picture is copied out of its
buffer straight into the ring, and the buffer goes back at once: producers have been seen to write into what they lent.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from line_worker.errors import SourceError
from line_worker.source import Captured
from line_worker.source.devices import Device, chosen
from line_worker.source.nodes import Value
from line_worker.source.numbered import NumberedFrames
from line_worker.source.pixels import picture
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from line_worker.config import GenicamSource


class GenicamFrames(NumberedFrames):
    """See the module's text."""

    def __init__(self, config: GenicamSource) -> None:
        super().__init__(f"camera {config.device or 'of ' + str(config.producer)}", config.timeout_ms, config.nodes)
        self._config = config
        self._harvester: Any = None
        self._acquirer: Any = None
        self._incomplete = 0

    def incomplete(self) -> None:
        """Note a buffer that came incomplete: a trigger without a picture."""
        self._incomplete += 1
        self._waiting.append(Captured(None, time.monotonic(), Reason.LENGTH))

    def _start(self) -> None:
        self._harvester = harvester(self._config)
        index = chosen(devices(self._harvester), self._config.device)
        self._acquirer = self._harvester.create(index)
        self._set(GenApiNodes(self._acquirer.remote_device.node_map))
        self._acquirer.num_buffers = max(self._config.buffers, self._acquirer.min_num_buffers)
        self._acquirer.add_callback(self._acquirer.Events.INCOMPLETE_BUFFER, _Counted(self))
        self._incomplete = 0
        self._acquirer.start()

    def _fetch(self, timeout_s: float) -> None:
        buffer = self._acquirer.try_fetch(timeout=timeout_s)
        if buffer is None:
            return
        with buffer:
            number = int(buffer.module.frame_id)
            component = buffer.payload.components[0] if buffer.payload.components else None
            pixels = None
            if component is not None:
                width, height = int(component.width), int(component.height)
                pixels = picture(component.data, width, height, str(component.data_format), self.place)
        announced, self._incomplete = self._incomplete, 0
        self._arrived(number, pixels, Reason.NO_FRAME if pixels is None else Reason.NONE, announced)

    def _stop(self) -> None:
        acquirer, self._acquirer = self._acquirer, None
        harvester_, self._harvester = self._harvester, None
        if acquirer is not None:
            with contextlib.suppress(*self._errors()):  # one that is gone cannot be stopped
                acquirer.destroy()  # stops it, too
        if harvester_ is not None:
            with contextlib.suppress(*self._errors()):
                harvester_.reset()

    def _errors(self) -> tuple[type[Exception], ...]:
        from genicam.genapi import GenericException as NodeError
        from genicam.gentl import GenericException

        return (GenericException, NodeError, RuntimeError, OSError)


class _Counted:
    """What harvesters calls when it discards an incomplete buffer."""

    def __init__(self, frames: GenicamFrames) -> None:
        self._frames = frames

    def emit(self, context: object | None = None) -> None:
        """Count it."""
        self._frames.incomplete()


class GenApiNodes:
    """The nodes of a node map of the genicam package."""

    def __init__(self, node_map: Any) -> None:
        from genicam.genapi import GenericException

        self._map = node_map
        self.errors: tuple[type[Exception], ...] = (GenericException, TypeError, AttributeError)

    def names(self) -> Sequence[str]:
        """Return the names of all nodes."""
        return [str(node.node.name) for node in self._map.nodes]

    def choices(self, name: str) -> Sequence[str]:
        """Return what an enumeration takes; nothing for another kind of node."""
        return tuple(map(str, getattr(self._map.get_node(name), "symbolics", ())))

    def text(self, name: str) -> str:
        """Return a node's value in words."""
        return str(self._map.get_node(name).value)

    def put(self, name: str, value: Value) -> Any:
        """Set a node and return its value as read back; a command is executed, and returns `value`."""
        node = self._map.get_node(name)
        if hasattr(node, "execute"):
            node.execute()
            return value
        node.value = value
        return node.value


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
    _try(config.producer.resolve())
    found = Harvester()
    found.add_file(str(config.producer.resolve()), check_existence=True, check_validity=True)
    found.update()
    return found


def _try(producer: Path) -> None:
    """Raise SourceError for a file that is no producer: with one harvesters shows a traceback, genicam crashes."""
    try:
        why = "" if hasattr(ctypes.CDLL(str(producer)), "GCInitLib") else "it has no GCInitLib"
    except OSError as error:
        why = str(error).removeprefix(f"{producer}: ")
    if why:
        raise SourceError(
            f"{producer}: is no GenTL producer that can be loaded ({why}); parts cannot be seen; give the path of the "
            "camera vendor's .cti file"
        )


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
