"""Compressed pictures are bit for bit what was taken, whatever the shape and depth; OpenCV reads our PNG files."""

from __future__ import annotations

import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from line_worker.images import decode_image
from line_worker.wire import delta, png

SIDE = st.integers(1, 40)


@given(SIDE, SIDE, st.booleans(), st.sampled_from([np.uint8, np.uint16]), st.integers(0, 2**32))
def test_every_picture_comes_back(height, width, colour, dtype, seed):
    shape = (height, width, 3) if colour else (height, width)
    pixels = np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    data = png.encode(pixels)
    found = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert (found.dtype, found.shape) == (dtype, shape)
    assert np.array_equal(found, pixels)
    assert np.array_equal(decode_image(data, "x"), pixels)
    again = delta.decode(delta.encode(pixels), shape, pixels.dtype.name)
    assert (again.dtype, again.flags.c_contiguous) == (dtype, True)
    assert np.array_equal(again, pixels)


@pytest.mark.parametrize(
    "pixels", [np.arange(600, dtype=np.uint16).reshape(20, 30)[:, ::2], np.zeros((9, 8))[::3].astype("u1")]
)
def test_a_view_is_written_as_it_looks(pixels):
    assert np.array_equal(decode_image(png.encode(pixels), "x"), pixels)
    assert np.array_equal(delta.decode(delta.encode(pixels), pixels.shape, pixels.dtype.name), pixels)


def test_the_files_structure_is_what_the_specification_says():
    data = png.encode(np.full((3, 5), 7, np.uint8))
    at, names = len(png.MAGIC), []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", data, at + 8 + length)[0] == zlib.crc32(name + body)
        names.append(name)
        at += 12 + length
    assert names == [b"IHDR", b"IDAT", b"IEND"]


def test_a_smooth_picture_becomes_small():
    x, y = np.meshgrid(np.arange(400), np.arange(300))
    picture = ((x + 2 * y) % 251 + np.random.default_rng(0).integers(0, 3, x.shape)).astype(np.uint8)
    assert len(png.encode(picture)) < 0.4 * picture.nbytes
    assert len(delta.encode(picture)) < 0.4 * picture.nbytes
