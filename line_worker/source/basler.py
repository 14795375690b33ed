"""A Basler camera through pylon, where the vendor's own library is wanted (the pypylon package brings it along).

pylon acquires into buffers of its own; a picture is copied out of its buffer straight into the ring, and the buffer
goes back.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from line_worker.errors import SourceError
from line_worker.source.devices import Device, chosen
from line_worker.source.nodes import Value
from line_worker.source.numbered import NumberedFrames
from line_worker.source.pixels import picture
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from line_worker.config import BaslerSource


class BaslerFrames(NumberedFrames):
    """See the module's text."""

    def __init__(self, config: BaslerSource) -> None:
        super().__init__(f"Basler camera {config.device}".rstrip(), config.timeout_ms, config.nodes)
        self._config = config
        self._camera: Any = None
        self._format = ""

    def _start(self) -> None:
        pylon = library()
        infos = found()
        info = infos[chosen([device_of(one) for one in infos], self._config.device)]
        self._camera = pylon.InstantCamera(pylon.TlFactory.GetInstance().CreateDevice(info))
        self._camera.Open()
        nodes = self._camera.GetNodeMap()
        self._set(PylonNodes(nodes))
        self._format = str(nodes.GetNode("PixelFormat").GetValue()).removesuffix("Packed")  # it cannot change meanwhile
        self._camera.MaxNumBuffer.SetValue(self._config.buffers)
        self._camera.StartGrabbing(pylon.GrabStrategy_OneByOne, pylon.GrabLoop_ProvidedByUser)

    def _fetch(self, timeout_s: float) -> None:
        if self._camera.IsCameraDeviceRemoved():
            raise self._trouble("is gone")
        wait = max(1, round(timeout_s * 1000))
        result = self._camera.RetrieveResult(wait, library().TimeoutHandling_Return)
        if not result.IsValid():
            return
        try:
            if not result.GrabSucceeded():
                self._arrived(int(result.BlockID), None, Reason.LENGTH)
                return
            data, width, height = np.frombuffer(result.GetMemoryView(), np.uint8), int(result.Width), int(result.Height)
            self._arrived(int(result.BlockID), picture(data, width, height, self._format, self.place))
        finally:
            result.Release()

    def _stop(self) -> None:
        camera, self._camera = self._camera, None
        if camera is not None:
            with contextlib.suppress(*self._errors()):  # one that is gone cannot be stopped
                camera.Close()  # stops it, too

    def _errors(self) -> tuple[type[Exception], ...]:
        library()
        from pypylon import genicam

        return (genicam.GenericException, RuntimeError)


class PylonNodes:
    """The nodes of a node map of the pypylon package."""

    def __init__(self, node_map: Any) -> None:
        from pypylon import genicam

        self._map = node_map
        self.errors: tuple[type[Exception], ...] = (genicam.GenericException, TypeError, AttributeError)

    def names(self) -> Sequence[str]:
        """Return the names of all nodes."""
        return [str(node.GetNode().GetName()) for node in self._map.GetNodes()]

    def choices(self, name: str) -> Sequence[str]:
        """Return what an enumeration takes; nothing for another kind of node."""
        return tuple(map(str, getattr(self._map.GetNode(name), "Symbolics", ())))

    def text(self, name: str) -> str:
        """Return a node's value in words."""
        return str(self._map.GetNode(name).ToString())

    def put(self, name: str, value: Value) -> Any:
        """Set a node and return its value as read back; a command is executed, and returns `value`."""
        node = self._map.GetNode(name)
        if hasattr(node, "Execute"):
            node.Execute()
            return value
        node.SetValue(value)
        return node.GetValue()


def library() -> Any:
    """Return pypylon's module `pylon`; SourceError when it is not installed."""
    try:
        from pypylon import pylon
    except ImportError:
        raise SourceError("Basler cameras need: pip install line-worker[basler]; parts cannot be seen") from None
    return pylon


def found() -> list[Any]:
    """Return the cameras that pylon sees."""
    return list(library().TlFactory.GetInstance().EnumerateDevices())


def device_of(info: Any) -> Device:
    """Return who a camera is that pylon sees."""
    said = (info.GetFullName(), info.GetVendorName(), info.GetModelName(), info.GetSerialNumber())
    id_, vendor, model, serial = map(str, said)
    return Device(id_, vendor, model, serial, str(info.GetUserDefinedName()))
