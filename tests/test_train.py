"""Training on drawn parts: the same seed gives the same bundle, time is bounded, nothing is left half-written."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from calib import autoencoder, calibration, classic, fitting, schedule
from calib.fitting import Fitted
from calib.options import TrainOptions
from calib.train import TrainResult, train
from calib.zoning import Drawn
from line_worker.bundle import Bundle, verify_golden
from line_worker.errors import BundleError, ConfigError, DatasetError
from line_worker.images import read_image, save_png
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision.inspection import Inspection
from line_worker.vision.score import RULES

SMALL = 1 << 14


def drawn(folder, count=20, **looks):
    folder.mkdir()
    rng = np.random.default_rng(5)
    for number in range(count):
        save_png(folder / f"{number:02d}.png", draw_part(rng, size=(160, 224), **looks).image)
    return folder


def quick(good, out, **options) -> TrainOptions:
    plain = {"locate": "background", "pose": "rigid", "reconstruct": "classic"}
    return TrainOptions(good, out, **{**plain, "steps": 2, "pixels": SMALL, "repeats": 0, **options})


@pytest.fixture(scope="module")
def once(tmp_path_factory) -> tuple[Path, TrainResult]:
    """Return a folder of good parts and what was learned from it on one thread; read it, never change it."""
    folder = tmp_path_factory.mktemp("once")
    good = drawn(folder / "good")
    return good, train(quick(good, folder / "b", threads=1))


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


def alike(one: Bundle, two: Bundle) -> bool:
    """Return whether both judge every part alike, to the last bit."""
    ours, theirs = one.manifest, two.manifest
    assert ours["calibration"]["scores"] == theirs["calibration"]["scores"]
    assert ours["golden"] == theirs["golden"]
    assert (ours["threshold"], ours["standard"]) == (theirs["threshold"], theirs["standard"])
    assert one.arrays.keys() == two.arrays.keys()
    return all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)


@pytest.mark.long
def test_same_seed_same_scores_whatever_the_threads(once, tmp_path):
    good, result = once
    assert alike(result.bundle, train(quick(good, tmp_path / "b", threads=2)).bundle)


def test_painted_defects_and_bad_parts_are_reported_and_not_learned_from(once, tmp_path):
    good, plain = once
    bad = tmp_path / "bad" / "deeper"
    bad.mkdir(parents=True)
    save_png(bad / "missing.png", draw_part(np.random.default_rng(6), defect="missing", size=(160, 224)).image)
    save_png(bad / "empty.png", np.full((160, 224), 190, np.uint8))
    (bad / "cut.png").write_bytes(b"no picture")
    stages: list[str] = []
    asked = quick(good, tmp_path / "b", repeats=1, bad=tmp_path / "bad")
    result = train(asked, lambda stage, share: stages.append(stage))
    assert list(dict.fromkeys(stages))[-4:] == ["find the limit", "paint defects", "judge bad parts", "report"]
    assert alike(plain.bundle, result.bundle)
    made = result.bundle.manifest["calibration"]
    judged = Inspection.from_bundle(result.bundle).inspect([read_image(bad / "missing.png")])[0]
    assert made["bad"] == {
        "deeper/missing.png": [judged.score, judged.reason.name],
        "deeper/empty.png": [None, "NO_OBJECT"],
        "deeper/cut.png": [None, "DECODE"],
    }
    assert made["power"] == result.power.as_json()
    assert {row.kind for row in result.power.rows if row.tried} >= {"scratch", "missing"}
    assert result.power.good == 4  # the fifth of the images that the judging model had not seen
    assert plain.power is None
    assert plain.bundle.manifest["calibration"]["power"] is None
    assert plain.bundle.manifest["calibration"]["bad"] is None


def test_what_was_chosen_and_why_is_told(once):
    _, result = once
    assert result.notes[1:] == ("pose rigid, as asked.",)
    assert "20 of 20 good images show one separate part" in result.notes[0]
    assert list(result.notes) == result.bundle.manifest["calibration"]["notes"]


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
    wrong = TrainOptions(
        tmp_path,
        tmp_path / "b",
        pose="sideways",
        reconstruct="magic",
        false_reject=2.0,
        minutes=0.0,
        threads=0,
        repeats=-1,
        exclude=tmp_path / "gone.txt",
        zone=("1=ignore",),
    )
    with pytest.raises(ConfigError) as caught:
        train(wrong, never)
    assert len(caught.value.problems) == 8
    said = str(caught.value)
    assert "pose 'sideways' is not one of auto, none, translate, rigid" in said
    assert "reconstruct 'magic' is not one of auto, classic, memory, feature, hybrid" in said  # and newer ones
    assert "gone.txt: there is no such file or folder" in said
    assert "no label image was given" in said


@pytest.mark.parametrize("rule", ["1", "1=2", "x=ignore", "1=0", "=0.1"])
def test_what_a_zone_means_is_checked_before_any_work(tmp_path, rule):
    save_png(tmp_path / "zones.png", np.ones((8, 8), np.uint8))
    with pytest.raises(ConfigError, match="give LABEL=ignore or LABEL=SHARE"):
        train(quick(tmp_path, tmp_path / "b", zones=tmp_path / "zones.png", zone=(rule,)), never)


def test_a_label_that_is_not_drawn_is_said_before_any_work(tmp_path):
    save_png(tmp_path / "zones.png", np.ones((8, 8), np.uint8))
    with pytest.raises(ConfigError, match="no pixel of label 2"):
        train(quick(tmp_path, tmp_path / "b", zones=tmp_path / "zones.png", zone=("1=0.01", "2=ignore")), never)


def test_a_bad_folder_without_an_image_is_said_before_any_work(tmp_path):
    (tmp_path / "bad").mkdir()
    with pytest.raises(DatasetError, match="no image of a bad part"):
        train(quick(tmp_path, tmp_path / "b", bad=tmp_path / "bad"), never)


def test_a_name_to_exclude_that_nothing_bears_is_said_before_any_work(tmp_path):
    good = drawn(tmp_path / "good")
    (tmp_path / "exclude.txt").write_text("03.png\n99.png\n")
    with pytest.raises(DatasetError, match=r"not among the good images \(99.png\)"):
        train(quick(good, tmp_path / "b", exclude=tmp_path / "exclude.txt"), never)


def test_a_place_that_is_taken_is_refused_before_any_work(tmp_path):
    good = drawn(tmp_path / "good")
    with pytest.raises(BundleError, match="is not a bundle"):
        train(quick(good, good), never)


def test_a_place_where_nothing_can_be_written_is_refused_before_any_work(tmp_path):
    good, file = drawn(tmp_path / "good"), tmp_path / "FILE"
    file.write_text("")
    for out in (file / "b", file / "new" / "b"):
        with pytest.raises(BundleError, match=f"{out}: cannot be written, because {file} is no folder"):
            train(quick(good, out), never)


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
    monkeypatch.setattr(schedule, "STEPS_MIN", 5)
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
    assert autoencoder.plan(0.1, 6, 2).steps == schedule.STEPS_MIN
    assert autoencoder.plan(1e6, 6, 2).steps == autoencoder.STEPS_MAX
    assert autoencoder.plan(300, 6, 1).pixels < autoencoder.plan(300, 6, 2).pixels  # one thread does half as much


def test_the_rate_warms_up_and_falls():
    rates = [schedule.learning_rate(step, 100, autoencoder.WARM_UP) for step in range(100)]
    assert max(rates) == pytest.approx(schedule.RATE, rel=0.02)
    assert rates[0] < 0.3 * schedule.RATE
    assert rates[-1] < 0.02 * schedule.RATE


# cross-fitting


def test_every_image_is_in_one_fold_and_no_model_sees_its_own():
    folds = fitting.split(23, seed=4)
    assert sorted(torch.cat(folds).tolist()) == list(range(23))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for fold in folds:
        assert not set(fold.tolist()) & set(fitting.rest(fold, 23).tolist())
        assert len(fitting.rest(fold, 23)) == 23 - len(fold)


class Stage:
    """A model that errs by each image's own value and by a level of its own."""

    def __init__(self, level: float) -> None:
        self.level = level

    def errors(self, prepared: torch.Tensor) -> torch.Tensor:
        return (prepared[:, :, :4, :5] + self.level).expand(-1, 2, -1, -1)


