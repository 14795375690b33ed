"""Boxes land where the anomaly is, and pictures say what was decided."""

from __future__ import annotations

import numpy as np
import pytest

from line_worker.verdicts import Reason
from line_worker.vision import crop
from line_worker.vision.crop import Box, Explain, Figures, Map, find_boxes
from line_worker.vision.inspection import Inspected

CANONICAL, IMAGE = (80, 160), (300, 400)  # cells are 4 x 4 canonical pixels


def evidence(*spots: tuple[int, int, float]) -> tuple[Map, Explain]:
    decision = np.zeros((20, 40), np.float32)
    for row, col, height in spots:
        decision[row : row + 2, col : col + 3] = height
    return decision, lambda row, col: Figures(decision[row, col] + 1, 0.5, 2.5, decision[row, col] * 2)


def placed(angle: float) -> np.ndarray:
    """Return a pose: the canonical picture turned by `angle` and laid around the image's centre."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]])
    centre = np.array([200.0, 150.0]) - turn @ [79.5, 39.5]
    return np.hstack([turn, centre[:, None]])


def test_boxes_are_worst_first_with_their_evidence():
    boxes = find_boxes(*evidence((3, 4, 5.0), (10, 30, 9.0)), 4.0, placed(0.0), CANONICAL, IMAGE)
    assert [box.zone for box in boxes] == [(10, 30), (3, 4)]
    assert boxes[0][5:] == (10.0, 0.5, 2.5, 18.0)


def test_a_box_covers_its_cells_in_the_original():
    (box,) = find_boxes(*evidence((10, 30, 9.0)), 4.0, placed(0.0), CANONICAL, IMAGE)
    x, y = 200 - 79.5 + 30 * 4 - 0.5, 150 - 39.5 + 10 * 4 - 0.5
    assert abs(box.x - x) <= 1
    assert abs(box.y - y) <= 1
    assert 12 <= box.w <= 14
    assert 8 <= box.h <= 10


def test_a_quarter_turn_swaps_the_sides():
    (box,) = find_boxes(*evidence((10, 30, 9.0)), 4.0, placed(np.pi / 2), CANONICAL, IMAGE)
    assert 8 <= box.w <= 10
    assert 12 <= box.h <= 14


def test_boxes_stay_inside_the_image():
    away = placed(0.0)
    away[:, 2] += (1000, -1000)
    (box,) = find_boxes(*evidence((10, 30, 9.0)), 4.0, away, CANONICAL, IMAGE)
    assert 0 <= box.x < box.x + box.w <= 400
    assert 0 <= box.y < box.y + box.h <= 300


def test_nothing_above_the_threshold_gives_no_box():
    assert find_boxes(*evidence((10, 30, 3.9)), 4.0, placed(0.0), CANONICAL, IMAGE) == ()


def test_a_region_reaches_down_from_its_peak():
    spots = evidence((10, 30, 9.0), (10, 27, 3.0), (3, 3, 3.0))  # 3.0 is above 0.6 of the threshold
    (box,) = find_boxes(*spots, 4.0, placed(0.0), CANONICAL, IMAGE)
    assert box.w >= 24


def test_at_most_eight():
    spots = [(row, col, 5.0 + col) for row in (2, 8, 14) for col in range(2, 38, 6)]
    assert len(find_boxes(*evidence(*spots), 4.0, placed(0.0), CANONICAL, IMAGE)) == crop.MAX_BOXES


def failed(dtype: type = np.uint8) -> tuple[np.ndarray, Inspected]:
    cells = np.zeros((20, 40), np.float32)
    cells[10:12, 30:33] = 9.0
    box = Box(240, 150, 12, 8, (10, 30), 9.0, 1.0, 3.0, 8.0)
    image = np.full(IMAGE, np.iinfo(dtype).max // 2, dtype)
    return image, Inspected(Reason.ANOMALY, 9.0, 4.0, (box,), cells, CANONICAL, placed(0.0))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_overlay_shows_heat_box_and_banner(dtype):
    image, inspected = failed(dtype)
    picture = crop.overlay(image, inspected)
    banner = picture.shape[0] - 300
    assert banner > 10
    assert picture.shape[1:] == (400, 3)
    assert tuple(picture[0, -1]) == (40, 40, 220)
    spot = picture[banner + 154, 246].astype(int)
    assert spot[2] > spot[0] + 60  # red where the anomaly is
    far = picture[banner + 50, 50].astype(int)
    assert far.max() == far.min()  # untouched gray elsewhere


@pytest.mark.parametrize(
    ("inspected", "colour"),
    [
        (Inspected(Reason.NONE, 1.0, 4.0), (80, 160, 40)),
        (Inspected(Reason.NO_OBJECT, None, 4.0), (0, 150, 230)),
        (Inspected(Reason.NONFINITE, None, 4.0), (0, 150, 230)),
    ],
)
def test_other_verdicts_have_their_own_colour(inspected, colour):
    picture = crop.overlay(np.zeros((*IMAGE, 3), np.uint8), inspected)
    assert tuple(picture[0, -1]) == colour


def test_crops_show_the_box_with_context():
    image, inspected = failed()
    image[150:158, 240:252] = 7
    (cut,) = crop.crops(image, inspected)
    assert cut.shape == (8 + 2 * 12, 12 + 2 * 14, 3)
    assert (cut == 7).sum() == 8 * 12 * 3


def test_map_goes_where_the_part_lies():
    canonical = np.zeros(CANONICAL, np.float32)
    canonical[40, 100] = 1.0
    mapped = crop.to_original(canonical, placed(np.pi / 2), IMAGE, -1.0)
    x, y = placed(np.pi / 2) @ [100, 40, 1]
    row, col = np.unravel_index(mapped.argmax(), IMAGE)
    assert abs(row - y) <= 0.5
    assert abs(col - x) <= 0.5
    assert mapped[0, 0] == -1.0
