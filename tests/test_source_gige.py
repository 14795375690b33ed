"""GigE Vision cameras: Debian's fake one sends real packets, loses some, is killed, and comes back."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from bench.fake_camera import INSTALL, INTERFACE, SERIAL, FakeCamera
from line_worker.cli import app
from line_worker.config import GigeSource
from line_worker.errors import SourceError
from line_worker.source import Captured, gige
from line_worker.source.gige import GigeFrames
from line_worker.source.numbered import LAST_BLOCK
from line_worker.verdicts import Reason

HOW = f"{INSTALL}, then: pytest tests/test_source_gige.py"
viva = pytest.importorskip("viva_genicam", reason=HOW)
if not FakeCamera.installed():
    pytest.skip(HOW, allow_module_level=True)

SMALL = {"Width": 320, "Height": 200, "AcquisitionFrameRate": 50.0}


@pytest.fixture(scope="module")
def camera() -> Iterator[FakeCamera]:
    with FakeCamera() as camera:
        yield camera


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The camera is on this host: it answers at once."""
    monkeypatch.setattr(gige, "DISCOVERY_MS", 250)


@pytest.fixture
def lossy(camera: FakeCamera) -> Iterator[FakeCamera]:
    """The same camera, which loses 30 of a thousand packets for the time of a test."""
    camera.kill()
    camera._lost = 30
    camera.start()
    yield camera
    camera.kill()
    camera._lost = 0
    camera.start()


def source(**settings: Any) -> GigeFrames:
    fields = {"kind": "gige", "interface": INTERFACE, "nodes": SMALL} | settings
    return GigeFrames(GigeSource.model_validate(fields))


def read(frames: GigeFrames, count: int, within_s: float = 15.0) -> list[Captured]:
    until, found = time.monotonic() + within_s, []
    while len(found) < count and time.monotonic() < until:
        if (captured := frames.read(0.05)) is not None:
            found.append(captured)
    return found


def in_order(found: list[Captured]) -> bool:
    """Whether the camera's numbers are there, each once and none left out."""
    numbers = [captured.trigger for captured in found]
    return all(second == first % LAST_BLOCK + 1 for first, second in itertools.pairwise(numbers))


@pytest.mark.parametrize(
    ("pixel_format", "shape", "dtype"),
    [
        ("Mono8", (200, 320), np.uint8),
        ("Mono16", (200, 320), np.uint16),
        ("RGB8", (200, 320, 3), np.uint8),
        ("BayerRG8", (200, 320, 3), np.uint8),
    ],
)
def test_pictures_come_as_the_nodes_say(camera, pixel_format, shape, dtype):
    frames = source(device=SERIAL, nodes=SMALL | {"PixelFormat": pixel_format})
    try:
        frames.open()
        found = read(frames, 8)
        assert in_order(found)
        found = [captured for captured in found if captured.pixels is not None][:4]
        assert [(captured.pixels.shape, captured.pixels.dtype) for captured in found] == [(shape, dtype)] * 4
        assert all(captured.pixels.flags.c_contiguous and captured.problem is Reason.NONE for captured in found)
        assert found[0].pixels.std() > 0
    finally:
        frames.close()


def test_a_camera_that_waits_for_its_trigger_takes_one_picture_for_each(camera, capsys):
    waits = {"TriggerSelector": "FrameStart", "TriggerMode": "On", "TriggerSource": "Software"}
    frames = source(nodes=SMALL | {"PixelFormat": "Mono8"} | waits)
    try:
        frames.open()
        assert frames.fires
        assert read(frames, 1, within_s=gige.GONE_S + 0.3) == [], "it may be silent as long as it answers"
        for _ in range(3):
            frames.fire()
            assert len(read(frames, 1)) == 1
        assert read(frames, 1, within_s=0.3) == []
        frames.close()
        frames = source(nodes=SMALL)
        frames.open()
        assert "the camera waits for a trigger; if it should not: nodes.TriggerMode = 'Off'" in capsys.readouterr().out
    finally:
        frames.close()
        camera.kill()  # it would wait for triggers in the next test, too
        camera.start()


def test_lost_packets_make_gaps_with_a_cause_and_never_pictures(lossy):
    frames = source(packet_size=3000, resend=False, nodes=SMALL | {"PixelFormat": "Mono8"})
    try:
        frames.open()
        found = read(frames, 100)
    finally:
        frames.close()
    assert in_order(found)
    gaps = [captured for captured in found if captured.pixels is None]
    assert 5 < len(gaps) < 95, "about half of the frames lose one of their 22 packets"
    assert {captured.problem for captured in gaps} <= {Reason.LENGTH, Reason.NO_FRAME}
    assert all(captured.problem is Reason.NONE for captured in found if captured.pixels is not None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nodes": {"PixelFormats": "Mono8"}}, "no node PixelFormats.*it has PixelFormat"),
        ({"nodes": {"PixelFormat": "Mono7"}}, "'Mono7' is refused.*it takes .*Mono8"),
        ({"nodes": {"Width": 99999}}, "Width = 99999 is refused.*2048"),
        ({"nodes": {"Width": "wide"}}, "Width = 'wide' is refused"),
        ({"nodes": {"TestBoolean": 3}}, "TestBoolean = 3 is refused"),
        ({"device": "4711"}, f"no camera 4711 is connected.*serial {SERIAL}"),
    ],
)
def test_what_cannot_be_is_said_and_the_camera_is_left_free(camera, settings, words):
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


@pytest.mark.parametrize("device", ["", "127.0.0.1", "Fake", "00:00:00:00:00:00"])
def test_a_camera_is_found_by_any_of_its_names(camera, device):
    frames = source(device=device)
    try:
        frames.open()
    finally:
        frames.close()


def test_a_silent_camera_is_told_when_it_may_not_be_silent(camera):
    frames = source(timeout_ms=200, nodes=SMALL | {"AcquisitionFrameRate": 1.0})
    try:
        frames.open()
        with pytest.raises(SourceError, match=r"has given no frame for 0\.2 s"):
            read(frames, 20)
    finally:
        frames.close()


def test_a_camera_that_is_gone_is_told_and_comes_back(camera):
    frames = source(nodes=SMALL | {"AcquisitionFrameRate": 50.0})
    try:
        frames.open()
        assert read(frames, 3)
        camera.kill()
        with pytest.raises(SourceError, match="does not answer any more"):
            read(frames, 1000)
        frames.close()
        with pytest.raises(SourceError, match="no camera at all is connected"):
            frames.open()
        camera.start()
        frames.open()
        assert read(frames, 3)[2].pixels is not None
    finally:
        frames.close()


def test_a_camera_is_listed_with_a_picture(camera, tmp_path):
    result = CliRunner().invoke(app, ["cameras", "--pictures", str(tmp_path), "--json"], standalone_mode=False)
    [found] = [one for one in map(json.loads, result.output.splitlines()) if "gige" in one["source"]]
    assert found["source"] == f'kind = "gige", device = "{SERIAL}"'
    assert found["what"] == f"Aravis Fake, serial {SERIAL}, at 127.0.0.1"
    assert "uint" in found["picture"]
    assert (tmp_path / "gige-127.0.0.1.png").exists()
