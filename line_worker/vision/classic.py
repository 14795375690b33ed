"""Classic: the article's symmetric convolutional autoencoder (SCAE-MSSIM), in pixels.

Five stride-2 convolutions down to a narrow bottleneck and five mirrored ones up again, in gray or colour. Its output
starts from a learned mean image of the good parts instead of from gray, which after alignment is most of the picture:
it reaches with tens of steps what a plain one needs hundreds for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from line_worker.vision.arrays import Arrays
from line_worker.vision.cells import blur, object_cells

WIDTHS = (24, 48, 96, 128, 128)  # channels after each halving
BOTTLENECK = 48
STRIDE = 2 ** len(WIDTHS)  # the working grid's sides are multiples of it
SHORTEST = 128  # MS-SSIM halves the image four times and then needs its 7-pixel window
PIXELS = 48 << 10  # of the working grid, about; a larger one learns more slowly and found no more on screws
CELL = 2  # working pixels along the side of a cell of the error map
SMOOTHING = 3.0  # standard deviation, working pixels, of the blur of the error before it is put into cells
SSIM_SIGMA, SSIM_RADIUS = 1.5, 5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2  # Wang et al. 2004, for a range of 1
RANGE = (0.1, 0.9)  # where the good parts' darkest and brightest pixels are put
BORDER = 2  # working pixels inside the object's edge that are not judged: resampling noise lives there


class Block(nn.Module):
    """A convolution, its normalisation and a leaky ReLU; the normalisation is gone after `fold`."""

    def __init__(self, conv: nn.Module, width: int, norm: bool) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output, (B, width, ...)."""
        return functional.leaky_relu(self.norm(self.conv(x)), 0.1)


