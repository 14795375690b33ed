"""Training with each method on pretrained features, gray parts and colour texture: verdicts, bundles, and options."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calib import memory
from calib.options import TrainOptions
from calib.schedule import single_threaded
from calib.train import TrainResult, train
from line_worker.bundle import Bundle, verify_golden
from line_worker.errors import BundleError, ConfigError, DatasetError
from line_worker.images import read_image, save_png
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision.inspection import Inspection

BRACKET: dict[str, Any] = {"size": (120, 160), "pose": "translate"}
WEAVE: dict[str, Any] = {"size": (96, 128), "kind": "weave", "pose": "none", "colour": True}
POSED = {"locate": "background", "pose": "translate"}
FULL = {"locate": "full", "pose": "none"}


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


def drawn(looks: dict[str, Any], count: int, seed: int, defect: str = "") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw_part(rng, defect=defect, **looks).image for _ in range(count)]


def written(folder: Path, images: list[np.ndarray]) -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        save_png(folder / f"{number:02d}.png", image)
    return folder


def labels(folder: Path) -> Path:
    """Return a label image whose left half is 1."""
    image = np.zeros((40, 60), np.uint8)
    image[:, :30] = 1
    save_png(folder / "labels.png", image)
    return folder / "labels.png"


def quick(good: Path, out: Path, **options: Any) -> TrainResult:
    return train(TrainOptions(good, out, **{"repeats": 0, **options}))


def placed(good: Path, out: Path, **options: Any) -> TrainResult:
    """Train with a memory for each place: with twenty small parts it is a close call, and hybrid is to be seen here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "PLACED", 2.0)
        return quick(good, out, **options)


@pytest.fixture(scope="module")
def gray(tmp_path_factory) -> Path:
    """Return 21 good brackets and, last, one that is not."""
    folder = tmp_path_factory.mktemp("gray")
    return written(folder / "good", [*drawn(BRACKET, 21, 5), *drawn(BRACKET, 1, 6, "missing")])


@pytest.fixture(scope="module")
def trained(gray, tmp_path_factory) -> dict[str, TrainResult]:
    """Return what each method learned, with options that the tests ask about."""
    folder = tmp_path_factory.mktemp("deep")
    bad = written(folder / "bad", drawn(BRACKET, 2, 7, "missing"))
    (bad / "cut.png").write_bytes((bad / "00.png").read_bytes()[:400])
    woven = written(folder / "woven", drawn(WEAVE, 20, 8))
    (folder / "exclude.txt").write_text("21.png  # lacks a boss\n")
    posed = {"exclude": folder / "exclude.txt", **POSED}
    return {
        "memory": quick(woven, folder / "memory", reconstruct="memory", **FULL),
        "feature": quick(gray, folder / "feature", reconstruct="feature", bad=bad, repeats=1, **posed),
        "hybrid": placed(gray, folder / "hybrid", **posed, zones=labels(folder), zone=("1=ignore",)),
    }


LOOKS = {"memory": WEAVE, "feature": BRACKET, "hybrid": BRACKET}
METHODS = tuple(LOOKS)


@pytest.mark.parametrize("method", METHODS)
def test_golden_images_reproduce(trained, method):
    bundle = Bundle.load(trained[method].bundle.path)
    verify_golden(bundle, Inspection.from_bundle(bundle))
    assert len(bundle.manifest["golden"]) >= 5
    assert bundle.manifest["reconstruct"]["method"] == bundle.settings["reconstruct"] == method


@pytest.mark.parametrize("method", METHODS)
def test_the_bundle_gives_the_very_scores_of_training(trained, method):
    """What judges on the line is what was calibrated, to the last bit: nothing is rounded on the way to the file."""
    manifest = trained[method].bundle.manifest
    inspection = Inspection.from_bundle(Bundle.load(trained[method].bundle.path))
    for golden in manifest["golden"]:
        image = read_image(trained[method].bundle.path / golden["file"])
        assert inspection.inspect([image])[0].score == golden["score"]


