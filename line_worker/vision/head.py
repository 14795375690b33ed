"""The article's segmentation network: where the part is, as a small fully convolutional network sees it.

For backgrounds that no quadratic surface describes, and for a whole batch at once on whatever device. It is given gray
levels and divides the light out itself: logarithms turn a longer exposure into a shift, and the median of the frame's
border is taken from each channel, so that neither brightness nor colour of the light matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, pixel_shuffle, pixel_unshuffle, relu

from line_worker.vision.arrays import Arrays
from line_worker.vision.background import RING, Image, Plane

WIDTHS = (24, 40, 56)  # channels at a quarter, an eighth and a sixteenth of the picture's size
BLOCK = 4  # pixels either way that become channels of one cell: cheaper than convolutions on all of them
SOFT = 16.0  # gray levels added before the logarithm: below it, darkness is noise
STRIDE = 16  # the picture is padded to multiples of it


class Head(nn.Module):
    """Pictures (B, C, h, w) float in gray levels 0..255 -> logits (B, 1, h, w): above 0, the part is likelier than not.

    Any size; trained on pictures with LOCATE_SIDE on their long side, and best at it. least, most: shares of the frame
    below and above which what it sees is no part: what it sees where there is nothing at all is anybody's guess.
    """

    def __init__(self, channels: int, least: float = 0.0, most: float = 1.0) -> None:
        super().__init__()
        self.channels, self.least, self.most = channels, least, most
        quarter, eighth, deep = WIDTHS
        self.stem = _conv(BLOCK**2 * channels, quarter)
        self.down = nn.ModuleList([_conv(quarter, eighth, 2), _conv(eighth, deep, 2)])
        self.middle = _conv(deep, deep)
        self.up = nn.ModuleList([_conv(deep, eighth), _conv(eighth, quarter)])
        self.last = _conv(quarter, quarter)
        self.out = nn.Conv2d(quarter, BLOCK**2, 1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on a CPU

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the logits."""
        height, width = pictures.shape[2:]
        light = normalised(pictures)
        light = pad(light, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        x = relu(self.stem(pixel_unshuffle(light, BLOCK)))
        skips = []
        for down in self.down:
            skips.append(x)
            x = relu(down(x))
        x = x + relu(self.middle(x))
        for up, skip in zip(self.up, reversed(skips), strict=True):
            x = skip + interpolate(relu(up(x)), scale_factor=2.0, mode="nearest")
        x = x + relu(self.last(x))
        return pixel_shuffle(self.out(x), BLOCK)[:, :, :height, :width]

    @torch.inference_mode()
    def segment(self, picture: Image | Plane) -> Plane:
        """Return for each pixel of (h, w) or (h, w, C) gray levels the chance that it shows the part, (h, w) in 0..1.

        In steps of 1/255: what the last bits of arithmetic differ by on other machines cannot move a part.
        """
        levels = torch.from_numpy(np.ascontiguousarray(picture, np.float32))
        levels = levels.reshape(1, *levels.shape[:2], -1).permute(0, 3, 1, 2)
        soft: Plane = chance(self(levels.to(self.out.weight.device)))[0, 0].cpu().numpy()
        return soft

    def meta(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        return {"channels": self.channels, "least": self.least, "most": self.most}

    def state(self) -> Arrays:
        """Return the weights by name."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Head:
        """Make it again from `state` and `meta`; raises RuntimeError when the weights are not those of such a one."""
        head = cls(int(meta["channels"]), float(meta["least"]), float(meta.get("most", 1.0)))  # older ones have none
        head.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
        return head.eval().requires_grad_(False)


def chance(logits: Tensor) -> Tensor:
    """Return the chance of being part, in steps of 1/255, of any shape."""
    return logits.sigmoid().mul(255).round().div(255)


def normalised(pictures: Tensor) -> Tensor:
    """Return log(light) above the median on the frame's border, (B, C, h, w), whatever the exposure."""
    logs = torch.log(pictures.clamp_min(0) + SOFT)
    k = max(1, round(RING * max(logs.shape[2:])))
    rows = torch.cat([logs[:, :, :k], logs[:, :, -k:]], 2).flatten(2)
    cols = torch.cat([logs[..., :k], logs[..., -k:]], 3).flatten(2)
    return logs - torch.cat([rows, cols], 2).median(2).values[..., None, None]


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride, 1)