class Autoencoder(nn.Module):
    """The symmetric convolutional autoencoder: (B, C, h, w) in 0..1 -> the same."""

    def __init__(self, channels: int, size: tuple[int, int], norm: bool = True) -> None:
        super().__init__()
        down = zip((channels, *WIDTHS), WIDTHS, strict=False)
        up = zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True)
        self.encoder = nn.Sequential(
            *(Block(nn.Conv2d(i, o, 4, 2, 1), o, norm) for i, o in down), nn.Conv2d(WIDTHS[-1], BOTTLENECK, 1)
        )
        self.decoder = nn.Sequential(
            Block(nn.Conv2d(BOTTLENECK, WIDTHS[-1], 1), WIDTHS[-1], norm),
            *(Block(nn.ConvTranspose2d(i, o, 4, 2, 1), o, norm) for i, o in up),
            nn.ConvTranspose2d(WIDTHS[0], channels, 4, 2, 1),
        )
        self.mean = nn.Parameter(torch.zeros(1, channels, *size))  # logits of the mean image

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction."""
        return torch.sigmoid(self.decoder(self.encoder(x)) + self.mean)


def fold(net: Autoencoder) -> Autoencoder:
    """Return the network for inference: the same function of its input with every BatchNorm inside its convolution."""
    channels, *size = net.mean.shape[1:]
    folded = Autoencoder(channels, (size[0], size[1]), norm=False)
    for ours, theirs in zip(_blocks(folded), _blocks(net.eval()), strict=True):
        transposed = isinstance(theirs.conv, nn.ConvTranspose2d)
        ours.conv = fuse_conv_bn_eval(cast(Any, theirs.conv), cast(Any, theirs.norm), transpose=transposed)
    folded.encoder[-1], folded.decoder[-1], folded.mean = net.encoder[-1], net.decoder[-1], net.mean
    return folded.eval()


def _blocks(net: Autoencoder) -> list[Block]:
    return [module for module in net.modules() if isinstance(module, Block)]


class Preparation(nn.Module):
    """Canonical images as the autoencoder wants them: (B, C, H, W) -> (B, C, h, w) in 0..1.

    Values are stretched so that the good parts' darkest and brightest pixels fall on RANGE; everything that never
    belongs to the part is painted as background, so that shadows and the mat are neither learned nor judged.
    """

    visible: Tensor

    def __init__(self, size: tuple[int, int], low: float, high: float, template: Tensor) -> None:
        super().__init__()
        self.size, self.low, self.high = size, low, high
        visible = functional.interpolate(template[None, None].float(), size, mode="bilinear", antialias=True) > 0.5
        self.register_buffer("visible", visible)

    def forward(self, canonical: Tensor) -> Tensor:
        """Return the images on the working grid."""
        small = functional.interpolate(canonical, self.size, mode="bilinear", antialias=True)
        small = torch.where(self.visible, small, 1.0)
        dark, bright = RANGE
        scaled = (small - self.low) * ((bright - dark) / (self.high - self.low)) + dark
        return scaled.clamp(0, 1)


class Classic(nn.Module):
    """The article's method as a stage: canonical images (B, C, H, W) -> error map (B, 1, rows, cols).

    The error of a cell is the sum of two, absolute difference and 1 - SSIM, each smoothed and divided by its usual
    size (`weights`), so that 1 is the usual error of a good part's cell.
    """

    cells: Tensor
    weights: Tensor

    def __init__(self, preparation: Preparation, net: Autoencoder, template: NDArray[np.bool_]) -> None:
        super().__init__()
        self.preparation, self.template = preparation, template
        # one memory layout, or the same weights would take another kernel after loading and differ in the last bits
        self.net: Autoencoder = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.register_buffer("cells", object_cells(preparation.visible[0, 0], CELL, BORDER))
        self.register_buffer("weights", torch.ones(2))

    @property
    def mask(self) -> Tensor:
        """Cells that belong to the object, bool (rows, cols)."""
        return self.cells

    def forward(self, canonical: Tensor) -> Tensor:
        """Return the error map (B, 1, rows, cols), at least 0."""
        return self.combine(self.errors(self.preparation(canonical)))

    def errors(self, prepared: Tensor) -> Tensor:
        """Return both errors (B, 2, rows, cols) of images on the working grid."""
        again = self.net(prepared.contiguous(memory_format=torch.channels_last))
        both = torch.stack([(prepared - again).abs().mean(1), ssim_error(prepared, again)], 1)
        smooth = blur(both * self.preparation.visible, SMOOTHING, math.ceil(3 * SMOOTHING))
        return functional.avg_pool2d(smooth, CELL)

    def combine(self, errors: Tensor) -> Tensor:
        """Return the weighted sum (B, 1, rows, cols) of both errors (B, 2, rows, cols)."""
        return errors[:, :1] * self.weights[0] + errors[:, 1:] * self.weights[1]

    def meta(self) -> dict[str, Any]:
        """Return the method's name and the numbers it was prepared with."""
        p = self.preparation
        channels = int(self.net.mean.shape[1])
        return {"method": "classic", "size": list(p.size), "channels": channels, "low": p.low, "high": p.high}

    def state(self) -> Arrays:
        """Return the folded network's weights, the template mask and the weights of both errors."""
        arrays = {f"net.{name}": value.detach().numpy() for name, value in self.net.state_dict().items()}
        return {**arrays, "template": self.template.astype(np.uint8), "weights": self.weights.numpy()}

    @classmethod
    def make(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Classic:
        """Make it again from `meta` and `state`; raises KeyError, ValueError or RuntimeError when they do not fit."""
        size = (int(meta["size"][0]), int(meta["size"][1]))
        net = Autoencoder(int(meta["channels"]), size, norm=False)
        net.load_state_dict({k[4:]: torch.from_numpy(v.copy()) for k, v in arrays.items() if k.startswith("net.")})
        template = arrays["template"].astype(np.bool_)
        preparation = Preparation(size, float(meta["low"]), float(meta["high"]), torch.from_numpy(template))
        classic = cls(preparation, net, template)
        classic.weights.copy_(torch.from_numpy(arrays["weights"].copy()))
        return classic.eval().requires_grad_(False)


def working_size(height: int, width: int, pixels: int = PIXELS) -> tuple[int, int]:
    """Return (h, w), multiples of STRIDE with about `pixels` pixels and nearly the shape of (height, width)."""

    def cost(side: tuple[int, int]) -> float:
        area, shape = side[0] * side[1], side[0] / side[1]
        return abs(math.log(area / pixels)) + 2 * abs(math.log(shape * width / height))

    sides = range(SHORTEST, pixels // SHORTEST + STRIDE + 1, STRIDE)
    allowed = [(h, w) for h in sides for w in sides if h * w <= max(1.25 * pixels, SHORTEST**2)]
    return min(allowed, key=cost)


def ssim_error(a: Tensor, b: Tensor) -> Tensor:
    """Return (1 - SSIM) / 2 per pixel, channels averaged: (B, C, h, w) -> (B, h, w) in 0..1 (Wang et al. 2004)."""

    def mean(x: Tensor) -> Tensor:
        return blur(x, SSIM_SIGMA, SSIM_RADIUS)

    ma, mb = mean(a), mean(b)
    va, vb, cov = mean(a * a) - ma * ma, mean(b * b) - mb * mb, mean(a * b) - ma * mb
    ssim = (2 * ma * mb + SSIM_C1) * (2 * cov + SSIM_C2) / ((ma * ma + mb * mb + SSIM_C1) * (va + vb + SSIM_C2))
    return ((1 - ssim) / 2).mean(1)