def test_a_models_own_level_does_not_count():
    images = torch.rand(20, 1, 4, 5, generator=torch.Generator().manual_seed(1))
    folds = fitting.split(20, seed=0)
    fits = [*(fitting.rest(fold, 20) for fold in folds), torch.arange(20)]
    uneven = [Stage(level) for level in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)]
    found = classic._out_of_fold(uneven, fits, folds, images, threads=2)
    levels = [images[fit].mean(0) for fit in fits[:-1]]
    for fold, level in zip(folds, levels, strict=True):
        expected = images[fold] - level + images.mean(0) + 3.0  # as the last model, whose level is 3, would err
        assert torch.allclose(found[fold], expected.expand(-1, 2, -1, -1), atol=1e-5)


def test_no_error_falls_below_0():
    folds = [torch.tensor([1]), torch.tensor([0])]
    held_out = [torch.tensor([[0.25, 3.0]]), torch.tensor([[1.0, 1.0]])]
    levels = [torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.5, 0.25])]  # the last: the final one
    assert fitting.levelled(held_out, levels, folds).tolist() == [[1.0, 0.75], [0.0, 2.25]]


# the limit


class Final:
    """A fitted model of which only the object's cells are asked."""

    def __init__(self, mask: torch.Tensor) -> None:
        self.mask = mask


