"""The batched inspection judges as the one-by-one path does: same poses, scores, verdicts and reasons, on every kind.

`runtime="device"` runs on a CPU what a GPU runs. What only CUDA has is tested where there is one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import torch

import bench.device
from bench.show_device import show
from calib import head as training
from calib.options import TrainOptions
from calib.schedule import single_threaded
from calib.train import train
from line_worker.bundle import Bundle
from line_worker.errors import BundleError, ConfigError
from line_worker.images import read_image, save_png
from line_worker.selftest import self_tested
from line_worker.source.drawing import draw_part
from line_worker.verdicts import Reason
from line_worker.vision.deep import Deep
from line_worker.vision.device.batches import SIZES, TOLERANCE, Batches, sizes_up_to
from line_worker.vision.device.pipeline import Pipeline
from line_worker.vision.device.placing import rectifying
from line_worker.vision.inspection import Inspection
from line_worker.vision.rectify import Rectifier

PIXELS, DEGREES = 0.05, 0.05  # how far poses may lie from OpenCV's
SCREWS = Path(__file__).parent.parent.parent / "shared" / "data" / "screw"
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="there is no CUDA device here; on a machine with one: pytest tests/test_device.py",
)


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


class Looks(NamedTuple):
    """How a kind of part is drawn, and how it is learned."""

    drawn: dict[str, Any]
    pose: str = "rigid"
    locate: str = "background"


KINDS = {
    "elongated": Looks({"kind": "pin"}),
    "round": Looks({"kind": "gear"}),
    "asymmetric": Looks({"kind": "bracket"}),
    "colour": Looks({"kind": "badge", "colour": True}),
    "16 bits on a dark mat": Looks({"kind": "bracket", "bits": 16, "dark": True}),
    "moves only": Looks({"kind": "washer", "pose": "translate"}, "translate"),
    "always in its place": Looks({"kind": "bracket", "pose": "none"}, "none"),
    "texture in colour": Looks({"kind": "weave", "colour": True, "pose": "none"}, "none", "full"),
}
SIZE = (150, 200)


def pictures(looks: Looks, count: int, seed: int, defect: str = "") -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [draw_part(rng, defect=defect, size=SIZE, **looks.drawn).image for _ in range(count)]


def up(images: list[np.ndarray]) -> torch.Tensor:
    stacked = torch.from_numpy(np.stack(images).astype(np.float32))
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2).contiguous()


def corners(rectifier: Rectifier, matrix: np.ndarray) -> np.ndarray:
    """Return where the canonical picture's corners lie in the frame, (2, 4)."""
    height, width = rectifier.size
    return np.asarray(matrix @ np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]]).T)


def degrees(matrix: np.ndarray) -> float:
    return float(np.rad2deg(np.arctan2(matrix[1, 0], matrix[0, 0])))


