"""A GigE Vision camera on the network, without its vendor's software (the viva-genicam package speaks the protocol).

Packets that get lost are asked for again; a frame that stays incomplete is a trigger without a picture. Frames are
awaited in the thread that reads; a thread of its own asks the camera now and then whether it is there, because a
triggered camera may be silent for long, and a call to one that is gone takes seconds to return.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from line_worker.errors import SourceError
from line_worker.source.devices import Device, chosen
from line_worker.source.nodes import Value
from line_worker.source.numbered import NumberedFrames
from line_worker.source.pixels import unpacked
from line_worker.verdicts import Reason

if TYPE_CHECKING:
    from line_worker.config import GigeSource

DISCOVERY_MS = 500
PULSE_S, GONE_S = 0.25, 1.0  # how often the camera is asked, and after how long without an answer it is gone
CLOSE_S = 1.0  # a camera that is gone is let go of in the background
VERSION = 0x0000  # the bootstrap register that every GigE Vision camera has


class GigeFrames(NumberedFrames):
    """See the module's text."""

    def __init__(self, config: GigeSource) -> None:
        super().__init__(
            f"GigE camera {config.device or 'on ' + (config.interface or 'the network')}",
            config.timeout_ms,
            config.nodes,
        )
        self._config = config
        self._pulse: Pulse | None = None

    def _start(self) -> None:
        viva = library()
        infos, there = discovered(self._config.interface)
        info = infos[chosen(there, self._config.device)]
        interface = self._config.interface or None
        camera = viva.connect_gige(info, iface=interface)
        self._pulse = Pulse(camera)
        self._set(VivaNodes(camera))
        self._pulse.stream = camera.stream(
            iface=interface,
            packet_size=self._config.packet_size or None,
            auto_packet_size=not self._config.packet_size,
            resend=self._config.resend,
            deliver_incomplete=True,
        )
        self._pulse.stream.__enter__()
        self._pulse.start()

    def _fetch(self, timeout_s: float) -> None:
        assert self._pulse is not None
        try:
            frame = self._pulse.stream.next_frame(timeout_ms=max(1, round(timeout_s * 1000)))
        except library().TransportError as error:
            if "timeout" not in str(error):
                raise
            if min(self._silent_s(), self._pulse.silent_s()) > GONE_S:
                raise self._trouble(f"does not answer any more ({self._pulse.problem or 'no word'})") from None
            return
        if frame is None:
            raise self._trouble("has ended its stream")
        if frame.is_complete:
            self._arrived(int(frame.block_id), unpacked(frame.to_numpy(), str(frame.pixel_format)))
        else:
            self._arrived(int(frame.block_id), None, Reason.LENGTH)

    def _stop(self) -> None:
        pulse, self._pulse = self._pulse, None
        if pulse is not None:
            pulse.end()

    def _errors(self) -> tuple[type[Exception], ...]:
        return (library().GenicamError, OSError)


class Pulse(threading.Thread):
    """Holds the camera and asks it now and then whether it is there; in the end it lets go of it."""

    def __init__(self, camera: Any) -> None:
        super().__init__(name="camera-pulse", daemon=True)
        self._camera = camera
        self.stream: Any = None
        self.problem = ""
        self._answered_at = time.monotonic()
        self._ended = threading.Event()

    def silent_s(self) -> float:
        """Return for how long the camera has not answered."""
        return time.monotonic() - self._answered_at

    def end(self) -> None:
        """Stop the camera and let go of it; waits for that within bounds."""
        self._ended.set()
        if not self.is_alive():
            self.start()
        self.join(CLOSE_S)

    def run(self) -> None:
        """Ask until told to end."""
        from viva_genicam import GenicamError

        while not self._ended.wait(PULSE_S):
            try:
                self._camera.read_register(VERSION)
                self._answered_at = time.monotonic()
            except GenicamError as error:
                self.problem = str(error)
        with contextlib.suppress(GenicamError):  # one that is gone cannot be stopped
            if self.stream is not None:
                self.stream.__exit__(None, None, None)
        with contextlib.suppress(GenicamError):
            self._camera.close()


class VivaNodes:
    """The nodes of a camera of the viva-genicam package."""

    def __init__(self, camera: Any) -> None:
        self._camera = camera
        self.errors: tuple[type[Exception], ...] = (library().GenicamError, ValueError)

    def names(self) -> Sequence[str]:
        """Return the names of all nodes."""
        return [str(name) for name in self._camera.nodes()]

    def choices(self, name: str) -> Sequence[str]:
        """Return what an enumeration takes; nothing for another kind of node."""
        is_one = self._camera.node_info(name).kind == "Enumeration"
        return tuple(self._camera.available_enum_entries(name)) if is_one else ()

    def text(self, name: str) -> str:
        """Return a node's value in words."""
        return str(self._camera.get(name))

    def put(self, name: str, value: Value) -> Any:
        """Set a node and return its value as read back; a command is executed, and returns `value`."""
        camera, kind = self._camera, self._camera.node_info(name).kind
        if kind == "Command":
            camera.execute(name)
            return value
        if isinstance(value, bool):
            camera.set_bool(name, value)
            return camera.get_bool(name)
        camera.set(name, str(value))
        found = camera.get(name)
        return found if isinstance(value, str) else float(found)


def library() -> Any:
    """Return the viva-genicam package; SourceError when it is not installed."""
    try:
        import viva_genicam
    except ImportError:
        raise SourceError("GigE cameras need: pip install line-worker[gige]; parts cannot be seen") from None
    return viva_genicam


def discovered(interface: str) -> tuple[list[Any], list[Device]]:
    """Return the cameras that answer on an interface (its name or address; "": on all), and who they are."""
    viva = library()
    infos = viva.discover(timeout_ms=DISCOVERY_MS, iface=interface or None, all=not interface)
    infos = list({(info.ip, info.mac): info for info in infos}.values())
    return infos, [_known(viva, info, interface) for info in infos]


def _known(viva: Any, info: Any, interface: str) -> Device:
    """Ask a camera who it is, without taking it from whoever has it."""
    serial, name = "", ""
    with (
        contextlib.suppress(viva.GenicamError),
        viva.connect_gige(info, iface=interface or None, monitor=True) as camera,
    ):
        serial = _read(viva, camera, "DeviceSerialNumber") or _read(viva, camera, "DeviceID")
        name = _read(viva, camera, "DeviceUserID")
    return Device(info.ip, info.manufacturer or "", info.model or "", serial, name, info.mac)


def _read(viva: Any, camera: Any, node: str) -> str:
    try:
        return str(camera.get(node))
    except viva.GenicamError:
        return ""
