"""Score: how unusual an error is for its zone of the part, and which cells decide.

Every cell of the canonical part is a zone with its own usual error mu and spread sigma, learned from good parts that
the network had not seen. Rules turn error maps (B, M, rows, cols) into a decision map (B, rows, cols), whose
largest value is the part's score; of several maps the most unusual decides, each in units of what good parts reach:

zone       the standardised error z itself (default)
deviation  the article's: of the 10 % of cells with the largest z, each against the mean of its neighbours on a ring
classic    the article's fixed rule: the same on raw errors and adjacent neighbours, in units of good parts' scores
adaptive   z less what is expected of it in this zone and this picture's texture (adaptive.py)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from line_worker.vision.cells import blur_inside

RULES = ("zone", "deviation", "classic", "adaptive")
TOP = 0.10  # share of the object's cells that the article's rule looks at
RADII = (1, 2, 3, 5, 8, 12)  # rings tried for the deviation rule, cells
AROUND = 5  # radius of the ring shown beside a box where the rule has none of its own: beyond the blur of the error
CLASSIC_LIMIT = 3.0  # the article's three sigma
DEFECT_SIGMA = 2.0  # cells: size of the blob that a ring is chosen to notice


class Zones(NamedTuple):
    """What is usual for each cell.

    mu, sigma: float32 (M, rows, cols), of each error map. mask: bool (rows, cols), True on the object where it is
    judged. weight: float32 (rows, cols), 1 except where the user wants another false-reject rate than elsewhere.
    """

    mu: Tensor
    sigma: Tensor
    mask: Tensor
    weight: Tensor

    @property
    def spread(self) -> Tensor:
        """The unit of z, (M, rows, cols): sigma plus the mean of all sigmas, so that a calm zone is not hysteric."""
        return self.sigma + self.sigma[:, self.mask].mean(1)[:, None, None]

    def limit(self, threshold: float, rule: Rule, expected: Tensor | None = None) -> Tensor:
        """Return the errors (1, M, rows, cols) at which a map alone would reach `threshold` by the zone rule."""
        centre, scale = rule.unit(self.mu)
        z = centre + threshold / self.weight * scale
        return (self.mu + z * self.spread)[None] if expected is None else self.mu + (z + expected) * self.spread

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the statistics as arrays by name."""
        own = self._replace(mask=self.mask.to(torch.uint8))._asdict()
        return {name: tensor.cpu().numpy() for name, tensor in own.items()}

    @classmethod
    def make(cls, arrays: Mapping[str, NDArray[Any]]) -> Zones:
        """Make them again from `state`."""
        zones = cls(*(torch.from_numpy(arrays[name].copy()) for name in cls._fields))
        return zones._replace(mask=zones.mask > 0)

    def to(self, device: torch.device) -> Zones:
        """Return the same on another device."""
        return Zones(*(tensor.to(device) for tensor in self))


