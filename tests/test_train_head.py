"""`train --locate head` goes from images to a verdict: as good as the background, and from the user's masks."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from bench.metrics import auroc
from calib import head as training
from calib.options import TrainOptions
from calib.recalibrate import recalibrate
from calib.train import TrainResult, train
from line_worker.bundle import Bundle, verify_golden
from line_worker.errors import DatasetError
from line_worker.images import read_image, save_png
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision.inspection import Inspection
from line_worker.vision.locate import locate

SIZE = (144, 224)


@pytest.fixture(autouse=True, scope="module")
def _briefly():
    patch = pytest.MonkeyPatch()
    patch.setattr(training, "STEPS", 60)
    yield
    patch.undo()


def draw(seed: int, defect: str = "") -> np.ndarray:
    return draw_part(np.random.default_rng(seed), "bracket", defect, size=SIZE).image


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    for number in range(20):
        save_png(folder / f"{number:02d}.png", draw(number))
    return folder


@pytest.fixture(scope="module")
def masks(good, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("masks")
    for path in good.iterdir():
        found = locate(read_image(path)).mask
        save_png(folder / f"{path.stem}_mask.png", 255 * cv2.resize(found, SIZE[::-1], interpolation=cv2.INTER_NEAREST))
    return folder


def quick(good: Path, out: Path, **options) -> TrainOptions:
    return TrainOptions(good, out, **{"pose": "rigid", "reconstruct": "memory", "repeats": 0, **options})


def ranking(result: TrainResult) -> float:
    """Return the AUROC of good and defective parts that training has not seen; all must be scored."""
    inspection = Inspection.from_bundle(result.bundle)
    bad = [draw(500 + k, defect) for k, defect in enumerate(("missing", "scratch") * 4)]
    scores = [one.score for one in inspection.inspect([*bad, *(draw(600 + k) for k in range(8))])]
    assert None not in scores
    return auroc(np.array(scores[8:]), np.array(scores[:8]))


@pytest.mark.long
def test_the_network_locates_as_well_as_the_background(good, tmp_path):
    stages: list[str] = []
    plain = train(quick(good, tmp_path / "plain", locate="background"))
    head = train(quick(good, tmp_path / "head", locate="head"), lambda stage, share: stages.append(stage))
    assert "learn to find the part" in stages
    assert ranking(head) >= ranking(plain) - 0.02 > 0.8
    manifest = head.bundle.manifest
    assert (manifest["settings"]["locate"], plain.bundle.manifest["settings"]["locate"]) == ("head", "background")
    assert manifest["rectify"]["head"]["channels"] == 1
    assert plain.bundle.manifest["rectify"]["head"] is None
    assert "trained on the background's masks" in head.notes[1]
    inspection = Inspection.from_bundle(head.bundle)
    verify_golden(head.bundle, inspection)
    for level in (0, 190):
        assert inspection.inspect([np.full(SIZE, level, np.uint8)])[0].reason in (Reason.NO_OBJECT, Reason.EXPOSURE)


@pytest.mark.long
def test_masks_make_auto_locate_by_the_network_and_it_stays_when_limits_are_set_anew(good, masks, tmp_path):
    asked = quick(good, tmp_path / "b", masks=masks, reconstruct="classic", steps=2, pixels=1 << 14)
    result = train(asked)
    assert result.bundle.settings["locate"] == "head"
    assert result.notes[0].startswith("locate head: 20 of 20 good images")
    assert "trained on your masks. On 4 good images" in result.notes[1]
    assert str(masks) not in str(result.bundle.manifest)
    report = (tmp_path / "b" / "report.html").read_text()
    assert "trained on your masks" in report
    assert "Where it finds the part" in report
    newer = tmp_path / "newer"
    newer.mkdir()
    for number in range(20):
        save_png(newer / f"new{number:02d}.png", draw(900 + number))
    again = recalibrate(Bundle.load(tmp_path / "b"), newer, tmp_path / "again").bundle
    ours, theirs = result.bundle.part("rectify"), again.part("rectify")
    assert any(name.startswith("head.") for name in ours)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def test_a_mask_that_is_missing_stops_before_any_work(good, masks, tmp_path):
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(masks.iterdir())[1:]:
        (few / path.name).write_bytes(path.read_bytes())
    stages: list[str] = []
    with pytest.raises(DatasetError, match=r"no mask for 1 of 20 good images: 00\.png"):
        train(quick(good, tmp_path / "b", masks=few), lambda stage, share: stages.append(stage))
    assert set(stages) == {"read images"}
    assert not (tmp_path / "b").exists()
