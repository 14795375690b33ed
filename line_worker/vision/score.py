"""Score: how unusual an error is for its zone of the part, and which cells decide.

Every cell of the canonical part is a zone with its own usual error mu and spread sigma, learned from good parts that
the network had not seen. Three rules turn errors into a decision map whose largest value is the part's score:

zone       the standardised error z itself (default)
deviation  the article's: of the 10 % of cells with the largest z, each against the mean of its neighbours on a ring
classic    the article's fixed rule: the same on raw errors and adjacent neighbours, in units of good parts' scores
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from line_worker.vision.reconstruct import blur

RULES = ("zone", "deviation", "classic")
TOP = 0.10  # share of the object's cells that the article's rule looks at
RADII = (1, 2, 3, 5, 8, 12)  # rings tried for the deviation rule, cells
AROUND = 5  # radius of the ring shown beside a box where the rule has none of its own: beyond the blur of the error
CLASSIC_LIMIT = 3.0  # the article's three sigma
DEFECT_SIGMA = 2.0  # cells: size of the blob that a ring is chosen to notice


class Zones(NamedTuple):
    """What is usual for each cell: mu and sigma float32 (rows, cols), mask bool (rows, cols), True on the object."""

    mu: Tensor
    sigma: Tensor
    mask: Tensor

    @property
    def spread(self) -> Tensor:
        """The unit of z, (rows, cols): the zone's sigma plus the mean of all, so that a calm zone is not hysteric."""
        return self.sigma + self.sigma[self.mask].mean()

    def limit(self, threshold: float) -> Tensor:
        """Return the error (rows, cols) at which z reaches `threshold`."""
        return self.mu + threshold * self.spread

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the statistics as arrays by name."""
        return {"mu": self.mu.numpy(), "sigma": self.sigma.numpy(), "mask": self.mask.numpy().astype("uint8")}

    @classmethod
    def make(cls, arrays: Mapping[str, NDArray[Any]]) -> Zones:
        """Make them again from `state`."""
        mu, sigma, mask = (torch.from_numpy(arrays[name].copy()) for name in cls._fields)
        return cls(mu, sigma, mask > 0)

    def to(self, device: torch.device) -> Zones:
        """Return the same on another device."""
        return Zones(*(tensor.to(device) for tensor in self))


class Rule(NamedTuple):
    """How the decision map is made.

    radius: of the ring of neighbours, cells. centre, scale: bring the map's maximum into the rule's unit.
    """

    name: str = "zone"
    radius: int = 1
    centre: float = 0.0
    scale: float = 1.0


def learn_zones(errors: Tensor, mask: Tensor) -> Zones:
    """Return the zones of good parts' errors (N, rows, cols): mean and deviation per cell, blurred by a cell."""
    variance, mean = torch.var_mean(errors, 0, correction=0)
    return _zones(mean[None], variance[None], mask)[0]


def held_out(errors: Tensor, mask: Tensor) -> list[Zones]:
    """Return for each of N parts the zones learned from the N - 1 others: a part must not vouch for itself."""
    n = len(errors)
    variance, mean = torch.var_mean(errors, 0, correction=0)
    without = (n * mean - errors) / (n - 1)
    spread = (variance - (errors - mean) ** 2 / (n - 1)) * n / (n - 1)
    return _zones(without, spread.clamp(min=0), mask)


def _zones(mean: Tensor, variance: Tensor, mask: Tensor) -> list[Zones]:
    weight = blur(mask[None, None].float(), 1.0, 3)[0].clamp(min=1e-6)

    def smooth(x: Tensor) -> Tensor:  # over the object's cells only: outside there is no error to speak of
        return blur((x * mask)[:, None], 1.0, 3)[:, 0] / weight

    return [Zones(m, v.sqrt(), mask) for m, v in zip(smooth(mean), smooth(variance), strict=True)]


def standardise(errors: Tensor, zones: Zones) -> Tensor:
    """Return z (B, rows, cols) of errors: in the zone's own sigmas; outside the object the lowest z there can be."""
    floor = (-zones.mu / zones.spread)[zones.mask].amin()
    return torch.where(zones.mask, (errors - zones.mu) / zones.spread, floor)


def neighbours(x: Tensor, mask: Tensor, radius: int) -> Tensor:
    """Return for each cell of (B, rows, cols) the mean over the object's cells on the square ring at `radius`."""
    total, count = _ring(x * mask, radius), _ring(mask[None].to(x.dtype), radius)
    return torch.where(count > 0.5, total / count.clamp(min=1), x)


def _ring(x: Tensor, radius: int) -> Tensor:
    """Return the sum over the square ring at `radius`, (B, rows, cols)."""
    outer = functional.avg_pool2d(x, 2 * radius + 1, 1, radius, divisor_override=1)
    inner = functional.avg_pool2d(x, 2 * radius - 1, 1, radius - 1, divisor_override=1)
    return outer - inner


def decision_map(errors: Tensor, zones: Zones, rule: Rule) -> Tensor:
    """Return what is compared with the threshold, (B, rows, cols); its maximum is the score."""
    if rule.name == "zone":
        return standardise(errors, zones)
    value = errors if rule.name == "classic" else standardise(errors, zones)
    deviation = value - neighbours(value, zones.mask, rule.radius)
    return (_on_top(value, deviation, zones.mask) - rule.centre) / rule.scale


def scores(decisions: Tensor) -> Tensor:
    """Return the score (B,) of each decision map (B, rows, cols); a NaN anywhere makes it NaN."""
    return decisions.flatten(1).amax(1)


def _on_top(value: Tensor, deviation: Tensor, mask: Tensor) -> Tensor:
    """Return the deviation where `value` is among the object's top 10 %, elsewhere its smallest."""
    inside = value[:, mask]
    k = max(1, round(TOP * inside.shape[1]))
    bar = inside.topk(k, 1).values[:, -1]
    top = (value >= bar[:, None, None]) & mask
    return torch.where(top, deviation, deviation[:, mask].amin(1)[:, None, None])


def learn_rule(name: str, errors: Tensor, zones: list[Zones], mask: Tensor) -> Rule:
    """Return the rule `name` fitted on good parts' held-out errors (N, rows, cols) and zones."""
    if name == "zone":
        return Rule("zone", AROUND)
    if name == "classic":
        good = _good_scores(Rule("classic"), errors, zones)
        return Rule("classic", 1, float(good.mean()), float(good.std()))
    return max((Rule("deviation", r) for r in RADII), key=lambda rule: _notice(rule, errors, zones, mask))


def _good_scores(rule: Rule, errors: Tensor, zones: list[Zones]) -> Tensor:
    return torch.cat([scores(decision_map(e[None], z, rule)) for e, z in zip(errors, zones, strict=True)])


def _notice(rule: Rule, errors: Tensor, zones: list[Zones], mask: Tensor) -> float:
    """Return how far a ring lets a blob of unit height stand out, in units of what good parts reach."""
    reach = 4 * RADII[-1]
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    blob = torch.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / DEFECT_SIGMA**2)[None]
    seen = (blob - neighbours(blob, torch.ones_like(blob[0]).bool(), rule.radius))[0, reach, reach]
    return float(seen / _good_scores(rule, errors, zones).quantile(0.95))
