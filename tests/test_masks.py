"""The user's masks are found by name and read, and everything that is wrong with them is said at once, by name."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from calib.dataset import Dataset
from calib.masks import read_masks
from calib.options import TrainOptions
from line_worker.errors import ConfigError, DatasetError
from line_worker.images import save_png
from line_worker.vision.locate import LOCATE_SIDE

SIZE = (60, 90)


def pictures(*names: str) -> Dataset:
    return Dataset(Path("good"), list(names), [np.zeros(SIZE, np.uint8) for _ in names])


def box(x0: int = 30, y0: int = 20, x1: int = 60, y1: int = 40, value: int = 1) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[y0:y1, x0:x1] = value
    return mask


def written(folder: Path, **masks: np.ndarray) -> Path:
    for name, mask in masks.items():
        save_png(folder / f"{name}.png", mask)
    return folder


def test_any_value_but_zero_marks_the_part(tmp_path):
    colour = cv2.merge([box(value=0), box(value=3), box(value=0)])
    folder = written(tmp_path, a=box(), b_mask=box(value=255), c=colour, unasked=box())
    (folder / "notes.txt").write_text("painted by hand")
    read = read_masks(folder, pictures("a.webp", "b.png", "c.jpg"))
    assert [mask.shape for mask in read] == [(170, LOCATE_SIDE)] * 3
    for mask in read:
        assert mask.dtype == np.float32
        assert mask.mean() == pytest.approx(30 * 20 / (60 * 90), rel=0.02)
        assert np.array_equal(mask, read[0])


def test_holes_are_part_and_specks_are_not(tmp_path):
    mask = box()
    mask[28:32, 40:50] = 0
    mask[2, 2] = 1
    (read,) = read_masks(written(tmp_path, a=mask), pictures("a.png"))
    assert read[85, 128] == 1
    assert read[:20, :20].max() == 0


def test_missing_masks_are_named(tmp_path):
    folder = written(tmp_path, a=box(), c_mask=box())
    with pytest.raises(DatasetError, match=r"no mask for 2 of 4 good images: b\.png, d\.png\..*NAME_mask\.png"):
        read_masks(folder, pictures("a.png", "b.png", "c.png", "d.png"))
    with pytest.raises(DatasetError, match="is not a folder"):
        read_masks(folder / "a.png", pictures("a.png"))


def test_everything_that_is_wrong_is_said_at_once(tmp_path):
    two = box(5, 5, 25, 25) | box(50, 5, 70, 25)
    wrong = {
        "empty": (box(value=0), "empty.png is empty: it marks no pixel"),
        "whole": (np.ones(SIZE, np.uint8), "whole.png marks 100% of the picture as part; background must be seen"),
        "small": (box()[:50], "small.png is 90 x 50, its picture 90 x 60"),
        "twins": (two, "twins.png marks several pieces, the largest of them 50%"),
        "speck": (box(30, 20, 33, 23), "speck.png marks 0.17% of the picture as part, too little"),
    }
    folder = written(tmp_path, fine=box(), **{name: mask for name, (mask, _) in wrong.items()})
    (folder / "cut.png").write_bytes((folder / "fine.png").read_bytes()[:60])
    with pytest.raises(DatasetError, match=r"6 of 7 masks cannot be used") as caught:
        read_masks(folder, pictures("fine.png", "cut.png", *(f"{name}.png" for name in wrong)))
    text = str(caught.value)
    assert all(words in text for _, words in wrong.values())
    assert "cut.png" in text
    assert "fine.png" not in text


@pytest.mark.parametrize("locate", ["background", "full"])
def test_masks_are_for_the_network_alone(tmp_path, locate):
    with pytest.raises(ConfigError, match=f"masks are for locate head, and locate {locate} was asked for"):
        TrainOptions(tmp_path, tmp_path / "b", locate=locate, masks=tmp_path).check()


def test_a_folder_of_masks_must_exist(tmp_path):
    with pytest.raises(ConfigError, match=r"masks .*/nowhere: there is no such file or folder"):
        TrainOptions(tmp_path, tmp_path / "b", masks=tmp_path / "nowhere").check()
