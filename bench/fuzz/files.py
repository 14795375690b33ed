"""The layers that need no process: messages, images, bundles and recordings. Each case returns what became of it."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from bench.fuzz.making import damaged, hostile_parts
from line_worker.bundle import Bundle, write_bundle
from line_worker.errors import BundleError, DecodeError, ImageError, RecordingError
from line_worker.images import decode_image
from line_worker.wire import messages as m
from line_worker.wire.frames import checksum
from line_worker.wire.recording import RecordedFrame, RecordingMeta, Trigger, read_recording
from line_worker.wire.recording_writer import RecordingWriter
from line_worker.wire.rosimage import KINDS, Compression

Case = Callable[[Random, int], str]  # the generator of this case, and its number
IMAGE_BYTES = 1 << 29  # of memory that decoding may ask for beyond what the process holds
SUFFIXES = (".png", ".jpg", ".bmp", ".tif", ".webp")
REFUSED = "refused"


@contextlib.contextmanager
def messages(folder: Path) -> Iterator[Case]:
    """Decode; what is taken must come back as itself."""

    def case(rng: Random, number: int) -> str:
        try:
            message = m.from_parts(hostile_parts(rng))
        except DecodeError:
            return REFUSED
        assert m.from_parts(m.to_parts(message)) == message, "what was decoded does not come back as itself"
        return "taken"

    yield case


@contextlib.contextmanager
def images(folder: Path) -> Iterator[Case]:
    """Decode under a memory limit."""
    picture = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8), (0, 0), 2)
    files = [bytes(cv2.imencode(suffix, image)[1]) for suffix in SUFFIXES for image in (picture, picture[..., 0])]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + IMAGE_BYTES, before[1]))

    def case(rng: Random, number: int) -> str:
        try:
            image = decode_image(damaged(rng.choice(files), rng), "fuzz")
        except ImageError:
            return REFUSED
        assert image.ndim in (2, 3), "not a picture"
        assert image.dtype in (np.uint8, np.uint16), "not a picture"
        return "a picture"

    try:
        with _silent():
            yield case
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what the picture libraries themselves print about every damaged file off standard error."""
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextlib.contextmanager
def bundles(folder: Path) -> Iterator[Case]:
    """Load with one file damaged: every byte of the manifest in turn, and anything anywhere."""
    sections = {
        "settings": {"locate": "background"},
        "input": {"shape": [8, 8], "dtype": "uint8"},
        "rectify": {},
        "reconstruct": {},
        "standard": {},
        "threshold": 2.5,
        "calibration": {},
    }
    good = write_bundle(folder / "good", sections, {"zones.mu": np.arange(6, dtype=np.float32)}, [], "<html></html>")
    names = sorted(path.relative_to(good.path) for path in good.path.rglob("*") if path.is_file())
    names.remove(Path("report.html"))
    manifest = (good.path / "manifest.json").read_bytes()
    bad = folder / "bad"
    shutil.copytree(good.path, bad)

    def case(rng: Random, number: int) -> str:
        name = rng.choice(names)
        if number < len(manifest):
            name, data = Path("manifest.json"), bytearray(manifest)
            data[number] ^= 1 << rng.randrange(8)
            hurt = bytes(data)
        else:
            hurt = damaged((good.path / name).read_bytes(), rng)
        (bad / name).write_bytes(hurt)
        try:
            sha = Bundle.load(bad).sha
        except BundleError:
            return REFUSED
        finally:
            (bad / name).write_bytes((good.path / name).read_bytes())
        assert sha != good.sha or hurt == (good.path / name).read_bytes(), "a damaged bundle has kept its name"
        return "another bundle, by name too" if sha != good.sha else "unharmed"

    yield case


@contextlib.contextmanager
def recordings(folder: Path) -> Iterator[Case]:
    """Read damaged recordings to their end; a picture that comes is the one that was recorded."""
    picture = np.random.default_rng(1).integers(0, 256, (60, 80), np.uint8)
    sound = [_recorded(folder / f"{compression}.mcap", picture, compression) for compression in KINDS]
    bad = folder / "bad.mcap"

    def case(rng: Random, number: int) -> str:
        bad.write_bytes(damaged(rng.choice(sound), rng))
        try:
            found = [item for item in read_recording(bad) if isinstance(item, RecordedFrame)]
        except RecordingError:
            return REFUSED
        pictures = [item.pixels for item in found if item.pixels is not None]
        assert all(np.array_equal(pixels, picture) for pixels in pictures), "a wrong picture"
        return "whole" if len(pictures) == 6 else "in part"

    yield case


def _recorded(path: Path, picture: NDArray[Any], compression: Compression) -> bytes:
    """Return a recording of six frames and their outcomes."""
    writer = RecordingWriter(path, RecordingMeta("l", 0.0, 0.0), compression)
    for seq in range(6):
        key = m.FrameKey("l", "cam", 1, seq)
        frame = m.Frame(key, 0.0, 100.0, picture.shape, "uint8", "gray", checksum(picture), "inline")
        writer.frame(Trigger(frame), picture, seq, seq)
        more: dict[str, Any] = {"bundle": "b", "worker": "w", "attempt": 1, "part_id": "", "trigger": 0}
        more |= {"latency_ms": 1.0, "left_ms": 1.0, "wall": 0.0, "stages": {}}
        more |= {"score": 0.5, "threshold": 1.0, "regions": ()}
        writer.outcome(m.Outcome(row=seq, key=key, verdict="PASS", reason=0, **more), seq)
    writer.close()
    return path.read_bytes()
