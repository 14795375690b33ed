"""Everything wrong with a folder of images is said at once, by name, before any work."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from calib import dataset
from line_worker.errors import DatasetError
from line_worker.images import save_png

SHADES = np.random.default_rng(0).integers(0, 255, (32, 24, 32), dtype=np.uint8)


def fill(folder, count=22):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        save_png(folder / f"{number:02d}.png", SHADES[number])
    return folder


def test_a_flat_folder(tmp_path):
    data = dataset.load(fill(tmp_path))
    assert data.names[:2] == ["00.png", "01.png"]
    assert all(np.array_equal(a, b) for a, b in zip(data.images, SHADES, strict=False))


def test_an_mvtec_category_gives_its_good_training_images(tmp_path):
    fill(tmp_path / "train" / "good")
    fill(tmp_path / "test" / "scratch", 3)
    data = dataset.load(tmp_path, threads=2)
    assert data.folder == tmp_path / "train" / "good"
    assert len(data.images) == 22


def test_every_format_is_read(tmp_path):
    fill(tmp_path, 18)
    for suffix in ("jpg", "webp", "bmp", "tif", "JPEG"):
        assert cv2.imwrite(str(tmp_path / f"x.{suffix}"), SHADES[0])
    assert len(dataset.load(tmp_path).images) == 23


def test_progress_ends_at_one(tmp_path):
    shares: list[float] = []
    dataset.load(fill(tmp_path), progress=shares.append)
    assert shares[-1] == 1.0
    assert shares == sorted(shares)


def test_no_folder_and_no_image(tmp_path):
    with pytest.raises(DatasetError, match="is not a folder"):
        dataset.load(tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match=r"holds no image \(png, jpg"):
        dataset.load(tmp_path)


def test_too_few_is_said_before_any_is_read(tmp_path):
    fill(tmp_path, 18)
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    with pytest.raises(DatasetError, match="holds 19 images, and it takes at least 20"):
        dataset.load(tmp_path)


def test_all_that_do_not_fit_are_named_at_once(tmp_path):
    fill(tmp_path)
    (tmp_path / "a_broken.png").write_bytes(b"not a picture")
    save_png(tmp_path / "b_small.png", SHADES[0][:20])
    save_png(tmp_path / "c_colour.png", np.dstack([SHADES[0]] * 3))
    save_png(tmp_path / "d_deep.png", SHADES[0].astype(np.uint16) * 257)
    with pytest.raises(DatasetError) as caught:
        dataset.load(tmp_path)
    said = str(caught.value)
    assert "4 of 26 images" in said
    assert "a_broken.png" in said
    assert "b_small.png is 32 x 20 gray, 8 bit; 22 others are 32 x 24 gray, 8 bit" in said
    assert "c_colour.png is 32 x 24 colour, 8 bit" in said
    assert "d_deep.png is 32 x 24 gray, 16 bit" in said
    assert "remove or replace" in said


def test_a_long_list_is_cut(tmp_path):
    fill(tmp_path)
    for number in range(30):
        (tmp_path / f"broken{number:02d}.png").write_bytes(b"x")
    with pytest.raises(DatasetError, match="and 18 more"):
        dataset.load(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])  # what Windows calls UTF-8 begins with a mark
def test_excluded_images_are_left_out(tmp_path, encoding):
    fill(tmp_path)
    (tmp_path / "03.png").write_bytes(b"not a picture")  # and is not even read
    listed = "03.png\n\n  07.png   # a scratch\n# 08.png is fine\n03.png\n"
    (tmp_path / "exclude.txt").write_text(listed, encoding)
    data = dataset.load(tmp_path, exclude=tmp_path / "exclude.txt")
    assert data.names == [f"{number:02d}.png" for number in range(22) if number not in (3, 7)]
    assert np.array_equal(data.images[3], SHADES[4])


def test_names_to_exclude_that_nothing_bears_are_all_said(tmp_path):
    fill(tmp_path)
    (tmp_path / "exclude.txt").write_text("03.png\ngone.png\ndeeper/04.png\n")
    with pytest.raises(DatasetError, match=r"names 2 file\(s\).*\(deeper/04.png, gone.png\).*correct the names"):
        dataset.load(tmp_path, exclude=tmp_path / "exclude.txt")


def test_excluding_too_many_is_said(tmp_path):
    fill(tmp_path)
    (tmp_path / "exclude.txt").write_text("00.png\n01.png\n02.png\n")
    with pytest.raises(DatasetError, match="holds 19 images, and it takes at least 20"):
        dataset.load(tmp_path, exclude=tmp_path / "exclude.txt")


def test_a_file_to_exclude_by_that_is_no_text_is_said(tmp_path):
    fill(tmp_path)
    (tmp_path / "exclude.txt").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "exclude.txt", tmp_path, tmp_path / "gone.txt"):
        with pytest.raises(DatasetError, match=r"cannot be read as text.*one a line"):
            dataset.load(tmp_path, exclude=path)
