"""From a picture of a part to its canonical picture: located, posed against templates of good parts, straightened.

A picture that cannot be brought there is a reason, never an exception and never a guess: SHAPE when it is not what the
rectifier learned on, NO_OBJECT when there is no separate part, POSE when the part is not found as good parts lie.
Rotation and translation only, never a mirror: many parts are chiral.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from line_worker.errors import ConfigError
from line_worker.verdicts import Reason
from line_worker.vision.arrays import part
from line_worker.vision.background import Image, Plane
from line_worker.vision.canonical import canonical_matrix, canonical_size, divide_background, straighten
from line_worker.vision.frame import Frame, common_frame, look_at, sampled, showing
from line_worker.vision.geometry import Matrix
from line_worker.vision.head import Head
from line_worker.vision.locate import Located, Method
from line_worker.vision.posing import Posing, Still
from line_worker.vision.template import Look, look

PoseMethod = Literal["none", "translate", "rigid"]
Progress = Callable[[float], None]

BELONGS = 0.05  # a pixel belongs to the part when it did in more than this share of good images
DILATION = 9
OUTSIDE_SLACK = 0.02  # share of the part's outline that may lie outside the frame beyond what good parts showed
RIM_POINTS = 256


class Rectified(NamedTuple):
    """A canonical picture and how it came about.

    canonical: float32 (H, W) or (H, W, 3), 1 + (I - bg) / max(bg, 64 of 255): I / bg except on dark backgrounds, so
    1.0 is background; with `full` I / full scale. matrix: float64 (2, 3), canonical pixel (x, y) to image pixel.
    quality: correlation with the template, 1.0 when no pose is searched. reason: NONE, SHAPE, NO_OBJECT or POSE; with
    SHAPE and NO_OBJECT the canonical picture is empty background.
    """

    canonical: Plane
    matrix: Matrix
    quality: float
    reason: Reason


@dataclass(frozen=True, eq=False)
class Rectifier:
    """Brings pictures of one kind of part into its canonical frame; learned once, the same ever after.

    frame: what images must be. size: (H, W) of the canonical picture. scale: its pixels per image pixel. outside: share
    of the part's outline that may lie outside the frame. placer: finds the pose; None when texture fills the frame.
    occupancy: float32 (H, W), share of good parts that were there. mean: float32 canonical picture of the average part.
    head: the network that locates; None when the background does, or when there is nothing to locate.
    """

    frame: Frame
    size: tuple[int, int]
    scale: float
    outside: float
    placer: Posing | Still | None
    occupancy: Plane
    mean: Plane
    head: Head | None = None

    @classmethod
    def learn(
        cls,
        images: Sequence[Image],
        *,
        locate: Method,
        pose: PoseMethod,
        names: Sequence[str] | None = None,
        progress: Progress | None = None,
        looks: Sequence[Look] | None = None,
        head: Head | None = None,
    ) -> Rectifier:
        """Learn from good images, uint8 or uint16, (H, W) or (H, W, 3) BGR, all alike; errors use their `names`.

        `progress` is told the share of the work that is done. `looks` are those of `sampled(images)`, if at hand.
        `head` is the network that locates when `locate` is head.
        Raises ConfigError for a pose without a located part, and DatasetError, naming images, when they differ in size
        or channels, or do not show one part each.
        """
        if locate == "full" and pose != "none":
            raise ConfigError("pose", [f"pose {pose} needs a located part; use locate background, or pose none"])
        names = names or [f"image {k}" for k in range(len(images))]
        tell = progress or (lambda _: None)
        frame = common_frame(images, names)
        images, names = sampled(images), sampled(names)
        if locate == "full":
            size, scale = canonical_size(frame.shape[1], frame.shape[0])
            return cls(frame, size, scale, 1.0, None, *_blank(frame, size))._averaged(images, tell)
        seen = look_at(images, frame.white, head, lambda s: tell(0.3 * s)) if looks is None else looks
        placer, box = _learn_placer(showing(seen, names, head is not None), pose, lambda s: tell(0.3 + 0.5 * s))
        size, scale = canonical_size(*box)
        draft = cls(frame, size, scale, 1.0, placer, *_blank(frame, size), head)
        return draft._averaged(images, lambda s: tell(0.8 + 0.2 * s))

    def _averaged(self, images: Sequence[Image], tell: Progress) -> Rectifier:
        """Return this rectifier with occupancy, mean and the share outside the frame, measured on good images."""
        total, occupancy = np.zeros(self.mean.shape), np.zeros(self.size)
        matrices = []
        for k, image in enumerate(images):
            done, located = self.rectify_located(image)
            if done.reason is Reason.NONE:
                total += done.canonical
                occupancy += 1.0 if located is None else in_canonical(located, done.matrix, self.size)
                matrices.append(done.matrix)
            tell((k + 1) / len(images))
        n = max(1, len(matrices))
        known = replace(self, occupancy=(occupancy / n).astype(np.float32), mean=(total / n).astype(np.float32))
        outside = max((known._outside(matrix) for matrix in matrices), default=0.0)
        return replace(known, outside=outside + OUTSIDE_SLACK)

    @cached_property
    def template_mask(self) -> NDArray[np.bool_]:
        """The canonical pixels (H, W) that belong to the part, with a margin of half of DILATION."""
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (DILATION, DILATION))
        return np.asarray(cv2.dilate((self.occupancy > BELONGS).astype(np.uint8), disc) > 0)

    @cached_property
    def rim(self) -> Matrix:
        """Points (n, 2) on the part's outline in canonical pixels."""
        part = (self.occupancy > 0.5).astype(np.uint8)
        contours = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
        points = np.concatenate([np.zeros((0, 2)), *(c[:, 0] for c in contours)])
        return points[:: -(-len(points) // RIM_POINTS) or 1]

    def rectify(self, image: Image) -> Rectified:
        """Return the canonical picture of the part in `image`, or the reason why none can be trusted."""
        return self.rectify_located(image)[0]

    def look(self, image: Image) -> Look:
        """Locate the part in `image`, as `rectify` does."""
        return look(image, self.frame.white, self.head)

    def rectify_located(self, image: Image) -> tuple[Rectified, Located | None]:
        """Return what `rectify` does, and where the part was located, None when that was not tried."""
        if not self.frame.fits(image):
            return self._empty(Reason.SHAPE), None
        if self.placer is None:
            return self._whole(image), None
        seen = self.look(image)
        if not seen.located.found:
            return self._empty(Reason.NO_OBJECT), seen.located
        placed = self.placer.place(seen)
        matrix = canonical_matrix(placed.pose, self.size, self.scale)
        pixels = straighten(image, matrix, self.size)
        canonical = divide_background(pixels, seen.located.surface, matrix, self.frame.shape, self.frame.white)
        sound = placed.sound and self._outside(matrix) <= self.outside
        return Rectified(canonical, matrix, placed.quality, Reason.NONE if sound else Reason.POSE), seen.located

    def _whole(self, image: Image) -> Rectified:
        resized = cv2.resize(image, self.size[::-1], interpolation=cv2.INTER_AREA)
        canonical = resized.astype(np.float32) / np.float32(self.frame.white)
        return Rectified(canonical, self.frame_matrix(), 1.0, Reason.NONE)

    def _empty(self, reason: Reason) -> Rectified:
        return Rectified(np.ones(self.mean.shape, np.float32), self.frame_matrix(), 0.0, reason)

    def frame_matrix(self) -> Matrix:
        """Return the matrix that lays the canonical picture over the whole frame."""
        x, y = self.frame.shape[1] / self.size[1], self.frame.shape[0] / self.size[0]
        return np.array([[x, 0, 0.5 * x - 0.5], [0, y, 0.5 * y - 0.5]])

    def _outside(self, matrix: Matrix) -> float:
        """Return the share of the part's outline that lies outside the frame."""
        if not len(self.rim):
            return 0.0
        points = self.rim @ matrix[:, :2].T + matrix[:, 2]
        return float(np.mean(np.any((points < -0.5) | (points > np.array(self.frame.shape[::-1]) - 0.5), axis=1)))

    def state(self) -> dict[str, NDArray[Any]]:
        """Return the arrays of `from_state`."""
        arrays = {} if self.placer is None else self.placer.arrays()
        if self.head is not None:
            arrays |= {f"head.{name}": array for name, array in self.head.state().items()}
        return {"occupancy": self.occupancy, "mean": self.mean, **arrays}

    def meta(self) -> dict[str, Any]:
        """Return the rest of what `from_state` needs; JSON keeps it exactly."""
        frame = self.frame._asdict() | {"shape": list(self.frame.shape)}
        placer = None if self.placer is None else {"kind": _kind(self.placer), **self.placer.meta()}
        head = None if self.head is None else self.head.meta()
        own = {"size": list(self.size), "scale": self.scale, "outside": self.outside}
        return {"frame": frame, "placer": placer, "head": head, **own}

    @classmethod
    def from_state(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Rectifier:
        """Return the rectifier that gave `state()` and `meta()`; it rectifies bit-identically."""
        frame = Frame(**(meta["frame"] | {"shape": tuple(meta["frame"]["shape"])}))
        size = (meta["size"][0], meta["size"][1])
        placer = _restored(arrays, meta["placer"])
        known = meta.get("head")  # bundles of before there was one lack it
        head = None if known is None else Head.restore(part(arrays, "head"), known)
        return cls(frame, size, meta["scale"], meta["outside"], placer, arrays["occupancy"], arrays["mean"], head)


def _kind(placer: Posing | Still) -> str:
    return "posing" if isinstance(placer, Posing) else "still"


def _restored(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any] | None) -> Posing | Still | None:
    if meta is None:
        return None
    return Posing.restore(arrays, meta) if meta["kind"] == "posing" else Still.restore(meta)


def _blank(frame: Frame, size: tuple[int, int]) -> tuple[Plane, Plane]:
    """Return an empty occupancy and an empty mean picture."""
    return np.zeros(size, np.float32), np.zeros(size if frame.channels == 1 else (*size, frame.channels), np.float32)


def in_canonical(located: Located, matrix: Matrix, size: tuple[int, int]) -> Plane:
    """Return the located part's mask in the canonical frame of `size`, (H, W) in 0..1."""
    to_mask = matrix * located.scale
    to_mask[:, 2] += 0.5 * located.scale - 0.5
    mask = located.mask.astype(np.float32)
    placed: Plane = cv2.warpAffine(mask, to_mask, size[::-1], flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return placed


def _learn_placer(
    looks: Sequence[Look], pose: PoseMethod, tell: Progress
) -> tuple[Posing | Still, tuple[float, float]]:
    if pose == "none":
        return Still.learn(looks, tell)
    return Posing.learn(looks, 3 if pose == "rigid" else 2, tell)
