"""Pictures on the device: float32 (B, C, h, w), blurred and read between pixels as OpenCV does it.

OpenCV rounds what it makes of 8-bit pictures back to whole levels; `whole` does the same, so that both paths see the
same pixels (measured: all but one in ten thousand of them).
"""

from __future__ import annotations

import cv2
import torch
from torch import Tensor, nn
from torch.nn import functional

BITS = 256  # OpenCV's kernels for 8-bit pictures are whole multiples of 1 / 256
SCHARR = ((-3.0, 0.0, 3.0), (-10.0, 0.0, 10.0), (-3.0, 0.0, 3.0))


def rounded(x: Tensor) -> Tensor:
    """Return whole numbers, halves upwards."""
    return (x + 0.5).floor()


class Blur(nn.Module):
    """(B, C, h, w) blurred by a Gaussian, as cv2.GaussianBlur; `whole`: of 8-bit pictures, to whole levels."""

    taps: Tensor

    def __init__(self, sigma: float, whole: bool) -> None:
        super().__init__()
        self.whole = whole
        reach = round(sigma * (3 if whole else 4) * 2 + 1) // 2
        taps = torch.from_numpy(cv2.getGaussianKernel(2 * reach + 1, sigma, cv2.CV_32F)[:, 0])
        self.register_buffer("taps", (taps * BITS).round() / BITS if whole else taps)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        reach = len(self.taps) // 2
        planes = functional.pad(_planes(x), (reach,) * 4, mode="reflect")
        across = functional.conv2d(planes, self.taps.view(1, 1, 1, -1))
        blurred = functional.conv2d(across, self.taps.view(1, 1, -1, 1)).view(x.shape)
        return rounded(blurred) if self.whole else blurred


class Steepness(nn.Module):
    """(B, C, h, w) to Scharr's gradient magnitude of the same shape; its kernel weighs 32."""

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor(SCHARR)
        self.register_buffer("kernels", torch.stack([across, across.T])[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        planes = functional.pad(_planes(x), (1,) * 4, mode="reflect")
        return functional.conv2d(planes, self.kernels).square().sum(1).sqrt().view(x.shape)


def _planes(x: Tensor) -> Tensor:
    return x.reshape(-1, 1, x.shape[-2], x.shape[-1])


def sample(pictures: Tensor, points: Tensor, matrices: Tensor, continued: bool = False) -> Tensor:
    """Return pictures (B, C, h, w) where float64 matrices (B, K, 2, 3) lay the points (n, 3), x, y, 1: (B, C, K, n).

    Bilinear; outside, pictures are 0, or with `continued` what their edge is. Pixel centres are at whole numbers.
    """
    height, width = pictures.shape[-2:]
    across, down = matrices[..., 0, :] * (2 / width), matrices[..., 1, :] * (2 / height)  # to -1..1 over the picture
    to = torch.stack([across, down], -1) + _corner(width, height, matrices)
    beyond = "border" if continued else "zeros"
    return functional.grid_sample(pictures, points @ to.float(), "bilinear", beyond, align_corners=False)


def _corner(width: int, height: int, like: Tensor) -> Tensor:
    """Return (3, 2): what brings the middle of the first pixel, at 0, to half a pixel from -1."""
    last = torch.arange(3, dtype=like.dtype, device=like.device)[:, None] == 2
    return torch.cat([last * (1 / width - 1), last * (1 / height - 1)], 1)


def homogeneous(points: Tensor) -> Tensor:
    """Return points (n, 2) as (n, 3): x, y, 1."""
    return torch.cat([points, torch.ones_like(points[:, :1])], 1)
