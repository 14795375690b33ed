"""Where a part lies, and whether that can be trusted: `Posing` searches with templates, `Still` knows the place.

A mirrored or slightly smaller part fits the templates well enough to be found, so the fit alone is not enough: its
area, its measured size and the side that lies up are held against what good parts showed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from line_worker.errors import DatasetError
from line_worker.vision.geometry import Pose
from line_worker.vision.learning import CROP_MARGIN, CROP_MARGIN_MIN, OCCUPIED, Learned, find, learn
from line_worker.vision.locate import Located
from line_worker.vision.lucas_kanade import refine
from line_worker.vision.template import COARSE_TOLERANCE, Coarse, Fine, Found, Look, View, prepare

Progress = Callable[[float], None]

SLIP = 0.1  # a part that always lies in its place may seem off by this share of its size: a bite moves its centre too
# A fit this far below the median is still good: few learning images make it look too even, and other light is no wrong
# pose. On MVTec AD's screw good parts fit to 0.77 or better (median 0.94), in a wrong direction to 0.57 at most.
QUALITY_SLACK = 0.25
AREA_TOLERANCE = 0.25  # soft shadows move the area by more than they move the size
SIZE_TOLERANCE, SIZE_STEPS = 0.04, 4
HANDED_SLACK = 0.01
SIGMAS = 6.0  # of the robust spread of good parts, where that is wider
AREA_DEVIATION_MAX = 0.25  # robust relative deviation of the areas of good parts
QUALITY_MIN = 0.6  # median over good parts: below it, they do not look alike
BRIGHTEST = 95.0  # percentile of the signed deviation on a part that counts as its brightest


class Placed(NamedTuple):
    """A part's pose, how well the template fits there (1.0 when nothing was searched), and whether to trust it."""

    pose: Pose
    quality: float
    sound: bool


class Range(NamedTuple):
    """What good parts showed: a centre and how far from it is still good."""

    centre: float
    tolerance: float

    @classmethod
    def of(cls, values: Sequence[float], least: float) -> Range:
        """Return the median of `values`, tolerating SIGMAS robust deviations or `least`."""
        centre = float(np.median(values))
        deviation = 1.4826 * float(np.median(np.abs(np.array(values) - centre)))
        return cls(centre, max(least, SIGMAS * deviation))

    def low(self) -> float:
        """Return the lowest value that is still good."""
        return self.centre - self.tolerance

    def holds(self, value: float) -> bool:
        """Return whether `value` is within the tolerance."""
        return abs(value - self.centre) <= self.tolerance


