"""Recalibration: new good parts set a new limit, the weights stay what they were, and old images are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from calib import recalibrate as subject
from calib.options import TrainOptions
from calib.recalibrate import recalibrate
from calib.schedule import single_threaded
from calib.train import TrainResult, train
from line_worker.bundle import Bundle, verify_golden
from line_worker.errors import BundleError, ConfigError, DatasetError
from line_worker.images import read_image, save_png
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision.inspection import Inspection

LOOKS: dict[str, Any] = {"size": (120, 160), "pose": "translate"}
BRIGHTER, COARSER = 1.12, 6.0  # factor on the light, gray levels of grain: parts since the lamp was changed


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


def changed(count: int, seed: int) -> list[np.ndarray]:
    """Return good parts as they look since: brighter, and with a surface that is a little coarser."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(count):
        image = draw_part(rng, **LOOKS).image.astype(np.float32) * BRIGHTER
        grain = cv2.GaussianBlur(rng.standard_normal(image.shape), (0, 0), 1.5) * 3
        images.append(np.clip(image + COARSER * grain, 0, 255).astype(np.uint8))
    return images


def written(folder: Path, images: list[np.ndarray], prefix: str = "") -> Path:
    folder.mkdir()
    for number, image in enumerate(images):
        save_png(folder / f"{prefix}{number:02d}.png", image)
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("recalibrate")


@pytest.fixture(scope="module")
def known(root) -> Path:
    rng = np.random.default_rng(1)
    return written(root / "known", [draw_part(rng, **LOOKS).image for _ in range(20)])


@pytest.fixture(scope="module")
def since(root) -> Path:
    return written(root / "since", changed(22, 2), "new")


@pytest.fixture(scope="module")
def old(root, known) -> Bundle:
    options = TrainOptions(known, root / "old", locate="background", pose="translate", false_reject=0.05, repeats=0)
    return train(options).bundle


@pytest.fixture(scope="module")
def renewed(root, old, since) -> TrainResult:
    return recalibrate(old, since, root / "new", progress=Told())


class Told:
    """Remembers the stages that it was told of."""

    stages: list[str] = []  # noqa: RUF012  # of the one recalibration that the tests share

    def __call__(self, stage: str, share: float) -> None:
        if stage not in self.stages:
            self.stages.append(stage)


def weights(bundle: Bundle) -> dict[str, np.ndarray]:
    return {name: array for name, array in bundle.arrays.items() if not name.startswith("standard.")}


def passed(bundle: Bundle, images: list[np.ndarray]) -> int:
    return sum(one.reason is Reason.NONE for one in Inspection.from_bundle(bundle).inspect(images))


def test_parts_that_look_different_since_pass_again(old, renewed):
    assert passed(old, changed(12, 3)) <= 4
    assert passed(renewed.bundle, changed(12, 3)) >= 10


def test_the_weights_are_the_same_bit_for_bit(old, renewed):
    before, after = weights(old), weights(renewed.bundle)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)
    assert old.manifest["rectify"] == renewed.bundle.manifest["rectify"]
    assert old.manifest["reconstruct"] == renewed.bundle.manifest["reconstruct"]


def test_statistics_and_limit_are_new(old, renewed):
    new = renewed.bundle
    assert not np.array_equal(old.arrays["standard.zones.mu"], new.arrays["standard.zones.mu"])
    assert old.threshold != new.threshold
    assert set(new.manifest["calibration"]["scores"]) == {f"new{number:02d}.png" for number in range(22)}
    assert new.manifest["standard"]["commissioned"]["exposure"] != old.manifest["standard"]["commissioned"]["exposure"]
    assert renewed.limit.images == 22
    assert new.settings == old.settings


def test_golden_images_are_new_and_reproduce(renewed, since):
    bundle = Bundle.load(renewed.bundle.path)
    verify_golden(bundle, Inspection.from_bundle(bundle))
    names = {golden["file"].rpartition("_")[2] for golden in bundle.manifest["golden"]}
    assert len(names) >= 5
    assert all((since / name).is_file() for name in names)
    file = bundle.manifest["golden"][0]["file"]
    assert np.array_equal(read_image(bundle.path / file), read_image(since / file.rpartition("_")[2]))