def fitted(maps: int = 1, flat: tuple[bool, ...] = (False,)) -> Fitted:
    errors = (1 + 0.2 * torch.randn(100, maps, 20, 30, generator=torch.Generator().manual_seed(2))).abs()
    final = Final(torch.ones(20, 30, dtype=torch.bool))
    return Fitted(final, final, torch.arange(20), errors, flat, 2, False, ())


def pictures_of(made: Fitted) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.random((40, 60), np.float32) for _ in range(len(made.errors))]


@pytest.mark.parametrize("maps", [1, 2])
@pytest.mark.parametrize("rule", RULES)
def test_the_limit_rejects_about_what_was_asked(rule, maps):
    given = fitted(maps, (False, True)[:maps])
    made = calibration.calibrate(given, pictures_of(given), rule, false_reject=0.1)
    assert made.decisions.shape == (100, 20, 30)
    assert made.scores == pytest.approx(made.decisions.flatten(1).amax(1).tolist())
    above = sum(score > made.limit.threshold for score in made.scores)
    assert above == made.limit.above
    assert math.isfinite(made.limit.threshold)
    assert (made.adaptive is not None) == (rule == "adaptive")
    if rule == "classic":
        assert made.limit.threshold == 3.0
        assert above <= 10 * maps
    else:
        assert 8 <= above <= 10


def test_an_ignored_zone_has_no_say_in_the_limit():
    given = fitted()
    odd = given.errors.clone()
    odd[::2, :, 4:8, 5:10] += 50
    ignored = torch.zeros(20, 30, dtype=torch.bool)
    ignored[4:8, 5:10] = True
    clean, spoiled = (
        calibration.calibrate(given._replace(errors=errors), [], "zone", 0.1, Drawn(ignored, ()))
        for errors in (given.errors, odd)
    )
    assert not clean.zones.mask[ignored].any()
    assert clean.zones.mask[~ignored].all()
    assert spoiled.scores == clean.scores
    assert spoiled.limit == clean.limit
    assert calibration.calibrate(given._replace(errors=odd), [], "zone", 0.1).scores != clean.scores


def test_settings_survive_json(tiny_bundle):
    manifest = json.loads((tiny_bundle / "manifest.json").read_text())
    assert manifest["settings"] == Bundle.load(tiny_bundle).settings
    assert str(tiny_bundle.parent) not in json.dumps(manifest)  # no path of this machine travels with it