@pytest.mark.parametrize("kind", KINDS)
def test_poses_and_canonical_pictures_are_those_of_opencv(kind):
    looks = KINDS[kind]
    good = pictures(looks, 10, 1)
    rectifier = Rectifier.learn(good, locate=looks.locate, pose=looks.pose)
    images = [*pictures(looks, 3, 2), *pictures(looks, 1, 3, "missing"), np.full_like(good[0], 90)]
    images.append(np.ascontiguousarray(np.roll(images[0], SIZE[1] // 2, 1)))  # cut by the border
    with torch.inference_mode():
        got = rectifying(rectifier)(up(images), lambda stage: None)
    for image, canonical, matrix, reason in zip(images, *got, strict=True):
        expected = rectifier.rectify(image)
        assert Reason(int(reason)) is expected.reason
        assert np.abs(corners(rectifier, matrix.numpy()) - corners(rectifier, expected.matrix)).max() < PIXELS
        assert abs(degrees(matrix.numpy()) - degrees(expected.matrix)) < DEGREES
        away = np.abs(canonical.permute(1, 2, 0).numpy() - expected.canonical.reshape(*rectifier.size, -1))
        assert away.mean() < 1e-3
    assert [Reason(int(reason)) for reason in got.reason[:3]] == [Reason.NONE] * 3


@pytest.mark.long
def test_where_a_network_sees_the_part_both_paths_see_it(monkeypatch):
    monkeypatch.setattr(training, "STEPS", 60)
    looks = Looks({"kind": "bracket", "colour": True})
    good = pictures(looks, 12, 21)
    head = training.learn_head(good, [str(k) for k in range(12)], None, 0, 1).head
    rectifier = Rectifier.learn(good, locate="head", pose="rigid", head=head)
    images = [*pictures(looks, 2, 22), *pictures(looks, 1, 23, "missing"), np.full_like(good[0], 90)]
    module = rectifying(rectifier)
    with torch.inference_mode():
        got = module(up(images), lambda stage: None)
    for image, matrix, reason in zip(images, got.matrices.numpy(), got.reason, strict=True):
        expected = rectifier.rectify(image)
        assert Reason(int(reason)) is expected.reason
        assert np.abs(corners(rectifier, matrix) - corners(rectifier, expected.matrix)).max() < PIXELS
    assert [Reason(int(reason)) for reason in got.reason] == [Reason.NONE] * 3 + [Reason.NO_OBJECT]
    assert module.to("meta")(up(images).to("meta"), lambda stage: None).canonical.device.type == "meta"


# ---- whole inspections -----------------------------------------------------------------------------------------------

BRACKET = Looks({"kind": "bracket"})
WEAVE = Looks({"kind": "weave", "colour": True, "pose": "none"}, "none", "full")
METHODS = {"hybrid": BRACKET, "network": WEAVE}  # hybrid is feature and memory


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Bundle]:
    """Return a bundle of each method; `network` has hardly learned anything, and judges by the rule adaptive."""
    folder = tmp_path_factory.mktemp("device")
    made = {}
    for method, looks in METHODS.items():
        good = folder / looks.drawn["kind"]
        if not good.is_dir():
            good.mkdir()
            for number, image in enumerate(pictures(looks, 20, 5)):
                save_png(good / f"{number:02d}.png", image)
        options: dict[str, Any] = {"locate": looks.locate, "pose": looks.pose, "false_reject": 0.05, "repeats": 0}
        options |= {"rule": "adaptive", "steps": 2} if method == "network" else {}
        made[method] = train(TrainOptions(good, folder / f"{method}.bundle", reconstruct=method, **options)).bundle
    return made


@pytest.fixture(scope="module")
def both(bundles) -> dict[str, tuple[Inspection, Inspection]]:
    """Return for each method the inspection one by one, and that in batches."""
    return {
        method: (Inspection.from_bundle(bundle), Inspection.from_bundle(bundle, runtime="device"))
        for method, bundle in bundles.items()
    }


def some(method: str) -> list[np.ndarray]:
    """Return good and bad parts, and pictures of which nothing can be said."""
    looks = METHODS[method]
    good, bad = pictures(looks, 2, 11), pictures(looks, 2, 12, "missing")
    spoiled = [np.full_like(good[0], 190), good[0] // 3, np.asarray(cv2.GaussianBlur(good[1], (0, 0), 4.0))]
    return [good[0], np.zeros((9, 9), np.uint8), *bad, *spoiled, good[1]]


@pytest.mark.parametrize("method", METHODS)
def test_verdicts_reasons_scores_and_boxes_are_those_of_the_cpu(both, method):
    alone, together = both[method]
    expected, got = alone.inspect(some(method)), together.inspect(some(method))
    assert [one.reason for one in got] == [one.reason for one in expected]
    assert expected[1].reason is Reason.SHAPE
    assert {Reason.NONE, Reason.ANOMALY, Reason.EXPOSURE} <= {one.reason for one in expected}
    share = 0.1 * TOLERANCE  # single precision here
    for one, other in zip(expected, got, strict=True):
        assert (one.score is None) is (other.score is None)
        if one.score is not None:
            assert abs(other.score - one.score) <= share * max(1.0, abs(one.score))
            assert np.abs(other.anomaly - one.anomaly).mean() <= share
            assert np.allclose(other.matrix, one.matrix, atol=PIXELS)
        for box, same in zip(other.boxes, one.boxes, strict=True):
            assert np.allclose(box[:4], same[:4], atol=8)  # a cell at the edge may fall to the other side
            assert box.zone == same.zone
            assert np.allclose(box[5:], same[5:], rtol=2 * share)


@pytest.mark.parametrize("method", ["hybrid", "network"])
def test_the_company_changes_nothing(both, method):
    together = both[method][1]
    images = some(method)
    for image, one in zip(images, together.inspect(images), strict=True):
        alone = together.inspect([image])[0]
        assert alone.reason is one.reason
        if one.score is not None:
            assert alone.score == pytest.approx(one.score, rel=1e-3, abs=1e-3)
    assert together.inspect([]) == []


def test_golden_images_reproduce(bundles):
    inspection = self_tested(bundles["hybrid"], "cpu", "device")
    assert (inspection.runtime, inspection.tolerance) == ("device", TOLERANCE)
    assert Inspection.from_bundle(bundles["hybrid"]).tolerance == 0.0
    golden = bundles["hybrid"].manifest["golden"]
    off = [{**one, "score": one["score"] + 3 * TOLERANCE * max(1.0, abs(one["score"]))} for one in golden]
    manifest = {**bundles["hybrid"].manifest, "golden": off}
    with pytest.raises(BundleError, match="does not reproduce"):
        self_tested(Bundle(bundles["hybrid"].path, "", manifest, bundles["hybrid"].arrays), "cpu", "device")


def test_what_is_not_finite_is_never_a_pass(bundles):
    alone = Inspection.from_bundle(bundles["hybrid"])
    assert isinstance(alone.reconstructor, Deep)
    alone.reconstructor.branches["memory"].bank[:] = float("nan")
    poisoned = Inspection(alone.rectifier, alone.reconstructor, alone.standard, runtime="device")
    inspected = poisoned.inspect(pictures(BRACKET, 2, 13))
    assert [(one.reason, one.score, one.boxes) for one in inspected] == [(Reason.NONFINITE, None, ())] * 2


def test_the_pixels_methods_have_no_batched_form(tiny_bundle):
    with pytest.raises(ConfigError, match="device is for methods on pretrained features"):
        Inspection.from_bundle(Bundle.load(tiny_bundle), runtime="device")


def test_laps_follow_the_stages(both):
    laps: list[str] = []
    both["hybrid"][1].inspect(some("hybrid"), laps.append)
    stages = ["upload", "locate", "pose", "straighten", "check", "reconstruct", "score", "download", "decide"]
    assert laps == stages


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nothing_looks_at_a_value_or_at_the_host(both, method, dtype):
    """Tensors on `meta` have a place but no values: whoever asks for one, or mixes in one of the host's, fails.

    What passes can be recorded as a graph: no branch and no size depends on what is in a picture.
    """
    alone = both[method][0]
    assert isinstance(alone.reconstructor, Deep)
    pipeline = Pipeline(alone.rectifier, alone.reconstructor, alone.standard)
    pipeline.lower(dtype)
    frames = torch.zeros((3, *some(method)[0].shape), dtype=torch.uint8, device="meta")
    rows = pipeline.on(torch.device("meta"))(frames)
    assert rows.device.type == "meta"
    assert rows.dtype == torch.float32
    assert len(rows) == 3
    with pytest.raises(RuntimeError):
        float(rows[0, 0])


def test_narrow_arithmetic_in_the_backbone_keeps_the_tolerance(both):
    alone = both["hybrid"][0]
    assert isinstance(alone.reconstructor, Deep)
    pipeline = Pipeline(alone.rectifier, alone.reconstructor, alone.standard)
    pipeline.lower(torch.float16)
    images = pictures(BRACKET, 3, 14)
    found = Batches(pipeline, torch.device("cpu")).judge(images, lambda stage: None)
    wide = [one.score for one in alone.inspect(images)]
    narrow = [one.score for one in found]
    assert narrow != wide
    assert all(abs(a - b) <= TOLERANCE * max(1.0, abs(b)) for a, b in zip(narrow, wide, strict=True))


def test_a_batch_is_filled_up_to_a_size_that_is_warm(both):
    assert sizes_up_to(1) == [1]
    assert sizes_up_to(6) == [1, 2, 4, 6]
    assert sizes_up_to(8) == [1, 2, 4, 8]
    assert sizes_up_to(64) == list(SIZES)
    assert sizes_up_to(70) == sizes_up_to(1000) == [*SIZES, 128]  # two large pieces side by side
    assert both["hybrid"][0].sizes(8) == [1, 2, 8]
    assert both["hybrid"][1].sizes(8) == [1, 2, 4, 8]


# ---- the bench -------------------------------------------------------------------------------------------------------


def test_the_bench_times_batches_and_stages_and_compares_with_the_cpu(bundles, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench.device, "SECONDS", 0.0)
    for number, image in enumerate(pictures(WEAVE, 2, 15)):
        save_png(tmp_path / f"{number}.png", image)
    profile = bench.device.profile(bundles["network"], tmp_path, [1, 3], "cpu", agree=True)
    assert [one.batch for one in profile.timings] == [1, 3]
    for one in profile.timings:
        assert one.rounds >= bench.device.ROUNDS_MIN
        assert 0 < one.ms <= one.worst_ms
        assert one.parts_per_s == pytest.approx(1e3 * one.batch / one.ms)
        assert list(one.stages_ms) == ["upload", "rectify", "check", "reconstruct", "score", "download"]
        assert all(ms > 0 for ms in one.stages_ms.values())
    assert profile.agreement is not None
    assert (profile.agreement.images, profile.agreement.verdicts_that_differ) == (2, 0)
    assert profile.agreement.largest <= profile.agreement.tolerance == TOLERANCE
    show(profile, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["timings"][1]["parts_per_s"] == profile.timings[1].parts_per_s
    assert told["agreement"]["verdicts_that_differ"] == 0
    show(profile, as_json=False)
    words = capsys.readouterr().out
    assert "parts/s" in words
    assert "0 of 2 verdicts differ" in words


@pytest.mark.parametrize("text", ["", "0,1", "1,x", "1,257"])
def test_batch_sizes_that_make_no_sense_are_refused(text):
    assert bench.device.sizes("1,8,32") == [1, 8, 32]
    with pytest.raises(ConfigError, match="give sizes from 1 to 256"):
        bench.device.sizes(text)


@needs_cuda
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_judges_as_the_cpu_does(bundles, both, method):
    images = [image for image in some(method) for _ in range(3)]
    gpu = self_tested(bundles[method], "cuda")
    expected = both[method][0].inspect(images)
    for count in (1, 2, 3, len(images)):  # each its own graph, some filled up
        for one, other in zip(expected, gpu.inspect(images[:count]), strict=False):
            assert other.reason is one.reason
            if one.score is not None:
                assert abs(other.score - one.score) <= TOLERANCE * max(1.0, abs(one.score))
    again = [one.score for one in gpu.inspect(images)]
    assert again == [one.score for one in gpu.inspect(images)]


@pytest.mark.data
@pytest.mark.skipif(not SCREWS.is_dir(), reason="../shared/data/screw is not there")
def test_screws_lie_where_opencv_sees_them():
    train_images = [read_image(path) for path in sorted((SCREWS / "train" / "good").iterdir())[::20]]
    rectifier = Rectifier.learn(train_images, locate="background", pose="rigid")
    images = [read_image(path) for path in sorted((SCREWS / "test").glob("*/*"))[::27]]
    with torch.inference_mode():
        got = rectifying(rectifier)(up(images), lambda stage: None)
    for image, matrix, reason in zip(images, got.matrices.numpy(), got.reason, strict=True):
        expected = rectifier.rectify(image)
        assert Reason(int(reason)) is expected.reason
        assert np.abs(corners(rectifier, matrix) - corners(rectifier, expected.matrix)).max() < PIXELS
        assert abs(degrees(matrix) - degrees(expected.matrix)) < DEGREES
