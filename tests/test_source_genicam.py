"""GenICam cameras: the genicam wheel's own GenTL producer, three cameras that draw bouncing balls."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from line_worker.cameras import connected
from line_worker.cli import app
from line_worker.config import GenicamSource
from line_worker.errors import SourceError
from line_worker.images import read_image
from line_worker.source import Captured
from line_worker.source.devices import Device, chosen
from line_worker.source.genicam import GenicamFrames, devices, harvester
from line_worker.source.numbered import Numbers
from line_worker.source.pixels import picture, unpacked
from line_worker.verdicts import Reason
from rooms import Rooms

genicam = pytest.importorskip(
    "genicam", reason="pip install line-worker[genicam], then: pytest tests/test_source_genicam.py"
)
PRODUCER = Path(os.path.dirname(genicam.__file__)) / "viky.cti"
MONO = {"PixelFormat": "Mono8"}


def source(**settings: Any) -> GenicamFrames:
    fields = {"kind": "genicam", "producer": PRODUCER, "device": "1", "nodes": MONO} | settings
    return GenicamFrames(GenicamSource.model_validate(fields))


def read(frames: GenicamFrames, count: int) -> list[Captured]:
    until, found = time.monotonic() + 10, []
    while len(found) < count and time.monotonic() < until:
        if (captured := frames.read(0.05)) is not None:
            found.append(captured)
    return found


@pytest.mark.parametrize(("nodes", "shape"), [(MONO, (400, 400)), ({"PixelFormat": "RGBa8"}, (400, 400, 3))])
def test_pictures_come_as_the_nodes_say(nodes, shape):
    frames = source(nodes=nodes)
    try:
        frames.open()
        found = read(frames, 4)
        assert [captured.pixels.shape for captured in found] == [shape] * 4
        assert all(captured.pixels.dtype == np.uint8 and captured.problem is Reason.NONE for captured in found)
        numbers = [captured.trigger for captured in found]
        assert numbers == list(range(numbers[0], numbers[0] + 4))
        assert found[0].pixels.std() > 0
        assert not np.shares_memory(found[0].pixels, found[3].pixels)
    finally:
        frames.close()


def test_a_region_is_set_and_read_back():
    frames = source(nodes={**MONO, "Width": 320, "Height": 200, "AcquisitionFrameRate": 50.0})
    try:
        frames.open()
        found = read(frames, 10)
        assert found[0].pixels.shape == (200, 320)
        assert found[9].at - found[0].at < 9 / 30
    finally:
        frames.close()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nodes": {"PixelFormats": "Mono8"}}, "no node PixelFormats.*it has PixelFormat"),
        ({"nodes": {"PixelFormat": "Mono16"}}, "'Mono16' is refused.*it takes RGBa8, Mono8"),
        ({"nodes": {"Width": 99999}}, "Width = 99999 is refused"),
        ({"device": ""}, "3 cameras are.*serial 0; .*serial 1"),
        ({"device": "4711"}, "no camera 4711 is connected.*serial 2"),
        ({"producer": Path("nowhere.cti")}, "nowhere.cti: is not there"),
        ({"producer": Path(__file__)}, "is no GenTL producer"),
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
    frames = source(timeout_ms=200, nodes={**MONO, "AcquisitionFrameRate": 1.0})
    try:
        frames.open()
        with pytest.raises(SourceError, match=r"has given no frame for 0\.2 s"):
            read(frames, 20)
    finally:
        frames.close()


def test_an_incomplete_buffer_is_a_gap_and_counted_once():
    frames = source()
    try:
        frames.open()
        read(frames, 2)
        frames.incomplete()  # what harvesters calls
        gap = frames.read(0.05)
        assert (gap.pixels, gap.problem) == (None, Reason.LENGTH)
    finally:
        frames.close()


@pytest.mark.parametrize(
    ("numbers", "lost"),
    [
        ([5, 6, 7], [[], [], []]),
        ([5, 8, 9], [[], [6, 7], []]),
        ([65534, 65535, 1, 2], [[], [], [], []]),
        ([65534, 2], [[], [65535, 1]]),
        ([65535, 3], [[], [1, 2]]),
        ([65534, 65537], [[], [65535, 65536]]),  # GigE Vision 2 counts on
        ([100, 100], [[], []]),
        ([3, 2**40], [[], []]),  # counted anew: not a billion parts
        ([40_000, 1], [[], []]),
    ],
)
def test_lost_frames_are_counted_by_the_cameras_own_numbers(numbers, lost):
    counter = Numbers()
    assert [counter.missing_before(number) for number in numbers] == lost


def test_lost_frames_become_gaps_before_the_next_picture(monkeypatch):
    frames = source()
    try:
        frames.open()
        read(frames, 2)
        monkeypatch.setattr(frames._numbers, "_last", frames._numbers._last - 3)  # as if three had not come
        found = read(frames, 4)
        assert [captured.problem for captured in found] == [Reason.NO_FRAME] * 3 + [Reason.NONE]
        assert np.diff([captured.trigger for captured in found]).tolist() == [1] * 3, "each with its number"
        assert [captured.pixels is None for captured in found] == [True] * 3 + [False]
    finally:
        frames.close()


def test_two_cameras_with_one_serial_are_not_guessed():
    twins = [Device("a", "V", "M", "77", ""), Device("b", "V", "M", "77", "left")]
    with pytest.raises(SourceError, match="2 cameras are '77'"):
        chosen(twins, "77")
    assert chosen(twins, "left") == 1
    assert chosen(twins, "a") == 0


def test_cameras_are_listed_with_a_picture_of_each(tmp_path):
    arguments = ["cameras", "--producer", str(PRODUCER), "--pictures", str(tmp_path), "--json"]
    result = CliRunner().invoke(app, arguments, standalone_mode=False)
    found = [json.loads(line) for line in result.output.splitlines()]
    assert [one["what"] for one in found[:3]] == [f"Machine Vision Games Ltd. Viky, serial {k}" for k in range(3)]
    assert "400x400 colour uint8" in found[0]["picture"]
    assert read_image(tmp_path / "genicam-2.png").shape == (400, 400, 3)
    assert result.return_value == 0


def test_the_producer_knows_three():
    found = harvester(GenicamSource(kind="genicam", producer=PRODUCER))
    try:
        assert [device.serial for device in devices(found)] == ["0", "1", "2"]
    finally:
        found.reset()


def test_a_file_that_is_no_producer_is_said_to_be_none(tmp_path, capfd):
    text = tmp_path / "text.cti"
    text.write_text("x")
    for file, why in ((text, "file too short"), (Path(np.random.mtrand.__file__), "it has no GCInitLib")):
        frames = GenicamFrames(GenicamSource(kind="genicam", producer=file))
        for attempt in (frames.open, lambda file=file: list(connected([file], None))):
            with pytest.raises(SourceError) as caught:
                attempt()
            assert str(caught.value).startswith(f"{file}: is no GenTL producer that can be loaded ({why}); parts")
    assert "Traceback" not in capfd.readouterr().err


def test_pictures_go_straight_from_the_buffer_to_where_they_are_wanted():
    frames, rooms = source(), Rooms()
    frames.place = rooms.place
    try:
        frames.open()
        found = read(frames, 3)
        assert rooms.hold(found)
        assert found[0].pixels.std() > 0
    finally:
        frames.close()


# ---- pixel formats ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("bits", "top"), [(8, 255), (10, 1023 << 6), (12, 4095 << 4), (14, 16383 << 2), (16, 65535)])
def test_full_scale_is_at_the_top_whatever_the_bits(bits, top):
    samples = np.zeros(12, np.uint8 if bits == 8 else np.uint16)
    samples[5] = 2**bits - 1
    data = samples.view(np.uint8)  # as some producers give it
    gray = picture(data, 4, 3, f"Mono{bits}")
    assert (gray.shape, int(gray[1, 1]), int(gray.max())) == ((3, 4), top, top)


@pytest.mark.parametrize(("name", "order"), [("RG", "RGGB"), ("GR", "GRBG"), ("GB", "GBRG"), ("BG", "BGGR")])
@pytest.mark.parametrize("bits", [8, 12])
def test_a_bayer_pattern_gives_its_colour(name, order, bits):
    colour = {"B": 10, "G": 90, "R": 200}
    tile = np.array([colour[letter] for letter in order]).reshape(2, 2)
    mosaic = np.tile(tile, (8, 8)).astype(np.uint8 if bits == 8 else np.uint16)
    found = picture(mosaic.ravel(), 16, 16, f"Bayer{name}{bits}")
    expected = np.array([10, 90, 200]) << (0 if bits == 8 else 4)
    assert np.array_equal(found[8, 8], expected)


@pytest.mark.parametrize("name", ["BGR8", "RGB8", "BGRa8", "RGBa8"])
def test_colour_comes_as_bgr(name):
    values = {"B": 1, "G": 2, "R": 3, "a": 9}
    data = np.tile(np.array([values[letter] for letter in name[:-1]], np.uint8), 6)
    found = picture(data, 3, 2, name)
    assert np.array_equal(found, np.tile(np.array([1, 2, 3], np.uint8), (2, 3, 1)))
    assert found.flags.c_contiguous
    assert not np.shares_memory(found, data), "the camera's buffer goes back"


@pytest.mark.parametrize(
    ("name", "size", "words"), [("Mono12p", 100, "gives Mono12p"), ("Mono8", 11, "holds 11 samples")]
)
def test_other_formats_and_short_buffers_are_refused(name, size, words):
    with pytest.raises(SourceError, match=words):
        picture(np.zeros(size, np.uint8), 4, 3, name)


def test_a_cut_buffer_is_refused_and_a_byte_too_many_is_not():
    with pytest.raises(SourceError, match="holds 11 samples, a picture of 4 x 3 in Mono12 has 12"):
        picture(np.zeros(23, np.uint8), 4, 3, "Mono12")
    assert picture(np.zeros(25, np.uint8), 4, 3, "Mono12").shape == (3, 4)


@pytest.mark.parametrize("name", ["Mono8", "BayerRG8", "BayerRG12", "BGR8"])
def test_a_picture_without_pixels_is_refused(name):
    with pytest.raises(SourceError, match="a picture of 4 x 0"):
        picture(np.zeros(100, np.uint8), 4, 0, name)
    with pytest.raises(SourceError, match="a picture without pixels"):
        unpacked(np.zeros((0, 4), np.uint8), name)


@pytest.mark.parametrize("name", ["Mono12", "Mono12p", "Mono12Packed"])
def test_what_a_driver_has_unpacked_is_raised_to_full_scale(name):
    samples = np.full((3, 4), 4095, np.uint16)
    assert np.array_equal(unpacked(samples, name), samples << 4)


def test_unpacked_colour_and_mosaics_come_as_bgr():
    rgb = np.tile(np.array([3, 2, 1], np.uint8), (2, 3, 1))
    assert np.array_equal(unpacked(rgb, "BGR8"), np.tile(np.array([1, 2, 3], np.uint8), (2, 3, 1)))
    mosaic = np.tile(np.array([[200, 90], [90, 10]], np.uint16), (8, 8))
    assert np.array_equal(unpacked(mosaic, "BayerRG10p")[8, 8], np.array([10, 90, 200]) << 6)


@pytest.mark.parametrize(("shape", "name"), [((12,), "Mono8"), ((3, 4), "YUV422_8"), ((3, 4), "RGB8")])
def test_what_the_driver_could_not_unpack_is_refused(shape, name):
    with pytest.raises(SourceError, match=f"gives {name}"):
        unpacked(np.zeros(shape, np.uint8), name)