class Rule(NamedTuple):
    """How the decision map is made.

    radius: of the ring of neighbours, cells. centre, scale: of each error map, bring its values into a common unit.
    """

    name: str = "zone"
    radius: int = 1
    centre: Sequence[float] = (0.0,)
    scale: Sequence[float] = (1.0,)

    def unit(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return centre and scale as tensors (M, 1, 1) beside `like`."""
        centre, scale = (torch.tensor(list(x), device=like.device)[:, None, None] for x in (self.centre, self.scale))
        return centre, scale


def learn_zones(errors: Tensor, mask: Tensor, flat: Sequence[bool]) -> Zones:
    """Return the zones of good parts' errors (N, M, rows, cols): mean and deviation per cell, blurred by a cell.

    flat: for each map whether all cells share one mean and deviation: distances to a memory of their own place do not
    gain from more (measured on screws: image AUROC 0.9996 flat).
    """
    variance, mean = torch.var_mean(errors, 0, correction=0)
    return _zones(mean[None], variance[None], mask, flat)[0]


def held_out(errors: Tensor, mask: Tensor, flat: Sequence[bool]) -> list[Zones]:
    """Return for each of N parts the zones learned from the N - 1 others: a part must not vouch for itself."""
    n = len(errors)
    variance, mean = torch.var_mean(errors, 0, correction=0)
    without = (n * mean - errors) / (n - 1)
    spread = (variance - (errors - mean) ** 2 / (n - 1)) * n / (n - 1)
    return _zones(without, spread.clamp(min=0), mask, flat)


def _zones(mean: Tensor, variance: Tensor, mask: Tensor, flat: Sequence[bool]) -> list[Zones]:
    mu, var = (blur_inside(x, mask, 1.0, 3) for x in (mean, variance))  # over the object: outside there is no error
    for k in (k for k, level in enumerate(flat) if level):
        inside = mean[:, k][:, mask]
        mu[:, k] = inside.mean(1)[:, None, None]
        var[:, k] = (variance[:, k][:, mask].mean(1) + inside.var(1, correction=0))[:, None, None]
    return [Zones(m, v.sqrt(), mask, torch.ones(mask.shape)) for m, v in zip(mu, var, strict=True)]


def standardise(errors: Tensor, zones: Zones) -> Tensor:
    """Return z (B, M, rows, cols): errors in the zone's own sigmas; outside the object the lowest there can be."""
    spread = zones.spread
    floor = (-zones.mu / spread)[:, zones.mask].amin(1)[:, None, None]
    return torch.where(zones.mask, (errors - zones.mu) / spread, floor)


def neighbours(x: Tensor, mask: Tensor, radius: int) -> Tensor:
    """Return for each cell of (B, M, rows, cols) the mean over the object's cells on the square ring at `radius`."""
    total, count = _ring(x * mask, radius), _ring(mask[None, None].to(x.dtype), radius)
    return torch.where(count > 0.5, total / count.clamp(min=1), x)


def _ring(x: Tensor, radius: int) -> Tensor:
    """Return the sum over the square ring at `radius`, (B, M, rows, cols)."""
    return _square(x, radius) - _square(x, radius - 1)


def _square(x: Tensor, radius: int) -> Tensor:
    """Return the sum over the square that reaches `radius` cells each way; sums of sums take a tenth of the work."""
    side = 2 * radius + 1
    down = functional.avg_pool2d(x, (side, 1), 1, (radius, 0), divisor_override=1)
    return functional.avg_pool2d(down, (1, side), 1, (0, radius), divisor_override=1)


def decision_maps(errors: Tensor, zones: Zones, rule: Rule, expected: Tensor | None = None) -> Tensor:
    """Return each error map in the rule's unit, (B, M, rows, cols); expected: of z, for the rule adaptive."""
    value = errors if rule.name == "classic" else standardise(errors, zones)
    if expected is not None:
        value = torch.where(zones.mask, value - expected, (value - expected).amin((2, 3), keepdim=True))
    if rule.name in ("deviation", "classic"):
        deviation = value - neighbours(value, zones.mask, rule.radius)
        value = _on_top(value, deviation, zones.mask)
    centre, scale = rule.unit(value)
    return (value - centre) / scale * zones.weight


def decision_map(errors: Tensor, zones: Zones, rule: Rule, expected: Tensor | None = None) -> Tensor:
    """Return what is compared with the threshold, (B, rows, cols); its maximum is the score."""
    return decision_maps(errors, zones, rule, expected).amax(1)


def scores(decisions: Tensor) -> Tensor:
    """Return the score (B,) of each decision map (B, rows, cols); a NaN anywhere makes it NaN."""
    return decisions.flatten(1).amax(1)


def _on_top(value: Tensor, deviation: Tensor, mask: Tensor) -> Tensor:
    """Return the deviation where `value` is among the object's top 10 %, elsewhere its smallest."""
    inside = value[..., mask]
    k = max(1, round(TOP * inside.shape[-1]))
    bar = inside.topk(k, -1).values[..., -1]
    top = (value >= bar[..., None, None]) & mask
    return torch.where(top, deviation, deviation[..., mask].amin(-1)[..., None, None])


def learn_rule(name: str, errors: Tensor, zones: list[Zones], expected: Sequence[Tensor | None]) -> Rule:
    """Return the rule `name` fitted on good parts' held-out errors (N, M, rows, cols), zones and expectations.

    Several maps are brought into one unit: each by median and robust deviation of the scores it gives good parts.
    """
    count = errors.shape[1]
    plain = Rule(name, AROUND if name in ("zone", "adaptive") else 1, (0.0,) * count, (1.0,) * count)
    if name == "deviation":
        candidates = (plain._replace(radius=radius) for radius in RADII)
        plain = max(candidates, key=lambda rule: _notice(rule, errors, zones))
    if name != "classic" and count == 1:
        return plain
    good = good_scores(plain, errors, zones, expected)
    if name == "classic":
        return plain._replace(centre=good.mean(0).tolist(), scale=good.std(0).tolist())
    median = good.median(0).values
    deviation = 1.4826 * (good - median).abs().median(0).values
    return plain._replace(centre=median.tolist(), scale=deviation.clamp(min=1e-6).tolist())


def good_scores(rule: Rule, errors: Tensor, zones: Sequence[Zones], expected: Sequence[Tensor | None]) -> Tensor:
    """Return the score (N, M) that each map alone gives each good part, by its own held-out zones."""
    maps = [decision_maps(e[None], z, rule, x) for e, z, x in zip(errors, zones, expected, strict=True)]
    return torch.cat(maps).flatten(2).amax(2)


def _notice(rule: Rule, errors: Tensor, zones: list[Zones]) -> float:
    """Return how far a ring lets a blob of unit height stand out, in units of what good parts reach."""
    reach = 4 * RADII[-1]
    axis = torch.arange(-reach, reach + 1, dtype=torch.float32)
    blob = torch.exp(-0.5 * (axis[:, None] ** 2 + axis**2) / DEFECT_SIGMA**2)[None, None]
    seen = (blob - neighbours(blob, torch.ones_like(blob[0, 0]).bool(), rule.radius))[0, 0, reach, reach]
    return float(seen / good_scores(rule, errors, zones, [None] * len(errors)).quantile(0.95))
