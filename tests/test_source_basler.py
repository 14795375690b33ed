"""Basler cameras: pylon's own emulation, two cameras that can be told to spoil their frames."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from line_worker.cli import app
from line_worker.config import BaslerSource
from line_worker.errors import SourceError
from line_worker.source import Captured
from line_worker.source.basler import BaslerFrames
from line_worker.verdicts import Reason
from rooms import Rooms

HOW = "pip install line-worker[basler], then: pytest tests/test_source_basler.py"
SMALL = {"Width": 320, "Height": 200, "AcquisitionFrameRateEnable": True, "AcquisitionFrameRateAbs": 50.0}
FIRST, SECOND = "0815-0000", "0815-0001"  # serial numbers


@pytest.fixture(autouse=True, scope="module")
def _two_cameras() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYLON_CAMEMU", "2")
        pytest.importorskip("pypylon.pylon", reason=HOW)
        yield


def source(**settings: Any) -> BaslerFrames:
    fields = {"kind": "basler", "device": FIRST, "nodes": SMALL} | settings
    return BaslerFrames(BaslerSource.model_validate(fields))


def read(frames: BaslerFrames, count: int, within_s: float = 15.0) -> list[Captured]:
    until, found = time.monotonic() + within_s, []
    while len(found) < count and time.monotonic() < until:
        if (captured := frames.read(0.05)) is not None:
            found.append(captured)
    return found


@pytest.mark.parametrize(
    ("pixel_format", "shape", "dtype"),
    [
        ("Mono8", (200, 320), np.uint8),
        ("Mono12", (200, 320), np.uint16),
        ("RGB8Packed", (200, 320, 3), np.uint8),
        ("BayerGR8", (200, 320, 3), np.uint8),
    ],
)
def test_pictures_come_as_the_nodes_say(pixel_format, shape, dtype):
    frames = source(nodes=SMALL | {"PixelFormat": pixel_format, "TestImageSelector": "Testimage2"})
    try:
        frames.open()
        found = read(frames, 8)
        assert np.diff([captured.trigger for captured in found]).tolist() == [1] * 7
        found = [captured for captured in found if captured.pixels is not None][:4]
        assert [(captured.pixels.shape, captured.pixels.dtype) for captured in found] == [(shape, dtype)] * 4
        assert not np.shares_memory(found[0].pixels, found[3].pixels)
        assert found[0].pixels.max() > 200 * (256 if dtype == np.uint16 else 1)
    finally:
        frames.close()


def test_pictures_go_straight_from_the_buffer_to_where_they_are_wanted():
    frames, rooms = source(), Rooms()
    frames.place = rooms.place
    try:
        frames.open()
        found = [captured for captured in read(frames, 8) if captured.pixels is not None]
        assert found
        assert rooms.hold(found)
        assert found[0].pixels.max() > 200
    finally:
        frames.close()


def test_two_cameras_run_beside_each_other():
    first, second = source(device=FIRST), source(device=SECOND, nodes=SMALL | {"Width": 160})
    try:
        first.open()
        second.open()
        assert read(first, 2)[1].pixels.shape == (200, 320)
        assert read(second, 2)[1].pixels.shape == (200, 160)
    finally:
        first.close()
        second.close()


def test_spoilt_frames_are_gaps_with_their_number():
    frames = source()
    try:
        frames.open()
        read(frames, 2)
        frames._nodes.put("ForceFailedBufferCount", 3)
        frames._nodes.put("ForceFailedBuffer", True)
        found = read(frames, 30)
        assert [captured.problem for captured in found].count(Reason.LENGTH) == 3
        assert all(captured.pixels is None for captured in found if captured.problem)
        assert np.diff([captured.trigger for captured in found]).tolist() == [1] * 29
    finally:
        frames.close()


def test_a_triggered_camera_may_be_silent_and_is_fired_by_software():
    nodes = SMALL | {"TriggerSelector": "FrameStart", "TriggerMode": "On", "TriggerSource": "Software"}
    frames = source(nodes=nodes)
    try:
        frames.open()
        assert read(frames, 1, 0.2) == []
        frames.fire()
        assert read(frames, 1)[0].pixels is not None
    finally:
        frames.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nodes": {"PixelFormats": "Mono8"}}, "no node PixelFormats.*it has .*PixelFormat"),
        ({"nodes": {"PixelFormat": "Mono7"}}, "'Mono7' is refused.*it takes Mono8"),
        ({"nodes": {"Width": 99999}}, "Width = 99999 is refused.*4096"),
        ({"nodes": {"Width": "wide"}}, "Width = 'wide' is refused"),
        ({"device": ""}, f"2 cameras are.*serial {FIRST}; .*serial {SECOND}"),
        ({"device": "4711"}, f"no camera 4711 is connected.*serial {SECOND}"),
    ],
)
def test_what_cannot_be_is_said_and_the_camera_is_left_free(settings, words):
    frames = source(**settings)
    with pytest.raises(SourceError, match=words):
        frames.open()
    frames.close()
    again = source()  # nobody holds it
    try:
        again.open()
        assert read(again, 1)
    finally:
        again.close()


def test_a_silent_camera_is_told_when_it_may_not_be_silent():
    frames = source(timeout_ms=200, nodes=SMALL | {"TriggerMode": "On", "TriggerSource": "Software"})
    try:
        frames.open()
        with pytest.raises(SourceError, match=r"has given no frame for 0\.2 s"):
            read(frames, 20)
    finally:
        frames.close()


def test_cameras_are_listed_with_a_picture_of_each(tmp_path):
    result = CliRunner().invoke(app, ["cameras", "--pictures", str(tmp_path), "--json"], standalone_mode=False)
    found = [one for one in map(json.loads, result.output.splitlines()) if "basler" in one["source"]]
    assert [one["source"] for one in found] == [f'kind = "basler", device = "{serial}"' for serial in (FIRST, SECOND)]
    assert all("gray uint8" in one["picture"] for one in found)
    assert (tmp_path / f"basler-{SECOND}.png").exists()
