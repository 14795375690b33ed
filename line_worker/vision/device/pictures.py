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
        across = filtered(planes, self.taps.view(1, 1, 1, -1))
        blurred = filtered(across, self.taps.view(1, 1, -1, 1)).view(x.shape)
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
        slopes = filtered(planes, self.kernels).view(*x.shape[:2], 2, *x.shape[2:])
        return slopes.square().sum(2).sqrt()


def _planes(x: Tensor) -> Tensor:
    return x.reshape(1, -1, x.shape[-2], x.shape[-1])


def filtered(planes: Tensor, kernels: Tensor) -> Tensor:
    """Return planes (1, P, h, w), each filtered by all kernels (K, 1, kh, kw): (1, P K, ...), without padding.

    As channels of one picture: as so many pictures of one channel they would take several times as long.
    """
    count = planes.shape[1]
    return functional.conv2d(planes, kernels.repeat(count, 1, 1, 1), groups=count)


class Reading(nn.Module):
    """Pictures (B, C, h, w) of `size`, read where float64 matrices (B, K, 2, 3) lay points (n, 2): (B, C, K, n).

    Bilinear; outside, pictures are 0, or with `continued` what their edge is. Matrices lead to image pixels; scale:
    picture pixels per image pixel, (x, y). Pixel centres are at whole numbers.
    """

    points: Tensor
    gain: Tensor
    offset: Tensor

    def __init__(
        self, points: Tensor, size: tuple[int, int], scale: tuple[float, float], continued: bool = False
    ) -> None:
        super().__init__()
        self.beyond = "border" if continued else "zeros"
        # grid_sample wants -1..1 from edge to edge: X -> ((X + 0.5) scale) 2 / width - 1
        share = torch.tensor([scale[0] / size[1], scale[1] / size[0]], dtype=torch.float64)[:, None]
        self.register_buffer("points", homogeneous(points))
        self.register_buffer("gain", 2 * share)
        self.register_buffer("offset", torch.cat([torch.zeros(2, 2), share - 1], 1))

    def forward(self, pictures: Tensor, matrices: Tensor) -> Tensor:
        """Return what is seen at the points."""
        to = torch.addcmul(self.offset, matrices, self.gain).float()
        grid = self.points @ to.transpose(-1, -2)
        return functional.grid_sample(pictures, grid, "bilinear", self.beyond, align_corners=False)


def homogeneous(points: Tensor) -> Tensor:
    """Return points (n, 2) as (n, 3): x, y, 1."""
    return torch.cat([points, torch.ones_like(points[:, :1])], 1)
