"""Regions of binary pictures (B, h, w), bool: morphology, holes and connected pieces, with a fixed amount of work.

Pieces are found by labels that grow to the largest index in their piece: each round a label takes the largest of its
neighbours', and all labels equal to it follow (hooking and pointer jumping; Shiloach and Vishkin 1982), which joins
pieces in a number of rounds that grows with the logarithm of their length, not with the length itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# As many rounds as spirals and combs over 256 x 256 pixels take, and one more; see the tests. On a GPU a round costs
# what its calls cost, and a jump is one call.
ROUNDS, JUMPS = 5, 4


def dilate(mask: Tensor, size: int) -> Tensor:
    """Return `mask` grown by OpenCV's elliptic element of side 3 (a cross) or 5."""
    reach = size // 2
    around = functional.pad(mask, (reach,) * 4)
    tall = _along(around[:, :, reach : -reach or None], 1, size)
    wide = _along(around, 2, size)
    return tall | _along(wide[:, 1:-1], 1, size - 2)


def _along(mask: Tensor, axis: int, length: int) -> Tensor:
    """Return the union of a mask and itself moved by 0 to length - 1 pixels along one axis, that much shorter."""
    left = mask.shape[axis] - length + 1
    united = mask.narrow(axis, 0, left)
    for step in range(1, length):
        united = united | mask.narrow(axis, step, left)
    return united


def erode(mask: Tensor, size: int) -> Tensor:
    """Return `mask` shrunk by the same; what lies outside the picture takes nothing away."""
    return ~dilate(~mask, size)


def closed(mask: Tensor, size: int) -> Tensor:
    """Return `mask` with gaps narrower than the element closed."""
    return erode(dilate(mask, size), size)


def opened(mask: Tensor, size: int) -> Tensor:
    """Return `mask` without what is narrower than the element."""
    return dilate(erode(mask, size), size)


def filled(mask: Tensor) -> Tensor:
    """Return `mask` with its holes, and whatever lies in them, filled."""
    outside = functional.pad(~mask, (1, 1, 1, 1), value=True)
    labels = _labels(outside, diagonal=False)
    return (labels != labels[:, -1:, -1:])[:, 1:-1, 1:-1]  # the last pixel is outside, and has the largest label


def largest(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest piece of a mask without holes, and its share (B,) of the mask's area, 0 when it is empty."""
    labels = _labels(mask, diagonal=True)
    flat = labels.flatten(1)
    areas = torch.zeros(len(flat), flat.shape[1] + 1, device=mask.device).scatter_add(1, flat, (flat > 0).float())
    area, label = areas.max(1)
    return (labels == label[:, None, None]) & (labels > 0), area / areas.sum(1).clamp(min=1)


def _labels(mask: Tensor, diagonal: bool) -> Tensor:
    """Return int64 (B, h, w): 0 outside, and 1 + the largest flat index of the piece that a pixel belongs to."""
    count, height, width = mask.shape
    own = torch.arange(1, height * width + 1, device=mask.device)
    parents = torch.cat([own.new_zeros(1), own]).repeat(count, 1)
    inside = mask.flatten(1)
    labels = _run_ends(mask).flatten(1)
    for _ in range(ROUNDS):
        known = labels.float()  # whole numbers far below 2^24
        around = _largest_around(known.view(mask.shape), diagonal).flatten(1)
        # a pixel that has nothing to tell writes where nobody reads or it says nothing new: written to one place, a
        # whole piece would wait in line
        told = torch.where(inside & (around > known), labels, own)
        parents.scatter_reduce_(1, told, around.long(), "amax")
        for _ in range(JUMPS):
            parents = parents.gather(1, parents)
        labels = parents.gather(1, labels)
    return labels.view(mask.shape)


def _run_ends(mask: Tensor) -> Tensor:
    """Return the label of the last pixel of each horizontal run: where every piece begins to grow."""
    width = mask.shape[2]
    column = torch.arange(width, device=mask.device)
    beyond = torch.where(mask, width, column).flip(2).cummin(2).values.flip(2)  # the next pixel that is not inside
    row = torch.arange(mask.shape[1], device=mask.device)[:, None] * width
    return torch.where(mask, row + beyond, 0)


def _largest_around(labels: Tensor, diagonal: bool) -> Tensor:
    """Return the largest label among each pixel's neighbours and its own; labels as floats."""
    x = labels[:, None]
    if diagonal:
        return functional.max_pool2d(x, 3, 1, 1)[:, 0]
    tall, wide = functional.max_pool2d(x, (3, 1), 1, (1, 0)), functional.max_pool2d(x, (1, 3), 1, (0, 1))
    return torch.maximum(tall, wide)[:, 0]
