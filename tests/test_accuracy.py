"""The accuracy bench on a drawn category in MVTec AD's layout."""

from __future__ import annotations

import json

import numpy as np
import pytest
from rich.console import Console

from bench import accuracy as module
from bench.accuracy import accuracy, samples
from bench.show_accuracy import Asked, run, show
from line_worker.bundle import Bundle
from line_worker.errors import DatasetError
from line_worker.images import save_png
from line_worker.source.drawing import draw_part

SIZE = (240, 320)


@pytest.fixture(scope="module")
def category(tmp_path_factory):
    root = tmp_path_factory.mktemp("category")
    rng = np.random.default_rng(31)
    for kind, count in {"good": 8, "missing": 4, "pit": 4}.items():
        (root / "test" / kind).mkdir(parents=True)
        (root / "ground_truth" / kind).mkdir(parents=True)
        for number in range(count):
            drawn = draw_part(rng, defect="" if kind == "good" else kind, size=SIZE)
            save_png(root / "test" / kind / f"{number:03d}.png", drawn.image)
            if kind != "good":
                mask = drawn.mask.astype(np.uint8) * 255
                save_png(root / "ground_truth" / kind / f"{number:03d}_mask.png", mask)
    return root


def test_figures_on_drawn_parts(tiny_bundle, category):
    shares: list[float] = []
    bundle = Bundle.load(tiny_bundle)
    figures = accuracy(bundle, category, progress=lambda stage, share: shares.append(share))
    json.dumps(figures, allow_nan=False)
    assert figures["image_auroc"] >= 0.95
    assert figures["auroc_heldout_good"] >= 0.95
    assert figures["false_reject_heldout"] is None
    assert figures["pixel_auroc"] > 0.8
    assert figures["au_pro"] > 0.5
    wrong = figures["false_reject"] * 8 + figures["escape"] * 8
    assert figures["accuracy"] == pytest.approx(1 - wrong / 16)
    assert (figures["images"], figures["undecided"], figures["bundle"]) == (16, 0, bundle.sha)
    assert set(figures["per_defect"]) == {"missing", "pit"}
    assert figures["per_defect"]["missing"]["images"] == 4
    assert 0 < figures["ms_per_part"] < 5000
    stages = [figures[f"ms_{stage}"] for stage in ("rectify", "reconstruct", "score", "decide")]
    assert min(stages) > 0
    assert max(stages) <= figures["ms_per_part"]
    assert shares[-1] == 1.0


def test_held_out_good_images_are_judged_apart_from_the_test_images(tiny_bundle, tmp_path):
    bundle = Bundle.load(tiny_bundle)
    rng = np.random.default_rng(33)
    for kind, defect in {"good": "", "missing": "missing", "unseen": ""}.items():
        (tmp_path / "test" / kind).mkdir(parents=True)
        save_png(tmp_path / "test" / kind / "0.png", draw_part(rng, defect=defect, size=SIZE).image)
    unseen = (tmp_path / "test" / "unseen").rename(tmp_path / "unseen")
    save_png(unseen / "1.png", np.full(SIZE, 190, np.uint8))
    plain = accuracy(bundle, tmp_path)
    figures = accuracy(bundle, tmp_path, held_out=[unseen / "0.png", unseen / "1.png"])
    assert figures["false_reject_heldout"] == 0.5  # the empty picture has no verdict, and is a reject
    assert figures["auroc_heldout_good"] == 0.5  # it outranks the bad part, the good one does not
    apart = {"false_reject_heldout", "auroc_heldout_good"} | {name for name in plain if name.startswith("ms_")}
    assert figures.keys() == plain.keys()
    assert {k: v for k, v in figures.items() if k not in apart} == {k: v for k, v in plain.items() if k not in apart}


def test_a_part_without_a_decision_is_a_reject_that_outranks_all(tiny_bundle, tmp_path):
    rng = np.random.default_rng(32)
    for kind in ("good", "empty"):
        (tmp_path / "test" / kind).mkdir(parents=True)
    save_png(tmp_path / "test" / "good" / "0.png", draw_part(rng, size=SIZE).image)
    save_png(tmp_path / "test" / "empty" / "0.png", np.full(SIZE, 190, np.uint8))
    figures = accuracy(Bundle.load(tiny_bundle), tmp_path)
    assert (figures["undecided"], figures["escape"], figures["image_auroc"]) == (1, 0.0, 1.0)
    assert (figures["pixel_auroc"], figures["au_pro"]) == (None, None)  # there is no ground truth


def test_a_folder_without_both_kinds_is_refused(category, tmp_path):
    assert len(samples(category)) == 16
    (tmp_path / "test" / "good").mkdir(parents=True)
    save_png(tmp_path / "test" / "good" / "0.png", np.zeros((8, 8), np.uint8))
    with pytest.raises(DatasetError, match="test/DEFECT"):
        samples(tmp_path)


def test_maps_lie_where_the_ground_truth_does(tiny_bundle, category):
    inspection = module.Inspection.from_bundle(Bundle.load(tiny_bundle))
    inside, outside = [], []
    for sample in samples(category):
        if sample.defect == "missing":
            judged = module._judge(inspection, sample)
            assert judged.plane.shape == judged.truth.shape == SIZE
            inside.append(judged.plane[judged.truth].mean())
            outside.append(judged.plane[~judged.truth].mean())
    assert np.mean(inside) > np.mean(outside) + 1


def test_compare_trains_both_ways(category, monkeypatch):
    trained: list[tuple[str, str, str, float]] = []

    class Result:
        bundle = "a bundle"

    def train(options, progress):
        trained.append((options.locate, options.pose, options.reconstruct, options.minutes))
        progress("train", 1.0)
        return Result()

    monkeypatch.setattr("calib.train.train", train)
    monkeypatch.setattr(module, "accuracy", lambda bundle, category, device, progress: {"image_auroc": len(trained)})
    stages: list[str] = []
    rows = module.compare(category, 1.5, 1, 0, "cpu", lambda stage, share: stages.append(stage))
    assert trained == [("background", "rigid", "classic", 1.5), ("full", "none", "classic", 1.5)]
    assert rows == {"segmented and aligned": {"image_auroc": 1}, "whole frame": {"image_auroc": 2}}
    assert stages == ["segmented and aligned: train", "whole frame: train"]


def test_the_command_judges_with_a_bundle(tiny_bundle, category, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run(Asked(category, tiny_bundle, device="cpu"), as_json=True) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["bundle"] == Bundle.load(tiny_bundle).sha
    show({"tiny": [figures]}, (), "a note", Console())
    said = capsys.readouterr().out
    for words in ("image AUROC", "tiny", "escape, missing", "escape, pit", "a note"):
        assert words in said
    assert "±" not in said
