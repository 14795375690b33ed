"""OpenVINO and torch judge alike, for every method; what is asked for and is not here is said with what to do."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import time

import numpy as np
import pytest
import torch

from calib.options import TrainOptions
from calib.schedule import single_threaded
from calib.train import train
from line_worker.bundle import GOLDEN_TOLERANCE, Bundle, verify_golden
from line_worker.errors import ConfigError
from line_worker.images import save_png
from line_worker.selftest import self_tested
from line_worker.source.drawing import draw_part
from line_worker.vision import runtime
from line_worker.vision.inspection import Inspection

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
INSTALLED = importlib.util.find_spec("openvino") is not None
needs_openvino = pytest.mark.skipif(not INSTALLED, reason="openvino is missing: pip install line-worker[openvino]")
SIZE = (64, 96)


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


def woven(rng: np.random.Generator, defect: str = "") -> np.ndarray:
    return draw_part(rng, "weave", defect, SIZE, pose="none").image


METHODS = ("hybrid", "classic")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> dict[str, Bundle]:
    """Return bundles that have hardly learned anything: here only the arithmetic counts."""
    folder = tmp_path_factory.mktemp("runtime")
    rng = np.random.default_rng(0)
    for number in range(20):
        save_png(folder / f"{number:02d}.png", woven(rng))
    options = {"locate": "full", "steps": 1, "pixels": 1 << 14, "repeats": 0}
    return {
        method: train(TrainOptions(folder, folder / f"{method}.bundle", reconstruct=method, **options)).bundle
        for method in METHODS
    }


# choosing


def pretend(monkeypatch, installed: bool) -> None:
    monkeypatch.setattr(runtime.importlib.util, "find_spec", lambda name: object() if installed else None)


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(monkeypatch):
    pretend(monkeypatch, True)
    assert runtime.choose("auto", CPU) == "openvino"
    assert runtime.choose("auto", CUDA) == "torch"
    pretend(monkeypatch, False)
    assert runtime.choose("auto", CPU) == "torch"


@pytest.mark.parametrize("installed", [True, False])
def test_torch_is_torch(monkeypatch, installed):
    pretend(monkeypatch, installed)
    assert runtime.choose("torch", CPU) == runtime.choose("torch", CUDA) == "torch"


def test_openvino_that_is_not_installed_is_said_with_the_command(monkeypatch):
    pretend(monkeypatch, False)
    with pytest.raises(ConfigError, match=r"openvino is not installed: pip install line-worker\[openvino\]"):
        runtime.choose("openvino", CPU)


def test_openvino_on_another_device_is_refused(monkeypatch):
    pretend(monkeypatch, True)
    with pytest.raises(ConfigError, match="openvino runs on the CPU, not on cuda"):
        runtime.choose("openvino", CUDA)


def test_an_unknown_runtime_is_refused():
    with pytest.raises(ConfigError, match="'tensorrt' is not one of auto, torch, openvino"):
        runtime.choose("tensorrt", CPU)


@pytest.mark.parametrize("method", METHODS)
def test_torch_needs_no_openvino(bundles, method, monkeypatch):
    bundle = bundles[method]
    monkeypatch.setitem(sys.modules, "openvino", None)  # an import would fail
    inspection = Inspection.from_bundle(bundle, runtime="torch")
    verify_golden(bundle, inspection)
    assert inspection.runtime == "torch"


# agreement


@pytest.fixture(scope="module")
def both(bundles) -> dict[str, list[Inspection]]:
    """Return for each method inspections by torch and by OpenVINO."""
    return {
        method: [Inspection.from_bundle(bundle, runtime=name) for name in ("torch", "openvino")]
        for method, bundle in bundles.items()
    }


def picture(inspection: Inspection, seed: int) -> torch.Tensor:
    return torch.rand(1, 1, *inspection.rectifier.size, generator=torch.Generator().manual_seed(seed))


@needs_openvino
@pytest.mark.parametrize("method", METHODS)
def test_openvino_reproduces_the_bundle_and_agrees_with_torch(bundles, both, method):
    by_torch, by_openvino = both[method]
    assert by_openvino.runtime == "openvino"
    verify_golden(bundles[method], by_openvino)
    rng = np.random.default_rng(7)
    images = [woven(rng, defect) for defect in ("", "", "scratch", "missing")]
    compared = 0
    for one, two in zip(by_torch.inspect(images), by_openvino.inspect(images), strict=True):
        assert one.reason is two.reason
        if one.score is not None:
            assert abs(two.score - one.score) <= GOLDEN_TOLERANCE * max(1.0, abs(one.score))
            compared += 1
    assert compared >= 2


@needs_openvino
@pytest.mark.parametrize("method", METHODS)
def test_openvinos_maps_are_torchs(both, method):
    with torch.inference_mode():
        one, two = (inspection._maps(picture(inspection, 1)) for inspection in both[method])
    assert one.shape == two.shape
    assert one.std() > 0
    assert torch.allclose(one, two, atol=1e-3 * float(one.abs().max()))


@needs_openvino
def test_a_result_of_openvino_is_not_overwritten_by_the_next(both):
    inspection = both["hybrid"][1]
    first = inspection._maps(picture(inspection, 2))
    kept = first.clone()
    second = inspection._maps(picture(inspection, 3))
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


@needs_openvino
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: nothing to be pinned to")
def test_openvinos_threads_may_run_on_every_processor(both):
    one, seen, samples = picture(both["hybrid"][1], 4), set[frozenset[int]](), 200
    here = threading.get_native_id()

    def watch() -> None:
        for _ in range(samples):
            seen.add(frozenset(os.sched_getaffinity(here)))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    before = os.sched_getaffinity(here)
    watcher.start()
    while watcher.is_alive():
        both["hybrid"][1]._maps(one)
    assert seen == {frozenset(before)}, "pinned while it computes: all workers of a host would share one processor"


@needs_openvino
def test_a_second_start_does_not_convert_again(bundles, monkeypatch, tmp_path):
    import openvino

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = self_tested(bundles["hybrid"], "cpu", "openvino")
    monkeypatch.setattr(openvino, "convert_model", None)  # calling it would fail
    second = self_tested(bundles["hybrid"], "cpu", "openvino")
    assert torch.equal(first._maps(picture(first, 4)), second._maps(picture(second, 4)))
