"""Training on drawn parts: the same seed gives the same bundle, time is bounded, nothing is left half-written."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
import torch

from calib import autoencoder, calibration
from calib.train import TrainOptions, train
from line_worker.bundle import Bundle, verify_golden
from line_worker.errors import BundleError, ConfigError, DatasetError
from line_worker.images import save_png
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision.inspection import Inspection

SMALL = 1 << 14


def drawn(folder, count=20, **looks):
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(count):
        save_png(folder / f"{number:02d}.png", draw_part(rng, size=(160, 224), **looks).image)
    return folder


def quick(good, out, **options) -> TrainOptions:
    return TrainOptions(good, out, **{"steps": 2, "pixels": SMALL, **options})


def test_the_manifest_tells_how_it_was_made(tiny_bundle):
    manifest = Bundle.load(tiny_bundle).manifest
    assert manifest["settings"]["pose"] == "rigid"
    assert manifest["input"] == {"shape": [240, 320], "dtype": "uint8"}
    made = manifest["calibration"]
    assert (made["folds"], made["steps"], made["cut"]) == (5, 8, False)
    scores = list(made["scores"].values())
    assert len(scores) == 24
    assert made["limit"]["threshold"] == manifest["threshold"] == pytest.approx(sorted(scores)[23])
    assert len({file["file"] for file in manifest["golden"]}) >= 5
    assert "00.png" in made["scores"]


def test_same_seed_same_scores_whatever_the_threads(tmp_path):
    good = drawn(tmp_path / "good")
    one, two = (train(quick(good, tmp_path / str(n), threads=n)).bundle for n in (1, 2))
    assert one.manifest["calibration"]["scores"] == two.manifest["calibration"]["scores"]
    assert one.manifest["golden"] == two.manifest["golden"]
    assert all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)


@pytest.mark.parametrize(
    ("looks", "options"),
    [
        ({"kind": "weave", "pose": "none", "colour": True}, {"locate": "full", "pose": "none", "rule": "deviation"}),
        ({"pose": "translate", "bits": 16}, {"pose": "translate", "rule": "classic"}),
    ],
)
def test_other_parts_and_other_ways(tmp_path, looks, options):
    stages: list[str] = []
    good = drawn(tmp_path / "good", **looks)
    result = train(quick(good, tmp_path / "b", **options), lambda stage, share: stages.append(stage))
    assert list(dict.fromkeys(stages)) == [
        "read images", "learn the pose", "straighten", "train", "find the limit", "report",
    ]  # fmt: skip
    inspection = Inspection.from_bundle(result.bundle)
    verify_golden(result.bundle, inspection)
    black = np.zeros_like(draw_part(np.random.default_rng(0), size=(160, 224), **looks).image)
    assert inspection.inspect([black])[0].reason is not Reason.NONE
    assert result.images == 20
    assert result.seconds > 0


def test_an_interrupt_leaves_nothing(tmp_path):
    good = drawn(tmp_path / "good")

    def interrupt(stage: str, share: float) -> None:
        if stage == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(quick(good, tmp_path / "b"), interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["good"]


def never(stage: str, share: float) -> None:
    raise AssertionError(f"work began: {stage}")


def test_all_wrong_options_are_named_before_any_work(tmp_path):
    wrong = TrainOptions(tmp_path, tmp_path / "b", pose="sideways", false_reject=2.0, minutes=0.0, threads=0)
    with pytest.raises(ConfigError) as caught:
        train(wrong, never)
    assert len(caught.value.problems) == 4
    assert "pose 'sideways' is not one of none, translate, rigid" in str(caught.value)


def test_a_place_that_is_taken_is_refused_before_any_work(tmp_path):
    good = drawn(tmp_path / "good")
    with pytest.raises(BundleError, match="is not a bundle"):
        train(quick(good, good), never)


def test_no_images_is_refused_before_any_work(tmp_path):
    with pytest.raises(DatasetError, match="holds no image"):
        train(quick(tmp_path, tmp_path / "b"), never)


def test_images_without_a_part_are_a_dataset_error(tmp_path):
    (tmp_path / "good").mkdir()
    for number in range(20):
        save_png(tmp_path / "good" / f"{number:02d}.png", np.full((160, 224), 180 + number % 3, np.uint8))
    with pytest.raises(DatasetError, match="full"):
        train(quick(tmp_path / "good", tmp_path / "b"))


# the autoencoder


def pictures(count: int = 12) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    rows = torch.linspace(0.2, 0.8, 128)[:, None].expand(128, 128)
    return (rows + 0.02 * torch.randn(count, 1, 128, 128, generator=generator)).clamp(0, 1)


def test_training_lowers_the_error():
    images, visible = pictures(), torch.ones(1, 1, 128, 128)
    everything = torch.arange(len(images))
    before, after = (
        autoencoder.train_together(images, visible, [everything], steps, seed=0).nets[0] for steps in (1, 30)
    )
    with torch.inference_mode():
        errors = [(net(images) - images).square().mean() for net in (before, after)]
    assert errors[1] < 0.5 * errors[0]


def test_a_deadline_cuts_all_models_alike(monkeypatch):
    monkeypatch.setattr(autoencoder, "STEPS_MIN", 5)
    images, visible = pictures(), torch.ones(1, 1, 128, 128)
    fits = [torch.arange(8), torch.arange(4, 12)]
    trained = autoencoder.train_together(images, visible, fits, 500, seed=0, deadline=time.monotonic() + 1.0)
    assert trained.cut
    assert 5 <= trained.steps < 500
    assert len(trained.nets) == 2


def test_the_plan_follows_from_the_time_not_from_the_clock():
    assert autoencoder.plan(336, 6, 2) == autoencoder.plan(336, 6, 2)
    assert autoencoder.plan(336, 6, 2).pixels == autoencoder.PIXELS
    assert autoencoder.plan(42, 6, 2).pixels < autoencoder.PIXELS
    assert autoencoder.plan(0.1, 6, 2).steps == autoencoder.STEPS_MIN
    assert autoencoder.plan(1e6, 6, 2).steps == autoencoder.STEPS_MAX
    assert autoencoder.plan(300, 6, 1).pixels < autoencoder.plan(300, 6, 2).pixels  # one thread does half as much


def test_the_rate_warms_up_and_falls():
    rates = [autoencoder.learning_rate(step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(autoencoder.RATE, rel=0.02)
    assert rates[0] < 0.3 * autoencoder.RATE
    assert rates[-1] < 0.02 * autoencoder.RATE


# cross-fitting


def test_every_image_is_in_one_fold_and_no_model_sees_its_own():
    folds = calibration.split(23, seed=4)
    assert sorted(torch.cat(folds).tolist()) == list(range(23))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for fold in folds:
        assert not set(fold.tolist()) & set(calibration.rest(fold, 23).tolist())
        assert len(calibration.rest(fold, 23)) == 23 - len(fold)


class Stage:
    """A model that errs by each image's own value and by a level of its own."""

    def __init__(self, level: float) -> None:
        self.level = level

    def errors(self, prepared: torch.Tensor) -> torch.Tensor:
        return (prepared[:, :, :4, :5] + self.level).expand(-1, 2, -1, -1)


