"""Deep: the methods on pretrained features. One pass through the backbone serves one or both of its branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from line_worker.vision.featurenet import Feature
from line_worker.vision.features import Features, part
from line_worker.vision.memory import Memory

Arrays = dict[str, NDArray[Any]]
Branch = Memory | Feature

BRANCHES: dict[str, tuple[str, ...]] = {
    "memory": ("memory",),
    "feature": ("feature",),
    "hybrid": ("feature", "memory"),
}
MAKERS: dict[str, Callable[[Mapping[str, Any], Arrays], Branch]] = {"memory": Memory.make, "feature": Feature.make}


class Deep(nn.Module):
    """Canonical images (B, C, H, W) to the error maps (B, M, rows, cols) of M branches, in the order of BRANCHES."""

    def __init__(self, method: str, features: Features, branches: Mapping[str, Branch]) -> None:
        super().__init__()
        self.method, self.features = method, features
        self.branches = nn.ModuleDict({name: branches[name] for name in BRANCHES[method]})

    @property
    def mask(self) -> Tensor:
        """Cells that belong to the object, bool (rows, cols)."""
        return self.features.cells

    def forward(self, canonical: Tensor) -> Tensor:
        """Return the error maps."""
        maps = self.features(canonical)
        return torch.cat([branch(maps) for branch in self.branches.values()], 1)

    def meta(self) -> dict[str, Any]:
        """Return the method's name and the numbers of its stages."""
        branches = {name: branch.meta() for name, branch in self.branches.items()}  # type: ignore[operator]
        return {"method": self.method, "features": self.features.meta(), "branches": branches}

    def state(self) -> Arrays:
        """Return all arrays by name."""
        stages = {"features": self.features, **self.branches}
        return {f"{stage}.{name}": array for stage, made in stages.items() for name, array in made.state().items()}  # type: ignore[operator]

    @classmethod
    def make(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Deep:
        """Make it again from `meta` and `state`; raises KeyError, ValueError or RuntimeError when they do not fit."""
        features = Features.make(meta["features"], part(arrays, "features"))
        branches: dict[str, Branch] = {
            name: MAKERS[name](meta["branches"][name], part(arrays, name)) for name in BRANCHES[str(meta["method"])]
        }
        return cls(meta["method"], features, branches).eval().requires_grad_(False)
