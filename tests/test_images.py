"""Files in, arrays out: what is kept, what is dropped, and what is refused before it can cost anything."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from line_worker.errors import ImageError
from line_worker.images import IMAGE_SUFFIXES, decode_image, encode_png, read_image, save_png

RNG = np.random.default_rng(3)
GRAY = cv2.GaussianBlur(RNG.integers(0, 256, (48, 70), np.uint8), (0, 0), 2)
COLOUR = cv2.GaussianBlur(RNG.integers(0, 256, (48, 70, 3), np.uint8), (0, 0), 2)
LOSSLESS = (".png", ".bmp", ".tif", ".tiff")


def encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, image, list(options))[1].tobytes()


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
@pytest.mark.parametrize("image", [GRAY, COLOUR], ids=["gray", "colour"])
def test_every_suffix_is_read(tmp_path, suffix, image):
    path = tmp_path / f"part{suffix}"
    path.write_bytes(encoded(suffix, image))
    got = read_image(path)
    assert (got.shape, got.dtype) == (image.shape, np.uint8)
    assert np.abs(got.astype(int) - image).mean() <= (0 if suffix in LOSSLESS else 8)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3)])
def test_sixteen_bits_stay(suffix, shape):
    image = RNG.integers(0, 65536, shape, np.uint16)
    assert np.array_equal(decode_image(encoded(suffix, image), "x"), image)


def test_alpha_is_dropped():
    alpha = np.dstack([COLOUR, np.full(GRAY.shape, 7, np.uint8)])
    got = decode_image(encoded(".png", alpha), "x")
    assert np.array_equal(got, COLOUR)
    assert got.flags.c_contiguous


def test_png_round_trip(tmp_path):
    for image in (GRAY, COLOUR, GRAY.astype(np.uint16) * 257):
        save_png(tmp_path / "a.png", image)
        assert np.array_equal(read_image(tmp_path / "a.png"), image)
        assert encode_png(image) == (tmp_path / "a.png").read_bytes()


CODECS = {
    "png": (".png", ()),
    "jpeg": (".jpg", ()),
    "progressive": (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "restarts": (".jpg", (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    "webp": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 80)),
    "webp-lossless": (".webp", ()),
    "bmp": (".bmp", ()),
    "tiff-raw": (".tif", (cv2.IMWRITE_TIFF_COMPRESSION, 1)),
    "tiff-lzw": (".tif", (cv2.IMWRITE_TIFF_COMPRESSION, 5)),
    "tiff-deflate": (".tif", (cv2.IMWRITE_TIFF_COMPRESSION, 8)),
}


@pytest.mark.parametrize("codec", CODECS)
def test_a_cut_file_is_never_a_picture(codec):
    suffix, options = CODECS[codec]
    data = encoded(suffix, COLOUR, *options)
    assert decode_image(data, "whole").shape == COLOUR.shape
    for keep in {*range(40), *range(40, len(data), max(1, len(data) // 60)), *range(len(data) - 24, len(data))}:
        with pytest.raises(ImageError, match=r"cut\.img"):
            decode_image(data[:keep], "cut.img")


def test_webp_is_gray_when_its_channels_are_and_only_then():
    for quality in (50, 92, 101):
        assert decode_image(encoded(".webp", GRAY, cv2.IMWRITE_WEBP_QUALITY, quality), "x").shape == GRAY.shape
    nearly = cv2.merge([GRAY] * 3)
    nearly[10:30, 10:30, 2] += np.uint8(12)
    assert decode_image(encoded(".webp", nearly, cv2.IMWRITE_WEBP_QUALITY, 92), "x").ndim == 3
    assert decode_image(encoded(".png", cv2.merge([GRAY] * 3)), "x").ndim == 3


@pytest.mark.parametrize("codec", ["jpeg", "progressive", "png"])
def test_a_file_whose_end_was_never_written(codec):
    suffix, options = CODECS[codec]
    data = encoded(suffix, COLOUR, *options)
    with pytest.raises(ImageError, match="cut off or damaged"):
        decode_image(data[: len(data) // 2] + bytes(len(data) - len(data) // 2), "half.img")


def bomb(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(bytes(1 + (width + 7) // 8) * 1000, 9)
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_by_its_header():
    with pytest.raises(ImageError, match=r"50000 x 40000 pixels are more than the 100,000,000 allowed"):
        decode_image(bomb(50_000, 40_000), "bomb.png")


def test_opencv_itself_gets_the_limit():
    code = "import line_worker.images, os, sys; print('cv2' in sys.modules, os.environ['OPENCV_IO_MAX_IMAGE_PIXELS'])"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENCV")}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False 100000000"


@pytest.mark.parametrize("codec", CODECS)
def test_the_limit_holds_for_every_format(codec):
    suffix, options = CODECS[codec]
    data = encoded(suffix, COLOUR, *options)
    assert decode_image(data, "x", max_pixels=48 * 70).shape == COLOUR.shape
    with pytest.raises(ImageError, match="70 x 48 pixels"):
        decode_image(data, "x", max_pixels=48 * 70 - 1)


def test_other_formats_and_types_are_named():
    for data in (b"", b"hello", b"GIF89a" + bytes(40)):
        with pytest.raises(ImageError, match="is not PNG, JPEG, WebP, BMP or TIFF"):
            decode_image(data, "x.gif")
    with pytest.raises(ImageError, match="float32; save it with 8 or 16 bits"):
        decode_image(encoded(".tif", GRAY.astype(np.float32)), "x.tif")


def test_a_path_that_cannot_be_read(tmp_path):
    with pytest.raises(ImageError, match=r"none\.png: cannot be read"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)


def test_a_huge_file_is_not_opened(tmp_path):
    path = Path(tmp_path / "huge.bmp")
    with path.open("wb") as file:
        file.truncate(30 << 20)  # sparse
    with pytest.raises(ImageError, match="not opened"):
        read_image(path, max_pixels=1000)


def test_random_damage_is_an_error_or_an_image():
    rng = np.random.default_rng(8)
    for suffix, options in CODECS.values():
        data = bytearray(encoded(suffix, COLOUR, *options))
        for _ in range(30):
            hurt = bytearray(data)
            for at in rng.integers(0, len(data), 3):
                hurt[at] = int(rng.integers(256))
            with contextlib.suppress(ImageError):  # anything else fails the test
                image = decode_image(bytes(hurt), "hurt", max_pixels=10_000)
                assert image.dtype in (np.uint8, np.uint16)
                assert image.shape[0] * image.shape[1] <= 10_000
