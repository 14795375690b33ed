"""Deep: the methods on pretrained features. One pass through the backbone serves one or both of its branches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from line_worker.vision.arrays import Arrays, part
from line_worker.vision.feature import Feature
from line_worker.vision.features import Features
from line_worker.vision.memory import Memory
from line_worker.vision.network import Network
from line_worker.vision.reduction import Reduction

Branch = Memory | Feature | Network

BRANCHES: dict[str, tuple[str, ...]] = {
    "memory": ("memory",),
    "feature": ("feature",),
    "hybrid": ("feature", "memory"),
    "network": ("network",),
}
MAKERS: dict[str, Callable[[Mapping[str, Any], Arrays], Branch]] = {
    "memory": Memory.make,
    "feature": Feature.make,
    "network": Network.make,
}


class Deep(nn.Module):
    """Canonical images (B, C, H, W) to the error maps (B, M, rows, cols) of M branches, in the order of BRANCHES."""

    def __init__(self, method: str, features: Features, reduction: Reduction, branches: Mapping[str, Branch]) -> None:
        super().__init__()
        self.method, self.features, self.reduction = method, features, reduction
        self.branches = nn.ModuleDict({name: branches[name] for name in BRANCHES[method]})

    @property
    def mask(self) -> Tensor:
        """Cells that belong to the object, bool (rows, cols)."""
        return self.features.cells

    def forward(self, canonical: Tensor) -> Tensor:
        """Return the error maps."""
        maps = self.features(canonical)
        if self.method == "network":  # it makes its own reduction
            return torch.cat([branch(maps) for branch in self.branches.values()], 1)
        reduced = self.reduction(maps)
        return torch.cat([branch(reduced) for branch in self.branches.values()], 1)

    def _stages(self) -> dict[str, Any]:
        return {"features": self.features, "reduction": self.reduction, **self.branches}

    def meta(self) -> dict[str, Any]:
        """Return the method's name and the numbers of its stages."""
        branches = {name: branch.meta() for name, branch in self.branches.items()}  # type: ignore[operator]
        own = {"method": self.method, "features": self.features.meta(), "reduction": self.reduction.meta()}
        return {**own, "branches": branches}

    def state(self) -> Arrays:
        """Return all arrays by name."""
        return {
            f"{name}.{key}": array for name, stage in self._stages().items() for key, array in stage.state().items()
        }

    @classmethod
    def make(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Deep:
        """Make it again from `meta` and `state`; raises KeyError, ValueError or RuntimeError when they do not fit."""
        method = str(meta["method"])
        features = Features.make(meta["features"], part(arrays, "features"))
        reduction = Reduction.make(meta["reduction"], part(arrays, "reduction"))
        branches = {name: MAKERS[name](meta["branches"][name], part(arrays, name)) for name in BRANCHES[method]}
        return cls(method, features, reduction, branches).eval().requires_grad_(False)