class Still:
    """Parts that always lie in the same place: nothing is searched; area and centre are held against good parts.

    where: of the located part's centre, (x, y) in pixels.
    """

    def __init__(self, pose: Pose, area: Range, where: tuple[Range, Range]) -> None:
        self.pose, self.area, self.where = pose, area, where

    @classmethod
    def learn(cls, looks: Sequence[Look], progress: Progress) -> tuple[Still, tuple[float, float]]:
        """Return it with the box (width, height) in pixels that holds all of the good parts."""
        scale = looks[0].located.scale
        occupied = np.mean([seen.located.mask for seen in looks], axis=0) > OCCUPIED
        rows, cols = np.nonzero(occupied)
        ends = [((axis.min() + 0.5) / scale - 0.5, (axis.max() + 0.5) / scale - 0.5) for axis in (cols, rows)]
        width, height = (float(high - low + 1 / scale) for low, high in ends)
        margin = max(CROP_MARGIN_MIN, CROP_MARGIN * width)
        x, y = (float(low + high) / 2 for low, high in ends)
        area = _area([seen.located.area for seen in looks])
        least = SLIP * float(np.sqrt(area.centre))
        across, down = (Range.of([seen.located.centre[axis] for seen in looks], least) for axis in (0, 1))
        progress(1.0)
        return cls(Pose(0.0, x, y), area, (across, down)), (width + 2 * margin, height + 2 * margin)

    def place(self, seen: Look) -> Placed:
        """Return the fixed pose."""
        there = all(limit.holds(at) for limit, at in zip(self.where, seen.located.centre, strict=True))
        return Placed(self.pose, 1.0, there and self.area.holds(seen.located.area))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `restore` needs and JSON cannot hold."""
        return {}

    def meta(self) -> dict[str, Any]:
        """Return what else `restore` needs, for JSON."""
        where = [list(limit) for limit in self.where]
        return {"centre": [self.pose.x, self.pose.y], "area": list(self.area), "where": where}

    @classmethod
    def restore(cls, meta: Mapping[str, Any]) -> Still:
        """Return the same again from what `meta` returned."""
        across, down = (Range(*limit) for limit in meta["where"])
        return cls(Pose(0.0, *meta["centre"]), Range(*meta["area"]), (across, down))


class Posing:
    """Parts that lie anywhere: found with templates of good parts.

    threshold: deviation that separates part from shadow. brightest: deviation of the part's brightest places, at least
    1; deviations are divided by it, or all of a bright part on a dark background would look the same.
    """

    def __init__(
        self, coarse: Coarse, fine: Fine, threshold: float, brightest: float, ranges: dict[str, Range]
    ) -> None:
        self.coarse, self.fine, self.ranges = coarse, fine, ranges
        self.threshold, self.brightest = threshold, brightest

    @classmethod
    def learn(cls, looks: Sequence[Look], parameters: int, progress: Progress) -> tuple[Posing, tuple[float, float]]:
        """Return it with the box (width, height) in pixels that holds a part, whose pose is the box's centre.

        parameters: 2 when parts only move, 3 when they also turn. Raises DatasetError when they do not look alike.
        """
        areas = np.array([seen.located.area for seen in looks])
        typical = _area(areas.tolist())
        deviation = Range.of((areas / typical.centre).tolist(), 0.0).tolerance / SIGMAS
        if deviation > AREA_DEVIATION_MAX:
            raise _unlike(f"their areas differ by {deviation:.0%}, allowed {AREA_DEVIATION_MAX:.0%}")
        spread = max(0.1, 4 * deviation)
        usual = [seen for seen, area in zip(looks, areas, strict=True) if abs(area / typical.centre - 1) < spread]
        threshold = float(np.median([seen.located.threshold for seen in looks]))
        brightest = max(1.0, float(np.median([_brightest(seen.located) for seen in usual])))
        views = [_prepared(seen, threshold, brightest) for seen in usual]
        learned = learn(views, parameters, progress)
        ranges = _ranges(learned, views, typical)
        return cls(learned.coarse, learned.fine, threshold, brightest, ranges), learned.box

    def place(self, seen: Look) -> Placed:
        """Return where the part lies."""
        view = _prepared(seen, self.threshold, self.brightest)
        found = find(self.coarse, self.fine, view)
        limits = self.ranges
        sound = (
            found.quality >= limits["quality"].low()
            and found.handedness >= min(0.0, limits["handedness"].low()) - HANDED_SLACK
            and limits["area"].holds(view.located.area)
            and limits["size"].holds(relative_size(self.coarse, view, found.pose))
        )
        return Placed(found.pose, found.quality, sound)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what `restore` needs and JSON cannot hold."""
        fine = {"fine_mean": self.fine.mean, "fine_deviation": self.fine.deviation}
        return fine | {f"coarse_{k}": plane for k, plane in enumerate(self.coarse.maps)}

    def meta(self) -> dict[str, Any]:
        """Return what else `restore` needs, for JSON."""
        return {
            "parameters": self.coarse.parameters,
            "radius": self.coarse.radius,
            "coarse_step": self.coarse.step,
            "fine_step": self.fine.step,
            "threshold": self.threshold,
            "brightest": self.brightest,
            "ranges": {name: list(r) for name, r in self.ranges.items()},
        }

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Posing:
        """Return the same again from what `arrays` and `meta` returned."""
        maps = (arrays["coarse_0"], arrays["coarse_1"], arrays["coarse_2"], arrays["coarse_3"])
        coarse = Coarse(meta["radius"], meta["coarse_step"], meta["parameters"], maps)
        fine = Fine(meta["fine_step"], meta["parameters"], arrays["fine_mean"], arrays["fine_deviation"])
        ranges = {name: Range(*r) for name, r in meta["ranges"].items()}
        return cls(coarse, fine, meta["threshold"], meta["brightest"], ranges)


def relative_size(coarse: Coarse, view: View, pose: Pose) -> float:
    """Return the part's size over the template's, measured by letting the search change it too."""
    return refine(view.phi, coarse.target, pose, SIZE_STEPS, COARSE_TOLERANCE, 4).magnification


def _brightest(located: Located) -> float:
    return float(np.percentile(located.signed[located.mask > 0], BRIGHTEST))


def _prepared(seen: Look, threshold: float, brightest: float) -> View:
    signed = seen.located.signed / np.float32(brightest)
    return prepare(seen._replace(located=seen.located._replace(signed=signed)), threshold)


def _area(areas: Sequence[float]) -> Range:
    centre = float(np.median(areas))
    relative = Range.of([area / centre for area in areas], AREA_TOLERANCE)
    return Range(centre, centre * relative.tolerance)


def _ranges(learned: Learned, views: Sequence[View], area: Range) -> dict[str, Range]:
    """Return what the good views showed; raises DatasetError when they do not look alike."""
    found: Sequence[Found] = learned.found
    quality = Range.of([f.quality for f in found], QUALITY_SLACK)
    if quality.centre < QUALITY_MIN:
        raise _unlike(f"median fit {quality.centre:.2f}, needed {QUALITY_MIN}")
    sizes = [relative_size(learned.coarse, view, f.pose) for view, f in zip(views, found, strict=True)]
    return {
        "quality": quality,
        "area": area,
        "size": Range.of(sizes, SIZE_TOLERANCE),
        "handedness": Range.of([f.handedness for f in found], 0.0),
    }


def _unlike(why: str) -> DatasetError:
    return DatasetError(
        f"the good parts do not look alike ({why}), so no pose can be learned; check that the folder holds one kind of "
        "part seen from one side, or use --locate full"
    )