def test_the_report_and_the_manifest_say_where_it_comes_from(old, renewed):
    notes = renewed.bundle.manifest["calibration"]["notes"]
    assert any("Recalibrated on 22 images" in note and old.sha[:12] in note for note in notes)
    assert (renewed.bundle.path / "report.html").read_text().count("Recalibrated on 22 images") == 1
    assert str(renewed.bundle.path.parent) not in json.dumps(renewed.bundle.manifest)


def test_every_stage_is_told(renewed):
    assert [stage for stage in Told.stages if stage in ("read images", "straighten", "judge", "find the limit")] == [
        "read images", "straighten", "judge", "find the limit",
    ]  # fmt: skip


def test_a_recalibrated_bundle_can_be_recalibrated(renewed, root):
    again = recalibrate(renewed.bundle, written(root / "later", changed(20, 5), "later"), root / "again").bundle
    assert all(np.array_equal(a, weights(again)[name]) for name, a in weights(renewed.bundle).items())


def test_another_false_reject_may_be_asked_for(old, since, root, renewed):
    lenient = recalibrate(old, since, root / "lenient", false_reject=0.3).bundle
    assert lenient.threshold < renewed.bundle.threshold
    assert lenient.settings["false_reject"] == 0.3
    assert old.settings["false_reject"] == 0.05


# refused


def test_images_that_it_learned_from_are_refused(old, known, root):
    with pytest.raises(DatasetError, match="every image bears the name of one that the bundle learned from"):
        recalibrate(old, known, root / "refused")
    assert not (root / "refused").exists()


def test_some_known_names_are_said(old, known, tmp_path):
    mixed = written(tmp_path / "mixed", changed(20, 4), "new")
    for name in ("00.png", "01.png"):
        (mixed / name).write_bytes((known / name).read_bytes())
    notes = recalibrate(old, mixed, tmp_path / "b").notes
    assert any(note.startswith("2 of them bear names that it had learned from") for note in notes)


def test_images_of_another_size_are_refused(old, tmp_path):
    other = [cv2.resize(image, (100, 80)) for image in changed(20, 6)]
    with pytest.raises(DatasetError, match="SHAPE"):
        recalibrate(old, written(tmp_path / "other", other, "new"), tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_too_few_images_are_refused(old, tmp_path):
    with pytest.raises(DatasetError, match="20"):
        recalibrate(old, written(tmp_path / "few", changed(5, 7), "new"), tmp_path / "b")


def test_a_place_that_is_taken_is_refused_before_any_work(old, since, monkeypatch):
    monkeypatch.setattr(subject.dataset, "load", None)
    with pytest.raises(BundleError, match="is not a bundle"):
        recalibrate(old, since, since)


def test_a_share_that_is_none_is_refused_before_any_work(old, since, tmp_path, monkeypatch):
    monkeypatch.setattr(subject.dataset, "load", None)
    with pytest.raises(ConfigError, match="false_reject"):
        recalibrate(old, since, tmp_path / "b", false_reject=1.5)


def test_the_users_zones_are_kept(known, since, tmp_path):
    image = np.zeros((64, 64), np.uint8)
    image[:, :20], image[:, 44:] = 1, 2
    save_png(tmp_path / "labels.png", image)
    options = TrainOptions(
        known, tmp_path / "zoned", locate="background", pose="translate", reconstruct="memory", false_reject=0.05,
        repeats=0, zones=tmp_path / "labels.png", zone=("1=ignore", "2=0.2"),
    )  # fmt: skip
    zoned = train(options).bundle
    again = recalibrate(zoned, since, tmp_path / "again").bundle
    for one in (zoned, again):
        assert one.manifest["calibration"]["targets"] == [0.2]
        assert set(np.unique(one.arrays["drawn.zone"])) == {0, 1, 2}
    assert np.array_equal(zoned.arrays["standard.zones.mask"], again.arrays["standard.zones.mask"])
    assert not again.arrays["standard.zones.mask"][again.arrays["drawn.zone"] == 1].any()
    assert (again.arrays["standard.zones.weight"] != 1).any()
