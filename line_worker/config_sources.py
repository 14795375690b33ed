"""What of line.toml says where pictures come from, a table for each kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from line_worker.config_section import Section


class FolderSource(Section):
    """Images of a folder in the order of their names, once or looped, at `rate` a second; or watched for new ones."""

    kind: Literal["folder"]
    path: Path
    rate: PositiveFloat = 10.0
    loop: bool = False
    watch: bool = False
    settle_ms: PositiveFloat = 200.0  # a watched file is finished when it has not grown for this long


class VideoSource(Section):
    """Frames of any file OpenCV reads, at its own rate or at `rate`."""

    kind: Literal["video"]
    path: Path
    rate: PositiveFloat | None = None
    loop: bool = False
    colour: Literal["bgr", "gray"] = "bgr"


class CameraSource(Section):
    """A camera OpenCV opens: device index or RTSP/HTTP URL."""

    kind: Literal["camera"]
    device: int | str
    colour: Literal["bgr", "gray"] = "bgr"
    timeout_ms: PositiveFloat = 2000.0
    rate: PositiveFloat | None = None  # at most this many frames a second are taken


class _WithNodes(Section):
    """A camera that has GenICam nodes. `nodes` are set in their order, each read back.

    device: what only this camera is called: serial number, user's name, id or model; "" when only one is connected.
    timeout_ms: a camera that is silent for so long is opened again; 0: a triggered one may be silent.
    """

    device: str = ""
    nodes: dict[str, bool | int | float | str] = Field(default_factory=dict)
    timeout_ms: float = Field(default=0.0, ge=0)


class GenicamSource(_WithNodes):
    """A GenICam camera through its vendor's GenTL producer."""

    kind: Literal["genicam"]
    producer: Path
    buffers: int = Field(default=8, ge=1, le=256)


class GigeSource(_WithNodes):
    """A GigE Vision camera on the network, without its vendor's software; `device` may be its IP address or MAC.

    interface: the network card, by name or address; "": any. packet_size: bytes, 0: as large as the card takes.
    """

    kind: Literal["gige"]
    interface: str = ""
    packet_size: int = Field(default=0, ge=0, le=65_535)
    resend: bool = True  # lost packets are asked for again


class BaslerSource(_WithNodes):
    """A Basler camera through pylon."""

    kind: Literal["basler"]
    buffers: int = Field(default=16, ge=1, le=256)


class SyntheticSource(Section):
    """Drawn parts, a share `defects` of them bad; `part = "noise"` or "grain": to measure the line."""

    kind: Literal["synthetic"]
    rate: PositiveFloat = 10.0
    parts: int | None = Field(default=None, ge=1)
    part: str = "bracket"
    defects: float = Field(default=0.1, ge=0, le=1)
    width: int = Field(default=640, ge=64, le=16384)
    height: int = Field(default=480, ge=64, le=16384)
    colour: bool = False
    bits: Literal[8, 16] = 8
    seed: int = 0


class ReplaySource(Section):
    """A recording, at its recorded rate, as fast as the line takes it ("max"), or at a number of frames a second."""

    kind: Literal["replay"]
    path: Path
    rate: Literal["recorded", "max"] | PositiveFloat = "recorded"


Source = Annotated[
    FolderSource
    | VideoSource
    | CameraSource
    | GenicamSource
    | GigeSource
    | BaslerSource
    | SyntheticSource
    | ReplaySource,
    Field(discriminator="kind"),
]
