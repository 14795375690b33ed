"""The OPC UA sink: one server, with the plant's view and the PLC's.

    <line>                       VisionSystemType of OPC 40100-1: state machine, newest result of each camera
    <line>/Registers             the PLC's register table as variables, with its handshake; only with `handshake`

A gate must be driven from `Registers` alone: there a PASS is shown only to a PLC that is alive and in step, and is
withdrawn when its time is over. The results of OPC 40100 are for people and plant software; nothing is withdrawn there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from line_worker.errors import SinkError
from line_worker.sink.machine_vision import result_of, simulated_cameras
from line_worker.sink.plc import PlcOutput
from line_worker.sink.recent import RecentKeys

if TYPE_CHECKING:
    from line_worker.config import Config, OpcUaSink
    from line_worker.sink.opcua.server import VisionServer
    from line_worker.wire.messages import Outcome


class OpcUaOutput(PlcOutput):
    """The sink for OPC UA clients. Real-time: what comes after its window is shown to nobody."""

    def __init__(self, sink: OpcUaSink, config: Config) -> None:
        super().__init__(sink, config)
        self._opcua, self._config = sink, config
        self._simulated = simulated_cameras(config)
        self._shown = RecentKeys()
        self._server: VisionServer | None = None

    def open(self) -> None:
        """Listen.

        Raises:
            SinkError: asyncua is missing, the port cannot be used, or a certificate cannot.
        """
        try:
            from line_worker.sink.opcua.server import VisionServer
        except ImportError as error:
            raise SinkError(
                f"sink {self._opcua.name}: asyncua is not installed ({error}); nothing is served; "
                "pip install line-worker[opcua]"
            ) from error
        config = self._config
        cameras = [*(camera.name for camera in config.cameras), *(parts.name for parts in config.parts)]
        server = VisionServer(self._opcua, self._config.line.name, cameras, self)
        server.open()
        self._mode = self._server = server

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Show `outcome` as the camera's newest result and, with a handshake, offer it to the PLC."""
        if self._opcua.handshake:
            super().deliver(outcome, now)
        if self._server is not None and outcome.key not in self._shown:
            self._shown.add(outcome.key)
            simulated = outcome.key.camera in self._simulated
            self._server.show(outcome.key.camera, result_of(outcome, simulated=simulated))
        return True

    def reachable(self) -> tuple[bool, str]:
        """Whether clients can read and, with a handshake, whether the PLC takes results; and why not."""
        if self._opcua.handshake:
            return super().reachable()
        return (True, "") if self._mode is not None else (False, "not open")