@pytest.mark.parametrize(("method", "least"), [("memory", 4), ("feature", 4), ("hybrid", 1)])
def test_good_parts_pass_and_mutilated_ones_fail(trained, method, least):
    inspection = Inspection.from_bundle(trained[method].bundle)
    passed = inspection.inspect(drawn(LOOKS[method], 8, 11))
    failed = [one for one in inspection.inspect(drawn(LOOKS[method], 4, 12, "deformation")) if one.boxes]
    assert sum(one.reason is Reason.NONE for one in passed) >= 6
    assert len(failed) >= least  # hybrid was told to ignore one half of the part
    assert all(one.reason is Reason.ANOMALY and one.p_value < 0.05 for one in failed)


SCRIPT = """
import json, sys
import torch
torch.set_num_threads(1)
import numpy as np
from line_worker.bundle import Bundle
from line_worker.vision.inspection import Inspection
images = np.load(sys.argv[1])
for path in sys.argv[2:]:
    bundle = Bundle.load(path)
    judged = Inspection.from_bundle(bundle).inspect(list(images[bundle.settings["reconstruct"]]))
    print(json.dumps([[one.reason.name, one.score and one.score.hex()] for one in judged]))
"""


def test_a_new_process_gives_the_same_bits(trained, tmp_path):
    images = {method: np.stack(drawn(LOOKS[method], 3, 13)) for method in METHODS}
    np.savez(tmp_path / "images.npz", **images)
    paths = [str(trained[method].bundle.path) for method in METHODS]
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "images.npz"), *paths]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    for method, line in zip(METHODS, lines, strict=True):
        here = Inspection.from_bundle(trained[method].bundle).inspect(list(images[method]))
        assert json.loads(line) == [[one.reason.name, one.score and one.score.hex()] for one in here]


def test_colour_is_judged_in_colour(trained):
    inspection = Inspection.from_bundle(trained["memory"].bundle)
    good = drawn(WEAVE, 1, 14)[0]
    stained = good.copy()
    stained[40:64, 40:72] = stained[40:64, 40:72].mean(2, keepdims=True)  # the same weave, gray
    before, after = inspection.inspect([good, stained])
    assert before.reason is Reason.NONE
    assert after.reason is Reason.ANOMALY
    box = after.boxes[0]
    assert 40 - 16 <= box.x + box.w / 2 <= 72 + 16


# options


def test_images_that_are_excluded_are_not_learned_from(trained):
    assert trained["feature"].images == 21
    assert "21.png" not in trained["feature"].bundle.manifest["calibration"]["scores"]


def test_bad_parts_are_reported_and_leave_the_limit_alone(trained):
    calibration = trained["feature"].bundle.manifest["calibration"]
    reported = calibration["bad"]
    assert sorted(reported) == ["00.png", "01.png", "cut.png"]
    assert reported["cut.png"] == [None, "DECODE"]
    assert reported["00.png"][1] == "ANOMALY"
    assert reported["00.png"][0] > trained["feature"].bundle.threshold
    assert trained["feature"].bundle.threshold == max(calibration["scores"].values())
    assert trained["hybrid"].bundle.manifest["calibration"]["bad"] is None


def test_painted_defects_are_counted(trained):
    assert trained["feature"].power is not None
    assert trained["feature"].bundle.manifest["calibration"]["power"]
    assert trained["hybrid"].power is None


