"""Standard: what good parts set, and how an error map is held against it.

It is learned in calibration, travels in the bundle, and is all that `line-worker recalibrate` makes anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from line_worker.vision import score
from line_worker.vision.adaptive import Adaptive, texture
from line_worker.vision.arrays import Arrays, finite, part
from line_worker.vision.sanity import Commissioned
from line_worker.vision.score import Rule, Zones


class Standard(NamedTuple):
    """How errors are judged.

    threshold: the score above which a part fails. good: held-out scores of good parts, ascending. adaptive: only with
    the rule of that name. commissioned: what pictures of good parts were like; None accepts every picture.
    """

    zones: Zones
    rule: Rule
    threshold: float
    good: Sequence[float] = ()
    adaptive: Adaptive | None = None
    commissioned: Commissioned | None = None

    def expected(self, canonical: Tensor) -> Tensor | None:
        """Return the z (B, M, rows, cols) that the picture's own texture excuses, None unless the rule is adaptive."""
        if self.adaptive is None:
            return None
        return self.adaptive.expected(texture(canonical, self.zones.mask), self.zones.mu)

    def decisions(self, errors: Tensor, expected: Tensor | None = None) -> Tensor:
        """Return what is compared with the threshold, (B, rows, cols), of errors (B, M, rows, cols)."""
        return score.decision_map(errors, self.zones, self.rule, expected)

    def to(self, device: torch.device) -> Standard:
        """Return the same on another device."""
        adaptive = None if self.adaptive is None else self.adaptive.to(device)
        return self._replace(zones=self.zones.to(device), adaptive=adaptive)

    def arrays(self) -> Arrays:
        """Return the arrays of `make`, by name."""
        own = {f"zones.{name}": array for name, array in self.zones.state().items()}
        adaptive = {} if self.adaptive is None else self.adaptive.state()
        return own | {f"adaptive.{name}": array for name, array in adaptive.items()}

    def meta(self) -> dict[str, Any]:
        """Return the rest of what `make` needs, for JSON."""
        return {
            "rule": self.rule._asdict(),
            "commissioned": None if self.commissioned is None else self.commissioned.meta(),
        }

    @classmethod
    def make(
        cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], threshold: float, good: Sequence[float]
    ) -> Standard:
        """Make it again from `meta` and `arrays`.

        Raises KeyError or TypeError when they do not fit, ValueError for arrays that are not finite.
        """
        arrays = finite(arrays)
        adaptive, commissioned = part(arrays, "adaptive"), meta["commissioned"]
        return cls(
            Zones.make(part(arrays, "zones")),
            Rule(**meta["rule"]),
            threshold,
            sorted(good),
            Adaptive.make(adaptive) if adaptive else None,
            None if commissioned is None else Commissioned.from_meta(commissioned),
        )