def test_a_models_own_level_does_not_count():
    images = torch.rand(20, 1, 4, 5, generator=torch.Generator().manual_seed(1))
    folds = calibration.split(20, seed=0)
    uneven = [Stage(level) for level in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)]
    found = calibration.out_of_fold(uneven, folds, images, threads=2)
    levels = [images[calibration.rest(fold, 20)].mean(0) for fold in folds]
    for fold, level in zip(folds, levels, strict=True):
        expected = images[fold] - level + images.mean(0) + 3.0  # as the last model, whose level is 3, would err
        assert torch.allclose(found[fold], expected.expand(-1, 2, -1, -1), atol=1e-5)


@pytest.mark.parametrize("rule", ["zone", "deviation", "classic"])
def test_the_limit_rejects_about_what_was_asked(rule):
    errors = (1 + 0.2 * torch.randn(100, 20, 30, generator=torch.Generator().manual_seed(2))).abs()
    mask = torch.ones(20, 30, dtype=torch.bool)
    made = calibration.calibrate(errors, mask, rule, false_reject=0.1)
    above = sum(score > made.limit.threshold for score in made.scores)
    assert above == made.limit.above
    assert above <= 10
    assert math.isfinite(made.limit.threshold)
    if rule == "classic":
        assert made.limit.threshold == 3.0
    else:
        assert above >= 8


def test_settings_survive_json(tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    assert manifest["settings"] == Bundle.load(tiny_bundle).settings
    assert str(tiny_bundle.parent) not in json.dumps(manifest)  # no path of this machine travels with it
