"""The bench of drawn objects: what it draws, what it says, what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bench import drawn
from bench.accuracy import samples
from bench.drawn import KINDS, Kind
from line_worker.errors import ConfigError
from line_worker.images import read_image
from line_worker.source.drawing import DEFECTS
from line_worker.source.drawing import KINDS as PARTS


def test_every_part_that_can_be_drawn_is_one_of_them():
    assert {kind.part for kind in KINDS} == set(PARTS)
    assert drawn.chosen("pin,weave") == [kind for kind in KINDS if kind.part in ("pin", "weave")]
    with pytest.raises(ConfigError, match="sprocket: is not drawn; there are badge"):
        drawn.chosen("pin,sprocket")


def test_a_category_is_laid_out_with_masks(tmp_path):
    category = drawn.draw(Kind("washer", colour=True), tmp_path / "c", 3, 5, np.random.default_rng(0))
    assert len(list((category / "train" / "good").iterdir())) == 3
    found = samples(category)
    assert sorted(sample.defect for sample in found) == sorted([""] * 5 + [DEFECTS[k % len(DEFECTS)] for k in range(5)])
    for sample in found:
        assert read_image(sample.path).shape == (*drawn.SIZE, 3)
        assert (sample.mask is not None) == bool(sample.defect)
        assert sample.mask is None or read_image(sample.mask).any()


@pytest.mark.long
def test_it_says_what_each_object_came_to(monkeypatch, capsys):
    monkeypatch.setattr(drawn, "SIZE", (96, 128))
    monkeypatch.setattr(drawn, "KINDS", (Kind("washer", pose="none"),))
    assert drawn.run("", 20, 5, 0, 2, as_json=True) == 0
    [row] = json.loads(capsys.readouterr().out)["kinds"]
    assert row["kind"] == "washer, gray, bright mat, in its place"
    assert 0.5 < row["image_auroc"] <= 1
    assert row["images"] == 10
    drawn._show([row])
    assert "washer," in capsys.readouterr().out
