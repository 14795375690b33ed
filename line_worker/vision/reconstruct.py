"""Reconstruct: what a method that has only seen good parts cannot explain, as error maps on a grid of cells.

classic   the article's autoencoder in pixels (classic.py)
memory    distance to what good parts' features look like around the same place (memory.py)
feature   a linear autoencoder of all of the part's features (feature.py)
hybrid    both: two maps, of which the more unusual decides
network   a trained autoencoder of the features, with attention (network.py)

Each is a module from canonical images (B, C, H, W) to error maps (B, M, rows, cols), M = 1 or, for hybrid, 2, and is
made again from (meta, arrays) by `load`. Another method is another entry in METHODS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor

from line_worker.vision.arrays import Arrays, finite
from line_worker.vision.classic import Classic
from line_worker.vision.deep import Deep


class Reconstructor(Protocol):
    """What the rest of the method needs of a way to reconstruct."""

    def __call__(self, canonical: Tensor) -> Tensor:
        """Return the error maps (B, M, rows, cols), float32, of canonical images (B, C, H, W)."""
        ...

    @property
    def mask(self) -> Tensor:
        """Cells that belong to the object, bool (rows, cols)."""
        ...

    def meta(self) -> dict[str, Any]:
        """Return what JSON can hold of it."""
        ...

    def state(self) -> Arrays:
        """Return the rest: arrays by name."""
        ...


METHODS: dict[str, Callable[[Mapping[str, Any], Mapping[str, NDArray[Any]]], Reconstructor]] = {
    "classic": Classic.make,
    "memory": Deep.make,
    "feature": Deep.make,
    "hybrid": Deep.make,
    "network": Deep.make,
}


def load(meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reconstructor:
    """Make the reconstructor that `meta` names.

    Raises ValueError for one that this version does not know, and for arrays that are not finite.
    """
    if meta["method"] not in METHODS:
        raise ValueError(f"reconstruction {meta['method']!r} is not one of {', '.join(METHODS)}")
    return METHODS[meta["method"]](meta, finite(arrays))
