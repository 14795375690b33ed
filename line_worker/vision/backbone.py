"""Backbone: the pretrained network whose feature maps stand for what a patch of a part looks like.

An inverted-residual network without squeeze-and-excitation (MobileNetV2, EfficientNet-Lite), up to the layers that are
used, with every BatchNorm already inside its convolution. Its shape follows from the arrays and a stride per block, so
the same code runs the network that ships with the product and a user's own weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from line_worker.vision.arrays import Arrays

CONVS = ("expand", "depthwise", "project")  # of a block, in order; the first may be missing


class Conv(nn.Module):
    """A convolution with bias, perhaps followed by ReLU6; `same` pads as TensorFlow does (more at the end)."""

    def __init__(self, weight: Tensor, bias: Tensor, stride: int, active: bool, same: bool, groups: int) -> None:
        super().__init__()
        self.stride, self.active, self.same, self.groups = stride, active, same, groups
        kernel = weight.shape[-1]
        lopsided = same and stride > 1
        self.before = (kernel - stride) // 2 if lopsided else 0
        self.after = kernel - stride - self.before if lopsided else 0
        self.padding = 0 if lopsided else kernel // 2
        self.weight, self.bias = nn.Parameter(weight, False), nn.Parameter(bias, False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', H', W')."""
        if _fuses(x):
            return self._fused(self._padded(x))
        y = functional.conv2d(self._padded(x), self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        return functional.hardtanh(y, 0.0, 6.0) if self.active else y

    def filtered(self, x: Tensor) -> Tensor:
        """Return the same without bias and activation."""
        return functional.conv2d(self._padded(x), self.weight, None, self.stride, self.padding, 1, self.groups)

    def _padded(self, x: Tensor) -> Tensor:
        return functional.pad(x, (self.before, self.after, self.before, self.after)) if self.after else x

    def _fused(self, x: Tensor) -> Tensor:
        """Return the same to rounding, in half the time: the activation is applied while the output is cached.

        Its bits do not depend on the number of threads; the plain convolution's do.
        """
        name, limits = ("hardtanh", [0.0, 6.0]) if self.active else ("none", [])
        pad, stride = [self.padding] * 2, [self.stride] * 2
        fused: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, pad, stride, [1, 1], self.groups, name, limits, ""
        )
        return fused


def _fuses(x: Tensor) -> bool:
    """Return whether oneDNN's fused convolution can be used; never while the network is being exported."""
    exporting = torch._C._get_tracing_state() is not None
    return FUSED and x.device.type == "cpu" and x.dtype == torch.float32 and not exporting


FUSED = hasattr(torch.ops.mkldnn, "_convolution_pointwise")


class Block(nn.Module):
    """Widen, filter each channel, narrow; added to the input where the shapes allow."""

    def __init__(self, convs: Sequence[Conv], stride: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(*convs)
        narrow, wide = convs[-1].weight.shape[0], convs[0].weight.shape
        entering = wide[0] if convs[0].groups > 1 else wide[1]
        self.residual = stride == 1 and narrow == entering

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C', H', W')."""
        y: Tensor = self.convs(x)
        return x + y if self.residual else y


class Backbone(nn.Module):
    """Images (B, 3, H, W), RGB in 0..1, or gray (B, 1, H, W), to feature maps.

    They are those after the blocks `taps`, each (B, C_k, H / s_k, W / s_k).
    strides: of each block. mean, std: (3,), of the images it was trained on. same: see Conv.
    """

    def __init__(
        self,
        arrays: Mapping[str, NDArray[Any]],
        strides: Sequence[int],
        taps: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        same: bool,
        name: str,
    ) -> None:
        super().__init__()
        self.strides, self.taps, self.same, self.name = list(strides), list(taps), same, name
        self.mean, self.std = list(mean), list(std)
        self.stem = _conv(arrays, "stem", 2, True, same)
        self.blocks = nn.ModuleList(_block(arrays, k, stride, same) for k, stride in enumerate(strides))
        self.register_buffer("shift", torch.tensor(self.mean)[:, None, None], persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(self.std)[:, None, None], persistent=False)
        self.gray = _gray(self.stem) if len(set(self.mean)) == len(set(self.std)) == 1 else None
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    shift: Tensor
    scale: Tensor

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, in the order of `taps`."""
        stem, channels = (self.gray, 1) if images.shape[1] == 1 and self.gray is not None else (self.stem, 3)
        x = ((images - self.shift[:channels]) * self.scale[:channels]).to(stem.weight.dtype)
        x = stem(x.contiguous(memory_format=torch.channels_last))
        maps = []
        for k, block in enumerate(self.blocks):
            x = block(x)
            if k in self.taps:
                maps.append(x)
        return maps

    @property
    def widths(self) -> list[int]:
        """Channels of each map."""
        return [self._convs(k)[-1].weight.shape[0] for k in self.taps]

    def _convs(self, k: int) -> list[Conv]:
        return [module for module in self.blocks[k].modules() if isinstance(module, Conv)]

    def meta(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        own = {"strides": self.strides, "taps": self.taps, "mean": self.mean, "std": self.std}
        return {**own, "same": self.same, "name": self.name}

    def state(self) -> Arrays:
        """Return its arrays by name."""
        named = {"stem": self.stem}
        for k in range(len(self.strides)):
            convs = self._convs(k)
            named |= {f"{k}.{name}": conv for name, conv in zip(CONVS[-len(convs) :], convs, strict=True)}
        return {
            f"{name}.{kind}": getattr(conv, kind).detach().cpu().contiguous().numpy()
            for name, conv in named.items()
            for kind in ("weight", "bias")
        }

    @classmethod
    def make(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Backbone:
        """Make it again from `meta` and `state`; raises KeyError or ValueError when they do not fit."""
        fields = ("strides", "taps", "mean", "std", "same", "name")
        return cls(arrays, **{field: meta[field] for field in fields}).eval()


def _block(arrays: Mapping[str, NDArray[Any]], k: int, stride: int, same: bool) -> Block:
    present = [name for name in CONVS if f"{k}.{name}.weight" in arrays]
    if present not in (list(CONVS), list(CONVS[1:])):
        raise ValueError(f"block {k} of the backbone has {present or 'nothing'}, needed {CONVS}")
    convs = [
        _conv(arrays, f"{k}.{name}", stride if name == "depthwise" else 1, name != "project", same) for name in present
    ]
    return Block(convs, stride)


def _conv(arrays: Mapping[str, NDArray[Any]], name: str, stride: int, active: bool, same: bool) -> Conv:
    weight, bias = (torch.from_numpy(arrays[f"{name}.{kind}"].copy()).float() for kind in ("weight", "bias"))
    groups = weight.shape[0] if weight.shape[1] == 1 and weight.shape[0] > 1 else 1
    return Conv(weight, bias, stride, active, same, groups)


def _gray(stem: Conv) -> Conv:
    """Return the stem for pictures whose three channels are one: a third of the work."""
    return Conv(stem.weight.sum(1, keepdim=True), stem.bias.clone(), stem.stride, stem.active, stem.same, 1)
