"""What every source promises, checked on each of them with real files and a real HTTP camera."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from line_worker.config import parse
from line_worker.errors import SourceError
from line_worker.source import Captured, Source, make_source
from line_worker.source.simulated_camera import SimulatedCamera
from line_worker.wire.frames import checksum
from line_worker.wire.messages import Frame, FrameKey
from line_worker.wire.recording import RecordingMeta, Trigger
from line_worker.wire.recording_writer import RecordingWriter

RATE = 100.0


class Case(NamedTuple):
    source: Source
    frames: int | None  # None: it never ends
    shape: tuple[int, ...]
    dtype: type
    feed: Callable[[], None] = lambda: None  # makes frames appear after `open`


def _source(**settings: object) -> Source:
    raw = {
        "line": {"name": "l", "runtime": "r", "data": "d"},
        "cameras": [{"name": "cam", "deadline_ms": 100, "source": settings}],
        "workers": {"bundle": "stub"},
    }
    return make_source(parse(raw).cameras[0])


def _pictures(n: int, shape: tuple[int, ...] = (48, 64), dtype: type = np.uint8) -> list[np.ndarray]:
    return [np.full(shape, 10 + i, dtype) for i in range(n)]


def _folder(tmp: Path, shape: tuple[int, ...], dtype: type) -> Path:
    for i, picture in enumerate(_pictures(4, shape, dtype)):
        assert cv2.imwrite(str(tmp / f"{i}.png"), picture)
    return tmp


def _video(path: Path) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50.0, (64, 48))
    for picture in _pictures(6, (48, 64, 3)):
        writer.write(picture)
    writer.release()
    return path


def record(path: Path, pictures: list[np.ndarray]) -> Path:
    writer = RecordingWriter(path, RecordingMeta("l", 0.0, 1e-3))
    for seq, picture in enumerate(pictures):
        colour = "gray" if picture.ndim == 2 else "bgr"
        fields = (picture.shape, str(picture.dtype), colour, checksum(picture), "inline")
        frame = Frame(FrameKey("l", "cam", 7, seq), 0.0, 100.0, *fields)
        writer.frame(Trigger(frame), picture, seq * 10_000_000, seq * 10_000_000)
    writer.close()
    return path


@contextlib.contextmanager
def _case(name: str, tmp: Path) -> Iterator[Case]:
    if name == "folder":
        yield Case(_source(kind="folder", path=_folder(tmp, (48, 64), np.uint8), rate=RATE), 4, (48, 64), np.uint8)
    elif name == "folder-16-bit-colour":
        path = _folder(tmp, (48, 64, 3), np.uint16)
        yield Case(_source(kind="folder", path=path, rate=RATE), 4, (48, 64, 3), np.uint16)
    elif name == "folder-looped":
        path = _folder(tmp, (48, 64), np.uint8)
        yield Case(_source(kind="folder", path=path, rate=RATE, loop=True), None, (48, 64), np.uint8)
    elif name == "folder-watched":
        source = _source(kind="folder", path=tmp, watch=True, settle_ms=20)
        yield Case(source, None, (48, 64), np.uint8, lambda: _folder(tmp, (48, 64), np.uint8) and None)
    elif name == "video":
        yield Case(_source(kind="video", path=_video(tmp / "v.avi"), rate=RATE), 6, (48, 64, 3), np.uint8)
    elif name == "video-gray-looped":
        source = _source(kind="video", path=_video(tmp / "v.avi"), rate=RATE, loop=True, colour="gray")
        yield Case(source, None, (48, 64), np.uint8)
    elif name == "synthetic":
        source = _source(kind="synthetic", rate=RATE, parts=4, width=96, height=64)
        yield Case(source, 4, (64, 96), np.uint8)
    elif name == "synthetic-noise":
        source = _source(kind="synthetic", part="noise", rate=RATE, parts=20, width=96, height=64, colour=True, bits=16)
        yield Case(source, 20, (64, 96, 3), np.uint16)
    elif name == "synthetic-grain":
        source = _source(kind="synthetic", part="grain", rate=RATE, parts=20, width=96, height=64)
        yield Case(source, 20, (64, 96), np.uint8)
    elif name == "replay":
        path = record(tmp / "r.mcap", _pictures(5, (48, 64), np.uint16))
        yield Case(_source(kind="replay", path=path, rate=RATE), 5, (48, 64), np.uint16)
    elif name == "replay-max":
        path = record(tmp / "r.mcap", _pictures(5, (48, 64, 3)))
        yield Case(_source(kind="replay", path=path, rate="max"), 5, (48, 64, 3), np.uint8)
    elif name == "genicam":
        genicam = pytest.importorskip("genicam", reason="pip install line-worker[genicam]")
        producer = Path(genicam.__file__).parent / "viky.cti"
        nodes = {"PixelFormat": "Mono8", "AcquisitionFrameRate": RATE}
        yield Case(_source(kind="genicam", producer=producer, device="0", nodes=nodes), None, (400, 400), np.uint8)
    else:
        with SimulatedCamera(_pictures(5, (48, 64, 3)), rate=RATE) as camera:
            yield Case(_source(kind="camera", device=camera.url, timeout_ms=1000), None, (48, 64, 3), np.uint8)


NAMES = [
    *("folder", "folder-16-bit-colour", "folder-looped", "folder-watched", "video", "video-gray-looped"),
    *("synthetic", "synthetic-noise", "synthetic-grain", "replay", "replay-max", "camera", "genicam"),
]


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    with _case(request.param, tmp_path) as case:
        yield case
        case.source.close()


def _read(source: Source, count: int, within_s: float = 5.0) -> list[Captured]:
    until, found = time.monotonic() + within_s, []
    while len(found) < count and not source.finished and time.monotonic() < until:
        if (captured := source.read(0.05)) is not None:
            found.append(captured)
    return found


def test_pixels_are_as_promised(case: Case) -> None:
    case.source.open()
    case.feed()
    found = _read(case.source, 4)
    assert len(found) == 4
    for captured in found:
        assert captured.pixels is not None
        assert captured.pixels.shape == case.shape
        assert captured.pixels.dtype == case.dtype
        assert captured.pixels.flags.c_contiguous


def test_every_frame_comes_once_and_then_the_source_is_finished(case: Case) -> None:
    case.source.open()
    case.feed()
    found = _read(case.source, 1000, within_s=5.0 if case.frames else 0.5)
    assert case.source.finished is (case.frames is not None)
    if case.frames is not None:
        assert [captured.trigger for captured in found] == list(range(case.frames))
        assert case.source.read(0.01) is None


def test_a_frame_is_not_touched_again(case: Case) -> None:
    case.source.open()
    case.feed()
    first = _read(case.source, 1)[0].pixels
    assert first is not None
    before = first.copy()
    _read(case.source, 3)
    assert np.array_equal(first, before)


def test_moments_rise_and_lie_in_the_past(case: Case) -> None:
    begin = time.monotonic()
    case.source.open()
    case.feed()
    moments = [captured.at for captured in _read(case.source, 4)]
    assert moments == sorted(moments)
    assert begin - 0.05 <= moments[0]
    assert moments[-1] <= time.monotonic()


def test_read_never_blocks_longer_than_asked(case: Case) -> None:
    case.source.open()
    took = []
    for _ in range(5):
        begin = time.monotonic()
        case.source.read(0.03)
        took.append(time.monotonic() - begin)
    assert median(took) < 0.13, "0.1 s for a busy machine, and two turns in which it is busier"


def test_closing_is_always_allowed_and_opening_again_works(case: Case) -> None:
    case.source.close()
    case.source.open()
    case.source.close()
    case.source.close()
    assert case.source.read(0.01) is None
    case.source.open()
    case.feed()
    assert _read(case.source, 2)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "folder", "path": "nowhere"}, r"nowhere.*check that the folder exists"),
        ({"kind": "folder", "path": "empty"}, r"empty.*no image.*put images there"),
        ({"kind": "folder", "path": "nowhere", "watch": True}, r"nowhere.*check that the folder exists"),
        ({"kind": "video", "path": "nowhere.avi"}, r"nowhere.avi.*not there.*check the path"),
        ({"kind": "video", "path": "text.avi"}, r"text.avi.*cannot be read as a video"),
        ({"kind": "camera", "device": 93, "timeout_ms": 300}, r"camera 93.*cannot be opened.*check its power, cable"),
        (
            {"kind": "camera", "device": "http://u:secret@127.0.0.1:9/", "timeout_ms": 300},
            r"^http://127.0.0.1:9/: cann",
        ),
        ({"kind": "synthetic", "part": "teapot"}, r"'teapot' cannot be drawn.*bracket"),
        ({"kind": "replay", "path": "nowhere.mcap"}, r"nowhere.mcap.*cannot be opened"),
        ({"kind": "replay", "path": "text.avi"}, r"text.avi.*is not an MCAP file"),
    ],
)
def test_what_cannot_be_opened_is_a_source_error_that_helps(
    settings: dict[str, object], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.avi").write_text("this is no video")
    source = _source(**settings)
    with pytest.raises(SourceError, match=says):
        source.open()
    source.close()
