"""The OpenCV camera against a real MJPEG camera on HTTP that is unplugged, hangs and comes back."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from line_worker.config import CameraSource
from line_worker.errors import SourceError
from line_worker.source import Captured
from line_worker.source.camera import QUEUE_FRAMES, Backlog, CameraFrames, shown
from line_worker.source.simulated_camera import SimulatedCamera
from line_worker.verdicts import Reason

PICTURES = [np.full((48, 64, 3), 20 + 20 * i, np.uint8) for i in range(8)]


@pytest.fixture
def camera() -> Iterator[SimulatedCamera]:
    with SimulatedCamera(PICTURES, rate=50) as camera:
        yield camera


def _source(camera: SimulatedCamera, **settings: object) -> CameraFrames:
    raw = {"kind": "camera", "device": camera.url, "timeout_ms": 500, **settings}
    return CameraFrames(CameraSource.model_validate(raw))


def _read(source: CameraFrames, count: int) -> list[Captured]:
    until, found = time.monotonic() + 5, []
    while len(found) < count and time.monotonic() < until:
        if (captured := source.read(0.05)) is not None:
            found.append(captured)
    return found


def _levels(found: list[Captured]) -> list[int]:
    return [round(float(c.pixels.mean()) / 20) - 1 for c in found if c.pixels is not None]


def test_frames_arrive_in_order_and_in_time(camera: SimulatedCamera) -> None:
    source = _source(camera)
    source.open()
    found = _read(source, 10)
    source.close()
    assert _levels(found) == [i % 8 for i in range(10)]
    assert [c.trigger for c in found] == list(range(10))
    assert np.median(np.diff([c.at for c in found[3:]])) == pytest.approx(0.02, abs=0.01)


def test_gray_is_gray(camera: SimulatedCamera) -> None:
    source = _source(camera, colour="gray")
    source.open()
    (captured,) = _read(source, 1)
    source.close()
    assert captured.pixels is not None
    assert captured.pixels.shape == (48, 64)


def test_a_pulled_cable_is_an_error_and_the_camera_can_be_opened_again(camera: SimulatedCamera) -> None:
    source = _source(camera)
    source.open()
    assert len(_read(source, 3)) == 3
    camera.stop()
    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"127\.0\.0\.1.*has stopped giving frames.*tried again"):
        _read(source, 1000)
    assert time.monotonic() - begin < 1.0, "SEMANTICS row 9: not READY within a second"
    source.close()
    with pytest.raises(SourceError, match="cannot be opened"):
        source.open()
    camera.start()
    source.open()
    assert len(_read(source, 3)) == 3
    source.close()


def test_a_camera_that_hangs_is_an_error_within_its_time_out(camera: SimulatedCamera) -> None:
    source = _source(camera, timeout_ms=300)
    source.open()
    _read(source, 3)
    camera.pause.set()
    begin = time.monotonic()
    with pytest.raises(SourceError, match=r"no frame|stopped giving frames"):
        _read(source, 1000)
    assert 0.2 < time.monotonic() - begin < 1.0
    source.close()


def test_frames_that_nobody_takes_are_triggers_with_overload(camera: SimulatedCamera) -> None:
    source = _source(camera)
    source.open()
    time.sleep(0.4)
    found = _read(source, 40)
    source.close()
    assert [c.trigger for c in found] == list(range(40)), "every trigger is there, in order"
    lost = [c for c in found if c.problem is Reason.OVERLOAD]
    assert all(c.pixels is None for c in lost)
    assert all(c.pixels is not None for c in found[:QUEUE_FRAMES])
    assert 10 < len(lost) < 36
    assert found[-1].problem is Reason.NONE, "once there is room pictures come again"


def test_a_rate_takes_fewer_frames_on_an_even_schedule(camera: SimulatedCamera) -> None:
    source = _source(camera, rate=10)
    source.open()
    found = _read(source, 6)
    source.close()
    gaps = np.diff([c.at for c in found[1:]])
    assert gaps.mean() == pytest.approx(0.1, abs=0.015)


def test_a_password_is_never_shown() -> None:
    assert shown("rtsp://admin:s3cret@10.0.0.7/stream?x=1") == "rtsp://10.0.0.7/stream?x=1"
    assert shown(0) == "camera 0"
    assert shown("/dev/video2") == "camera /dev/video2"


def test_pictures_that_have_waited_in_a_stream_are_told_from_live_ones() -> None:
    backlog = Backlog()
    stamps = [0, *range(20)]  # the first two bear the same time
    waited = [backlog.holds(stamp / 25, 10 + k / 1000) for k, stamp in enumerate(stamps)]  # all within 20 ms
    live = [backlog.holds(stamp / 25, 10 + stamp / 25) for stamp in range(20, 24)]
    assert waited == [True] * 21
    assert live == [True, False, False, False]


def test_a_stream_that_stamps_nothing_is_live() -> None:
    backlog = Backlog()
    assert [backlog.holds(0.0, 10 + k / 1000) for k in range(4)] == [True, True, False, False]
