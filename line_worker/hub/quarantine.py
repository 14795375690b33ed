"""Keeps the payload of poisonous parts, those that two workers were lost with, for whoever has to find out why.

    <folder>/<camera>-<epoch>-<seq>.json     the frame's header as it was announced
    <folder>/<camera>-<epoch>-<seq>.raw      its pixels, uncompressed, as `shape` and `dtype` of the header say

The folder is bounded: the oldest parts make room. Writing happens in a thread of its own, so that no decision waits for
the disk, and a part that cannot be kept is logged and costs nothing else.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict
from pathlib import Path

import structlog

from line_worker.errors import FrameError
from line_worker.hub.part import Part
from line_worker.wire.frames import FrameReader
from line_worker.wire.messages import Frame

log = structlog.get_logger()

KEPT = 16  # parts


class Quarantine:
    """The folder and its bound; nothing is created before the first poisonous part."""

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self.folder, self._kept = folder, kept
        self._reader = FrameReader(keep=1)

    def keep(self, part: Part) -> threading.Thread | None:
        """Copy the part's pixels now, write them soon; returns the thread that does, None for a part without pixels."""
        frame = part.frame
        if frame is None:
            return None
        try:
            pixels = self._reader.read(frame, part.pixels).tobytes()
        except FrameError as error:
            log.warning("a poisonous part's pixels are gone", key=str(part.key), why=str(error))
            pixels = b""
        finally:
            part.pixels = b""
        thread = threading.Thread(target=self._write, args=(frame, pixels), name="quarantine", daemon=True)
        thread.start()
        return thread

    def _write(self, frame: Frame, pixels: bytes) -> None:
        key = frame.key
        name = f"{key.camera}-{key.epoch}-{key.seq}"
        header = asdict(frame) | {"pixels": None}
        try:
            self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
            (self.folder / f"{name}.raw").write_bytes(pixels)
            (self.folder / f"{name}.json").write_text(json.dumps(header, indent=2), "utf-8")
            self._make_room()
        except OSError as error:
            log.warning("a poisonous part cannot be kept", key=str(key), why=str(error))

    def _make_room(self) -> None:
        headers = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        for path in headers[: -self._kept]:
            path.with_suffix(".raw").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
