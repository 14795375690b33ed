"""The whole method on drawn parts: right verdicts, boxes on the defect, the same bits every time, no pass by error."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from line_worker.bundle import GOLDEN_TOLERANCE, Bundle, verify_golden
from line_worker.errors import BundleError, ConfigError
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision.inspection import Inspection

SIZE = (240, 320)


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return Bundle.load(tiny_bundle)


@pytest.fixture
def inspection(bundle) -> Inspection:
    return Inspection.from_bundle(bundle)


def good(count: int, seed: int = 11) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw_part(rng, size=SIZE).image for _ in range(count)]


def test_good_parts_pass_and_mutilated_ones_fail(inspection):
    rng = np.random.default_rng(12)
    bad = [draw_part(rng, defect=d, size=SIZE).image for d in ("missing", "deformation", "pit") for _ in range(4)]
    passed = [i.reason for i in inspection.inspect(good(12))].count(Reason.NONE)
    failed = [i.reason for i in inspection.inspect(bad)].count(Reason.ANOMALY)
    assert passed >= 10
    assert failed >= 11


def test_the_worst_box_lies_on_the_defect(inspection):
    rng = np.random.default_rng(13)
    hits = 0
    for _ in range(6):
        drawn = draw_part(rng, defect="missing", size=SIZE)
        inspected = inspection.inspect([drawn.image])[0]
        box = inspected.boxes[0]
        hits += bool(drawn.mask[box.y : box.y + box.h, box.x : box.x + box.w].any())
        assert inspected.score > inspected.threshold
        assert box.error > box.limit > 0
        assert box.sigma == pytest.approx(inspected.score, rel=1e-4)
        assert box.neighbours < box.error
    assert hits >= 5


def test_a_pass_has_a_map_and_no_box(inspection):
    inspected = inspection.inspect(good(1))[0]
    assert inspected.reason is Reason.NONE
    assert inspected.boxes == ()
    assert inspected.anomaly.shape == inspection.rectifier.size
    assert inspected.anomaly.dtype == np.float32
    assert inspected.matrix.shape == (2, 3)
    assert inspected.anomaly.max() == pytest.approx(inspected.score, rel=0.2)


def test_a_p_value_says_how_many_good_parts_score_as_much(bundle, inspection):
    scores = sorted(bundle.manifest["calibration"]["scores"].values())
    rng = np.random.default_rng(14)
    flawed = draw_part(rng, defect="missing", size=SIZE).image
    *passed, failed = inspection.inspect([*good(3), flawed])
    for judged in passed:
        assert judged.p_value == (1 + sum(score >= judged.score for score in scores)) / (1 + len(scores))
    assert failed.score > max(scores)
    assert failed.p_value == 1 / (1 + len(scores))
    assert inspection.inspect([np.full(SIZE, 190, np.uint8)])[0].p_value is None


def test_pictures_without_a_part_are_undecided(inspection):
    odd = [
        np.full(SIZE, 190, np.uint8),
        np.zeros(SIZE, np.uint8),
        np.full((100, 100), 190, np.uint8),
        np.full((*SIZE, 3), 190, np.uint8),
        np.full(SIZE, 190, np.uint16),
        np.random.default_rng(0).integers(120, 255, SIZE, dtype=np.uint8),
    ]
    inspected = inspection.inspect([*odd, *good(1)])
    # a black picture may hold a part that no light falls on: what is wrong is the light
    assert [i.reason for i in inspected[:5]] == [Reason.NO_OBJECT, Reason.EXPOSURE] + 3 * [Reason.SHAPE]
    assert inspected[5].reason in (Reason.NO_OBJECT, Reason.POSE)
    assert all(i.score is None and i.boxes == () and i.anomaly is None for i in inspected[:6])
    assert inspected[6].reason is Reason.NONE  # the others did not disturb it


def blurred(image: np.ndarray) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), 4.0))


@pytest.mark.parametrize("defect", ["", "missing"])
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda image: image // 2, Reason.EXPOSURE),
        (lambda image: np.full_like(image, 255), Reason.EXPOSURE),
        (lambda image: np.minimum(image.astype(int) * 3 // 2, 255).astype(np.uint8), Reason.EXPOSURE),
        (lambda image: np.random.default_rng(0).integers(0, 255, image.shape, dtype=np.uint8), Reason.EXPOSURE),
        (blurred, Reason.FOCUS),
    ],
    ids=["half the light", "white", "too much light", "snow", "out of focus"],
)
def test_a_blind_station_gives_no_verdict(inspection, defect, spoil, reason):
    image = draw_part(np.random.default_rng(15), defect=defect, size=SIZE).image
    plain, spoiled = inspection.inspect([image, spoil(image)])
    assert plain.reason is (Reason.ANOMALY if defect else Reason.NONE)
    assert (spoiled.reason, spoiled.score, spoiled.boxes, spoiled.p_value) == (reason, None, (), None)


def test_without_a_commissioned_range_every_picture_is_judged(inspection):
    inspection.standard = inspection.standard._replace(commissioned=None)
    black, dim = inspection.inspect([np.zeros(SIZE, np.uint8), good(1)[0] // 2])
    assert black.reason is Reason.NO_OBJECT
    assert dim.score is not None


def test_no_images_give_no_verdicts(inspection):
    assert inspection.inspect([]) == []


def test_scores_do_not_depend_on_the_company(inspection):
    images = good(5)
    together = [i.score for i in inspection.inspect(images)]
    assert together == [inspection.inspect([image])[0].score for image in images]


def test_scores_do_not_depend_on_where_in_memory_things_lie(inspection):
    image = good(1)[0]
    expected = inspection.inspect([image])[0].score
    held = []  # so that every round allocates elsewhere
    for size in range(1, 4000, 337):
        held.append(np.zeros(size, np.uint8))
        assert inspection.inspect([image.copy()])[0].score == expected


@pytest.mark.long
def test_scores_are_the_same_bits_in_another_process(bundle, inspection, tmp_path):
    images = good(3)
    np.save(tmp_path / "images.npy", np.stack(images))
    code = (
        "import json, sys, numpy, torch; torch.set_num_threads(int(sys.argv[3]));"
        "from line_worker.bundle import Bundle; from line_worker.vision.inspection import Inspection;"
        "i = Inspection.from_bundle(Bundle.load(sys.argv[1]));"
        "print(json.dumps([r.score for r in i.inspect(list(numpy.load(sys.argv[2])))]))"
    )
    here = [i.score for i in inspection.inspect(images)]
    threads = torch.get_num_threads()
    for others in (threads, 3 - min(threads, 2)):
        command = [sys.executable, "-c", code, str(bundle.path), str(tmp_path / "images.npy"), str(others)]
        there = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        # on some processors a convolution adds up in another order with another number of threads
        assert there == (here if others == threads else pytest.approx(here, rel=1e-4))


def test_golden_images_reproduce(bundle, inspection):
    verify_golden(bundle, inspection)
    assert len(bundle.manifest["golden"]) >= 5


def test_laps_follow_the_stages(inspection):
    laps: list[str] = []
    inspection.inspect(good(2), laps.append)
    assert laps == ["rectify", "reconstruct", "score", "decide"]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("place", ["weights", "mu", "pixels"])
def test_what_is_not_finite_is_never_a_pass(inspection, poison, place):
    if place == "weights":
        inspection.reconstructor.net.decoder[-1].weight[0, 0, 0, 0] = poison
    elif place == "mu":
        zones = inspection.standard.zones
        zones.mu[:, zones.mask] = poison
    else:
        rectifier = inspection.rectifier
        spoiled = rectifier.rectify(good(1)[0]).canonical.copy()
        spoiled[spoiled.shape[0] // 2] = poison

        class Spoils:
            template_mask, frame, size = rectifier.template_mask, rectifier.frame, rectifier.size

            def rectify(self, image):
                return rectifier.rectify(image)._replace(canonical=spoiled)

        inspection.rectifier = Spoils()
    inspected = inspection.inspect(good(1))[0]
    assert inspected.reason is not Reason.NONE
    if place != "weights" or np.isnan(poison):  # an infinite weight of the last layer draws white, and fails
        assert (inspected.reason, inspected.score) == (Reason.NONFINITE, None)


def test_parts_that_do_not_fit_together_are_a_bundle_error(bundle):
    standard = {**bundle.manifest["standard"], "rule": {"name": "zone", "colour": "blue"}}
    odd = replace(bundle, manifest={**bundle.manifest, "standard": standard})
    with pytest.raises(BundleError, match=r"do not fit together.*colour"):
        Inspection.from_bundle(odd)


@pytest.mark.parametrize("name", ["rule", "commissioned"])
def test_a_standard_that_lacks_something_is_a_bundle_error(bundle, name):
    standard = {key: value for key, value in bundle.manifest["standard"].items() if key != name}
    odd = replace(bundle, manifest={**bundle.manifest, "standard": standard})
    with pytest.raises(BundleError, match=rf"do not fit together.*{name}"):
        Inspection.from_bundle(odd)


@pytest.mark.parametrize("name", ["reconstruct.net.decoder.0.conv.weight", "standard.zones.mu"])
def test_arrays_that_are_not_finite_are_a_bundle_error(bundle, name):
    odd = replace(bundle, arrays={**bundle.arrays, name: bundle.arrays[name] * np.nan})
    with pytest.raises(BundleError, match=rf"{name.partition('.')[2]} is not finite"):
        Inspection.from_bundle(odd)


def test_a_device_that_is_not_here_is_said(bundle):
    with pytest.raises(ConfigError, match="abacus"):
        Inspection.from_bundle(bundle, "abacus")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="use auto or cpu"):
            Inspection.from_bundle(bundle, "cuda")
        assert Inspection.from_bundle(bundle, "auto").device.type == "cpu"


def test_a_runtime_that_is_not_known_is_said(bundle):
    with pytest.raises(ConfigError, match=r"'abacus' is not one of auto, torch, openvino"):
        Inspection.from_bundle(bundle, runtime="abacus")


def test_openvino_gives_the_same_verdicts_and_reproduces_the_golden_images(bundle, inspection):
    pytest.importorskip("openvino")
    other = Inspection.from_bundle(bundle, "cpu", "openvino")
    assert (inspection.runtime, other.runtime) == ("torch", "openvino")
    verify_golden(bundle, other)
    images = [*good(3), draw_part(np.random.default_rng(16), defect="missing", size=SIZE).image]
    for ours, theirs in zip(inspection.inspect(images), other.inspect(images), strict=True):
        assert theirs.reason is ours.reason
        assert theirs.score == pytest.approx(ours.score, rel=GOLDEN_TOLERANCE, abs=GOLDEN_TOLERANCE)
