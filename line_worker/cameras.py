"""What cameras are connected: those of GenTL producers, on the network, of pylon, and of Video4Linux. With a picture of
each, if asked.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from line_worker.config import BaslerSource, CameraSource, GenicamSource, GigeSource
from line_worker.errors import LineWorkerError, SourceError
from line_worker.images import save_png
from line_worker.source import Source, basler, gige
from line_worker.source.camera import CameraFrames
from line_worker.source.genicam import GenicamFrames, devices, harvester

FRAME_S = 5.0  # how long a camera may take for its first picture


class Connected(NamedTuple):
    """A camera: how line.toml names it, what it is, and what a picture of it is like, or why there is none."""

    source: str
    what: str
    picture: str = ""


def connected(producers: Sequence[Path], pictures: Path | None) -> Iterator[Connected]:
    """Yield every camera; a picture of each is written to the folder `pictures`, if one is given.

    Raises SourceError for a producer that cannot be loaded.
    """
    for producer in producers:
        yield from _genicam(producer, pictures)
    if _installed("viva_genicam"):
        yield from _gige(pictures)
    if _installed("pypylon"):
        yield from _basler(pictures)
    for number, device in _video_devices():
        name = (Path("/sys/class/video4linux") / device.name / "name").read_text().strip()
        source = CameraFrames(CameraSource(kind="camera", device=number))
        yield Connected(f'kind = "camera", device = {number}', name, _picture(source, f"video{number}", pictures))


def _genicam(producer: Path, pictures: Path | None) -> Iterator[Connected]:
    found = harvester(GenicamSource(kind="genicam", producer=producer))
    there = devices(found)
    found.reset()
    for device in there:
        said = device.serial or device.name or device.id
        source = GenicamFrames(GenicamSource(kind="genicam", producer=producer, device=said))
        words = f'kind = "genicam", producer = "{producer}", device = "{said}"'
        yield Connected(words, str(device), _picture(source, f"genicam-{said}", pictures))


def _gige(pictures: Path | None) -> Iterator[Connected]:
    for device in gige.discovered("")[1]:
        source = gige.GigeFrames(GigeSource(kind="gige", device=device.id))
        words = f'kind = "gige", device = "{device.serial or device.id}"'
        yield Connected(words, f"{device}, at {device.id}", _picture(source, f"gige-{device.id}", pictures))


def _basler(pictures: Path | None) -> Iterator[Connected]:
    for device in map(basler.device_of, basler.found()):
        source = basler.BaslerFrames(BaslerSource(kind="basler", device=device.serial))
        words = f'kind = "basler", device = "{device.serial}"'
        yield Connected(words, str(device), _picture(source, f"basler-{device.serial}", pictures))


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _video_devices() -> Iterator[tuple[int, Path]]:
    for device in sorted(Path("/dev").glob("video*")):
        if device.name[5:].isdigit():
            yield int(device.name[5:]), device


def _picture(source: Source, name: str, folder: Path | None) -> str:
    """Take one picture; return where it is and what it is like, or what is wrong."""
    if folder is None:
        return ""
    try:
        source.open()
        until = time.monotonic() + FRAME_S
        while time.monotonic() < until:
            captured = source.read(0.1)
            if captured is not None and captured.pixels is not None:
                folder.mkdir(parents=True, exist_ok=True)
                save_png(folder / f"{name}.png", captured.pixels)
                kind = "gray" if captured.pixels.ndim == 2 else "colour"
                height, width = captured.pixels.shape[:2]
                return f"{width}x{height} {kind} {captured.pixels.dtype}: {folder / name}.png"
        raise SourceError(f"gave no picture within {FRAME_S:.0f} s: is it waiting for a trigger?")
    except LineWorkerError as error:
        return f"no picture: {error}"
    finally:
        source.close()
