"""Builds the memory: prototypes of good parts' features, for each cell or for all, and says which of the two fits.

K-means from random starts; a cell's samples come from its neighbourhood in all images, which makes twenty images enough
to start with and forgives a pose that is a cell off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from calib.reduction import Reduced, errors
from calib.schedule import workers
from line_worker.vision.memory import Memory

PROTOTYPES = 64  # for each cell, where the bundle has room
BANK_BYTES = 30 << 20  # of half-precision prototypes
SHARED = 2048  # prototypes for all cells together, where the place says nothing
SAMPLES, SHARED_SAMPLES = 1024, 60_000  # that K-means sees of a cell, of the whole part
ROUNDS, SHARED_ROUNDS = 3, 10
CHUNK = 32  # cells at a time
LONG = 2.0  # a part is long when its grid is this much wider than high (canonical parts lie on their long side)
PLACED = 1.05  # prototypes of the place may be this much further away than shared ones and still be preferred
SHOWN = 48  # held-out images on which the two are compared


def build(
    reduced: Reduced,
    cells: Tensor,
    images: Tensor,
    placed: bool,
    seed: int,
    progress: Callable[[float], None] = lambda _: None,
) -> Memory:
    """Return a memory of `images` (indices): prototypes of each cell, or shared ones when not `placed`."""
    dice = torch.Generator().manual_seed(seed)
    bank = _placed(reduced.values[images], cells, dice, progress) if placed else _shared(reduced, cells, images, dice)
    return Memory(bank, cells).eval()


def window(rows: int, cols: int) -> tuple[int, int]:
    """Return how many cells up and down, and left and right, count as the same place."""
    return (1, 3) if cols >= LONG * rows else (2, 2)


def _placed(values: Tensor, cells: Tensor, dice: torch.Generator, progress: Callable[[float], None]) -> Tensor:
    """Return the prototypes (n, K, D) of each of n cells."""
    count, rows, cols, width = values.shape
    reach = window(rows, cols)
    where = torch.nonzero(cells)
    wanted = min(PROTOTYPES, max(8, BANK_BYTES // (len(where) * width * 2)))
    flat = values.reshape(-1, width)
    made = []
    for chunk in torch.split(where, CHUNK):
        image, dy, dx = _neighbourhood(count, reach, dice)
        y = (chunk[:, :1] + dy).clamp(0, rows - 1)
        x = (chunk[:, 1:] + dx).clamp(0, cols - 1)
        samples = flat[(image * rows + y) * cols + x].float()
        made.append(kmeans(samples, wanted, ROUNDS))
        progress(sum(len(m) for m in made) / len(where))
    return torch.cat(made)


def _neighbourhood(count: int, reach: tuple[int, int], dice: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Return image, row and column offset (S,) of at most SAMPLES distinct neighbours in random order."""
    high, wide = 2 * reach[0] + 1, 2 * reach[1] + 1
    number = torch.randperm(count * high * wide, generator=dice)[:SAMPLES]
    return number // (high * wide), number // wide % high - reach[0], number % wide - reach[1]


def _shared(reduced: Reduced, cells: Tensor, images: Tensor, dice: torch.Generator) -> Tensor:
    """Return prototypes (1, K, D) of all cells."""
    each = max(1, SHARED_SAMPLES // len(images))
    rows = []
    for k in images:
        inside = reduced.values[k][cells]
        rows.append(inside[torch.randperm(len(inside), generator=dice)[:each]].float())
    samples = torch.cat(rows)
    samples = samples[torch.randperm(len(samples), generator=dice)]
    return kmeans(samples[None], SHARED, SHARED_ROUNDS)


def kmeans(samples: Tensor, count: int, rounds: int) -> Tensor:
    """Return `count` centres (G, K, D) of samples (G, S, D) in random order; an empty centre stays where it was."""
    groups, total, width = samples.shape
    count = min(count, total)
    centres = samples[:, :count].clone()
    offset = torch.arange(groups)[:, None] * count
    for _ in range(rounds):
        owner = (_closest(samples, centres) + offset).flatten()
        sums = torch.zeros(groups * count, width).index_add_(0, owner, samples.reshape(-1, width))
        members = torch.bincount(owner, minlength=groups * count).float()[:, None]
        old = centres.reshape(-1, width)
        centres = torch.where(members > 0, sums / members.clamp(min=1), old).view(groups, count, width)
    return centres


def _closest(samples: Tensor, centres: Tensor) -> Tensor:
    """Return the index (G, S) of the nearest centre; a part of the samples at a time, for memory's sake."""
    norms = centres.square().sum(2)[:, None]
    across = centres.transpose(1, 2)
    return torch.cat([(norms - 2 * torch.bmm(part, across)).argmin(2) for part in torch.split(samples, 8192, 1)], 1)


class Place(NamedTuple):
    """Whether a memory for each cell fits as well as one for all, how far it lies beside the other, and the chosen."""

    placed: bool
    ratio: float
    memory: Memory


def place(reduced: Reduced, cells: Tensor, unseen: Tensor, rest: Tensor, seed: int, threads: int = 1) -> Place:
    """Return whether prototypes of the place fit good parts that are `unseen` as well as shared ones, of the `rest`.

    Where good parts look the same in the same place, its own prototypes are as near and far more particular. On
    texture they are further away: they were made from fewer looks at what is the same everywhere.
    """

    def made(placed: bool) -> tuple[Memory, float]:
        memory = build(reduced, cells, rest, placed, seed)
        return memory, float(errors(memory, reduced, unseen[:SHOWN], 1)[:, 0][:, cells].mean())

    with workers(threads) as pool:
        (own, near), (shared, far) = pool.map(made, (True, False))
    placed = near <= PLACED * far
    return Place(placed, near / far, own if placed else shared)
