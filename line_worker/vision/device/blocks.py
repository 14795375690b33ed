"""The backbone as a GPU runs it fast: backbone.py's twin, the same numbers but for rounding.

A GPU's convolutions leave the bias and the activation to calls of their own, each of which reads and writes the whole
map again. Convolutions of one pixel are matrix products here, which add their bias as they write; and the bias of a
depthwise convolution is never added at all: ReLU6(y + b) is clamp(y, -b, 6 - b) + b, and what the next product makes of
b is a constant, added to its own bias.

Networks that pad more behind than before would have every wide map copied into a larger one first. Pictures go through
these upside down, so that more is padded before than behind: as much as that can be padded on all sides, as what is
padded behind is never reached where a stride divides a map's sides.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from line_worker.vision.backbone import Backbone, Block, Conv

TOP = 6.0  # of ReLU6


class Blocks(nn.Module):
    """What `backbone` computes, images (B, 1 or 3, H, W), (H, W) = `size`, to its maps, in `dtype`.

    It takes what it needs of `backbone`, which is of no use afterwards.
    """

    def __init__(self, backbone: Backbone, dtype: torch.dtype, size: tuple[int, int]) -> None:
        super().__init__()
        self.taps, self.dtype = backbone.taps, dtype
        steps = 2 * math.prod(backbone.strides)
        self.turned = backbone.same and not any(side % steps for side in size)
        if self.turned:
            for conv in (module for module in backbone.modules() if isinstance(module, Conv)):
                _turn(conv)
        self.stem, self.gray = backbone.stem.to(dtype), None if backbone.gray is None else backbone.gray.to(dtype)
        self.blocks = nn.ModuleList(Fused(block) for block in backbone.blocks if isinstance(block, Block)).to(dtype)
        self.register_buffer("shift", backbone.shift.clone())
        self.register_buffer("scale", backbone.scale.clone())

    shift: Tensor
    scale: Tensor

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps, in the order of `taps`."""
        stem, channels = (self.gray, 1) if images.shape[1] == 1 and self.gray is not None else (self.stem, 3)
        x = ((images - self.shift[:channels]) * self.scale[:channels]).to(self.dtype)
        x = x.flip(2, 3) if self.turned else x
        x = stem(x.contiguous(memory_format=torch.channels_last))
        maps = []
        for k, block in enumerate(self.blocks):
            x = block(x)
            if k in self.taps:
                maps.append(x.flip(2, 3) if self.turned else x)
        return maps


def _turn(conv: Conv) -> None:
    """Let a convolution that pads more behind do the same with pictures that are upside down."""
    conv.weight = nn.Parameter(conv.weight.flip(2, 3).contiguous(memory_format=torch.channels_last), False)
    conv.before, conv.after, conv.padding = 0, 0, conv.weight.shape[-1] // 2


class Fused(nn.Module):
    """One block, (B, C, H, W) to (B, C', H', W'), channels last."""

    low: Tensor
    high: Tensor
    narrow: Tensor
    rest: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        *before, self.depthwise, project = (conv for conv in block.convs if isinstance(conv, Conv))
        self.expand, self.residual = before[0] if before else None, block.residual
        bias, weight = self.depthwise.bias, project.weight[:, :, 0, 0]
        self.register_buffer("low", -bias[:, None, None])
        self.register_buffer("high", TOP - bias[:, None, None])
        self.register_buffer("narrow", weight.clone())
        self.register_buffer("rest", project.bias + weight @ bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block makes of x."""
        y = x if self.expand is None else _pointwise(x, self.expand.weight[:, :, 0, 0], self.expand.bias).clamp_(0, TOP)
        y = self.depthwise.filtered(y).clamp_(self.low, self.high)
        y = _pointwise(y, self.narrow, self.rest)
        return y.add_(x) if self.residual else y


def _pointwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return a convolution of one pixel, as a product over channels that lie last."""
    return functional.linear(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