def test_an_ignored_zone_is_not_judged(trained):
    mask = trained["hybrid"].bundle.arrays["standard.zones.mask"]
    middle = mask.shape[1] // 2
    assert not mask[:, :middle].any()
    assert mask[:, middle:].any()
    assert trained["feature"].bundle.arrays["standard.zones.mask"][:, :middle].any()
    inspection = Inspection.from_bundle(trained["hybrid"].bundle)
    rectifier = inspection.rectifier
    image = drawn(BRACKET, 1, 15)[0]
    part = np.argwhere(rectifier.template_mask)
    for col, expected in ((middle // 2, Reason.NONE), (middle + middle // 2, Reason.ANOMALY)):
        rows = part[part[:, 1] == 8 * col][:, 0]
        x, y = rectifier.rectify(image).matrix @ [8 * col, rows.mean(), 1]
        spoiled = image.copy()
        spoiled[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4] = 255
        assert inspection.inspect([spoiled])[0].reason is expected


def test_the_manifest_names_no_path(trained):
    for result in trained.values():
        assert str(result.bundle.path.parent) not in json.dumps(result.bundle.manifest)


def never(stage: str, share: float) -> None:
    raise AssertionError(f"work began: {stage}")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"exclude": "none.txt"}, ConfigError, "there is no such file or folder"),
        ({"zone": ("1=ignore",)}, ConfigError, "no label image was given"),
        ({"backbone": "none.safetensors"}, ConfigError, "there is no such file or folder"),
    ],
)
def test_options_that_cannot_be_met_are_refused_before_any_work(gray, tmp_path, options, error, words):
    given = {name: tmp_path / value if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(error, match=words):
        train(TrainOptions(gray, tmp_path / "b", **given), never)


def test_a_name_to_exclude_that_nothing_bears_is_said(gray, tmp_path):
    (tmp_path / "exclude.txt").write_text("99.png\n")
    with pytest.raises(DatasetError, match=r"99\.png"):
        train(TrainOptions(gray, tmp_path / "b", exclude=tmp_path / "exclude.txt"))


# damage


def damaged(bundle: Bundle, name: str) -> Bundle:
    array = bundle.arrays[name].copy()
    array.flat[array.size // 2] = np.nan
    return replace(bundle, arrays={**bundle.arrays, name: array})


def test_nan_in_any_array_is_a_bundle_error(trained):
    bundle = trained["hybrid"].bundle
    floats = [name for name, array in bundle.arrays.items() if array.dtype.kind == "f" and array.size]
    stages = {name.rsplit(".", 1)[0]: name for name in floats}  # one array of each module is enough
    assert {"rectify", "standard.zones", "reconstruct.memory", "reconstruct.features"} < set(stages)
    for name in stages.values():
        with pytest.raises(BundleError, match="is not finite"):
            Inspection.from_bundle(damaged(bundle, name))


@pytest.mark.parametrize(
    "name", ["reconstruct.features.mean", "reconstruct.memory.bank", "standard.zones.mu", "rectify.mean"]
)
def test_a_bundle_that_lacks_an_array_is_a_bundle_error(trained, name):
    bundle = trained["hybrid"].bundle
    arrays = {key: array for key, array in bundle.arrays.items() if key != name}
    with pytest.raises(BundleError, match="do not fit together"):
        Inspection.from_bundle(replace(bundle, arrays=arrays))


def test_training_again_gives_the_same_bundle_whatever_the_threads(gray, trained, tmp_path):
    first = trained["hybrid"].bundle
    (tmp_path / "exclude.txt").write_text("21.png\n")
    again = placed(
        gray,
        tmp_path / "b",
        exclude=tmp_path / "exclude.txt",
        zones=labels(tmp_path),
        zone=("1=ignore",),
        threads=1,
        **POSED,
    ).bundle
    assert again.manifest["calibration"]["scores"] == first.manifest["calibration"]["scores"]
    assert again.arrays.keys() == first.arrays.keys()
    assert all(np.array_equal(again.arrays[name], first.arrays[name]) for name in first.arrays)


@pytest.mark.parametrize("attention", [True, False])
def test_the_network_goes_from_images_to_a_verdict(attention, gray, tmp_path):
    result = quick(gray, tmp_path / "b", reconstruct="network", attention=attention, steps=10, **POSED)
    assert result.steps == 10
    assert not result.cut
    bundle = Bundle.load(tmp_path / "b")
    branch = bundle.manifest["reconstruct"]["branches"]["network"]
    assert branch["attention"] is attention
    assert bundle.manifest["calibration"]["folds"] == 5
    assert any(".blocks." in name for name in bundle.arrays if name.startswith("reconstruct.network")) is attention
    inspection = Inspection.from_bundle(bundle)
    verify_golden(bundle, inspection)
    inspected = inspection.inspect(drawn(BRACKET, 2, 9))
    assert all(one.score is not None and np.isfinite(one.score) for one in inspected)
    assert inspection.inspect([np.zeros(BRACKET["size"], np.uint8)])[0].reason is not Reason.NONE
