"""Drawn parts: the same seed draws the same parts, and the part id tells the truth."""

import numpy as np
import pytest

from line_worker.config import SyntheticSource
from line_worker.source import Captured
from line_worker.source.drawing import DEFECTS
from line_worker.source.synthetic import SyntheticFrames


def _read(**settings: object) -> list[Captured]:
    raw = {"kind": "synthetic", "rate": 1000, "width": 96, "height": 64, **settings}
    source = SyntheticFrames(SyntheticSource.model_validate(raw))
    source.open()
    found: list[Captured] = []
    while not source.finished:
        found += [c for c in [source.read(0.1)] if c is not None]
    source.close()
    return found


def _pixels(found: list[Captured]) -> list[np.ndarray]:
    return [c.pixels for c in found if c.pixels is not None]


def test_part_i_depends_on_the_seed_and_on_i_only() -> None:
    short, long, other = _read(parts=3, seed=5), _read(parts=6, seed=5), _read(parts=3, seed=6)
    assert all(map(np.array_equal, _pixels(short), _pixels(long)[:3]))
    assert [c.part_id for c in short] == [c.part_id for c in long][:3]
    assert not any(map(np.array_equal, _pixels(short), _pixels(other)))


@pytest.mark.parametrize(("share", "least", "most"), [(0.0, 0, 0), (0.3, 6, 30), (1.0, 60, 60)])
def test_the_share_of_defects_is_what_was_asked(share: float, least: int, most: int) -> None:
    truths = [c.part_id.split(":")[1] for c in _read(parts=60, defects=share)]
    assert set(truths) <= {"good", *DEFECTS}
    assert least <= sum(truth != "good" for truth in truths) <= most


def test_a_defect_changes_the_picture() -> None:
    good, bad = _read(parts=4, defects=0), _read(parts=4, defects=1)
    assert [c.part_id.startswith(f"{i:04d}:") for i, c in enumerate(bad)] == [True] * 4
    assert not any(map(np.array_equal, _pixels(good), _pixels(bad)))


def test_no_two_pictures_of_noise_are_the_same() -> None:
    found = _read(parts=40, part="noise")
    assert [c.part_id for c in found[:2]] == ["0000:noise", "0001:noise"]
    pictures = _pixels(found)
    assert len({picture.tobytes() for picture in pictures}) == 40
    assert np.array_equal(pictures[0][1:], pictures[8][1:]), "they are made once, and numbered"
