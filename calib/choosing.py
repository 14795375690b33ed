"""Chooses from the good images alone how a part is located and posed, and says on what evidence.

The question is always the same: what is the simplest way in which good parts look as alike as they can? Every pose is
tried on a sample of the images, and the pictures that it straightens are compared with their mean. Parts that do not
turn look no more alike with `rigid` than with `translate`, and so do round ones, whose direction noise would draw.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, get_args

import cv2
import numpy as np

from calib.head import Taught
from line_worker.errors import DatasetError
from line_worker.verdicts import Reason
from line_worker.vision.background import Image, Plane
from line_worker.vision.frame import LOCATED_MIN, common_frame, look_at, sampled, showing
from line_worker.vision.head import Head
from line_worker.vision.locate import Located, Method
from line_worker.vision.posing import Posing
from line_worker.vision.rectify import PoseMethod, Rectifier, in_canonical
from line_worker.vision.template import Look

AUTO = "auto"
OTHERWISE = "If there is a part to be found, mark it in every good image and train with --masks DIR"
TRIED = 48  # images on which the poses are compared
BLUR = 1.5  # canonical pixels: texture that no two parts share is not what a pose can align
GAIN = 0.10  # a pose that does more must make good parts this much more alike
CUT = 0.02  # share of the frame's outline that lies on the part, beyond which the frame cuts it
FOLDS = 24  # symmetries considered: a nut has 6, a gear as many as teeth
AGREE, AGREE_FOLD = 1.5, 0.12  # directions agree within so many degrees, and this share of what chance gives

Progress = Callable[[float], None]


class Chosen(NamedTuple):
    """The learned rectifier, what it was learned with, and why: sentences for the report, with figures."""

    rectifier: Rectifier
    locate: str
    pose: str
    why: tuple[str, ...]


class Trial(NamedTuple):
    """A pose that could be learned on the sample, and how unlike good parts look in it, see `unlikeness`."""

    pose: PoseMethod
    unlike: float


class Sample(NamedTuple):
    """Some of the good images that show a part, with where they show it, and the network that sees it there if any."""

    images: list[Image]
    looks: list[Look]
    head: Head | None

    @property
    def locate(self) -> Method:
        """How parts are located."""
        return "background" if self.head is None else "head"

    def learn(self, pose: PoseMethod) -> Rectifier:
        """Return the rectifier that is learned from these images alone."""
        return Rectifier.learn(self.images, locate=self.locate, pose=pose, looks=self.looks, head=self.head)


def choose(
    images: Sequence[Image],
    names: Sequence[str],
    locate: str,
    pose: str,
    progress: Progress = lambda _: None,
    taught: Taught | None = None,
) -> Chosen:
    """Learn the rectifier from good images, uint8 or uint16, (H, W) or (H, W, 3), all alike.

    `locate` and `pose` are methods of `Rectifier.learn`, or "auto". `taught` has the network that locates, where one
    was trained; then nothing else does. `progress` is told the share of the work done.
    Raises what `Rectifier.learn` raises, except that with `auto` parts that cannot be located or posed leave `full`.
    """
    frame = common_frame(images, names)
    if locate == "full":
        return _full(images, names, "none" if pose == AUTO else pose, "locate full, as asked", progress)
    head = None if taught is None else taught.head
    looks = look_at(sampled(images), frame.white, head, lambda share: progress(0.1 * share))
    may_be_full = locate == AUTO and taught is None and pose in (AUTO, "none")
    why_not = _unseparated([seen.located for seen in looks]) if may_be_full else ""
    if not why_not:
        try:
            return _located(images, names, looks, locate, pose, lambda share: progress(0.1 + 0.9 * share), taught)
        except DatasetError as error:
            if not may_be_full:
                raise
            why_not = str(error).partition(";")[0]
    return _full(images, names, "none", f"locate full: {why_not}. {OTHERWISE}", progress)


def _full(images: Sequence[Image], names: Sequence[str], pose: str, why: str, progress: Progress) -> Chosen:
    method: PoseMethod = pose  # type: ignore[assignment]  # the rectifier says what it allows
    rectifier = Rectifier.learn(images, locate="full", pose=method, names=names, progress=progress)
    return Chosen(rectifier, "full", pose, (f"{why}.", "pose none: the picture is the whole frame."))


def _unseparated(located: Sequence[Located]) -> str:
    """Return why the images do not show separate parts, "" when they do."""
    lost = Counter(one.why for one in located if not one.found)
    if len(located) - lost.total() < LOCATED_MIN * len(located):
        reasons = "; ".join(f"{count} x {why}" for why, count in lost.most_common(3))
        return f"{lost.total()} of {len(located)} good images show no single part on a plain background ({reasons})"
    cut = sum(one.found and _on_outline(one) > CUT for one in located)
    if cut > len(located) / 2:
        return f"in {cut} of {len(located)} good images the frame cuts what stands out from the background"
    return ""


def _on_outline(located: Located) -> float:
    """Return the share of the frame's outline that lies on the part."""
    mask = located.mask
    return float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())


def _located(
    images: Sequence[Image],
    names: Sequence[str],
    looks: Sequence[Look],
    locate: str,
    pose: str,
    tell: Progress,
    taught: Taught | None,
) -> Chosen:
    head = None if taught is None else taught.head
    showing(looks, sampled(names), taught is not None)  # raises when too few do
    found = [i for i, seen in enumerate(looks) if seen.located.found]
    some = found[:: -(-len(found) // TRIED) or 1]
    sample = Sample([sampled(images)[i] for i in some], [looks[i] for i in some], head)
    how = f"locate {sample.locate}{', as asked' if locate != AUTO else ''}"
    why = [f"{how}: {len(found)} of {len(looks)} good images show one separate part."]
    why += [] if taught is None else [taught.words()]
    if pose == AUTO:
        method, reason = _best_pose(_trials(sample, locate == AUTO, tell), sample)
        why.append(reason)
    else:
        method = pose  # type: ignore[assignment]  # the rectifier says what it allows
        why.append(f"pose {pose}, as asked.")
    rectifier = Rectifier.learn(
        images,
        locate=sample.locate,
        pose=method,
        names=names,
        progress=lambda share: tell(0.5 + 0.5 * share),
        looks=looks,
        head=head,
    )
    return Chosen(rectifier, sample.locate, method, tuple(why))


def _trials(sample: Sample, must_fit: bool, tell: Progress) -> list[Trial]:
    """Return the poses that can be learned, simplest first.

    `none` always can; with `must_fit` DatasetError is raised when nothing else can: the parts do not look alike.
    """
    trials, failed = [], None
    methods: tuple[PoseMethod, ...] = get_args(PoseMethod)
    for k, method in enumerate(methods):
        try:
            trials.append(Trial(method, unlikeness(sample.learn(method), sample.images)))
        except DatasetError as error:
            failed = error
        tell(0.4 * (k + 1) / len(methods))
    if failed is not None and must_fit and len(trials) == 1:
        raise failed
    return trials


def _best_pose(trials: Sequence[Trial], sample: Sample) -> tuple[PoseMethod, str]:
    """Return the simplest pose in which good parts look about as alike as in the best, and why."""
    best = min(trial.unlike for trial in trials)
    pose = next(trial.pose for trial in trials if trial.unlike * (1 - GAIN) <= best)
    figures = ", ".join(f"{trial.unlike:.3f} with {trial.pose}" for trial in trials)
    why = f"good parts differ from their mean by {figures} (in units of the background)"
    if pose != "rigid":
        return pose, f"pose {pose}: {why}; more freedom makes them no more alike."
    agreement = direction_agreement(sample.looks)
    if agreement is not None:
        return pose, f"pose {pose}: {why}; templates learned apart agree on directions within {agreement:.2f} degrees."
    if any(trial.pose == "translate" for trial in trials):
        return "translate", f"pose translate: {why}, but templates learned apart do not agree on directions."
    return pose, f"pose {pose}: {why}; templates learned apart do not agree on directions, but no other pose holds."


def unlikeness(rectifier: Rectifier, images: Sequence[Image]) -> float:
    """Return how much the straightened pictures of good parts differ from their mean: the median over the images.

    Root of the squared difference over the part's area, in units of the background's brightness; that holds whatever
    the canonical picture's size is. Parts in an unusual pose count, images without a part do not.
    """
    area = float(rectifier.occupancy.sum())  # of the average part
    pictures = [picture for picture in (_straightened(rectifier, image) for image in images) if picture is not None]
    mean = rectifier.mean if rectifier.head is None else np.mean(pictures, axis=0)
    blurred = cv2.GaussianBlur(mean, (0, 0), BLUR)
    away = [cv2.GaussianBlur(picture, (0, 0), BLUR) - blurred for picture in pictures]
    return float(np.median([np.sqrt(np.square(difference).sum() / area) for difference in away]))


def _straightened(rectifier: Rectifier, image: Image) -> Plane | None:
    """Return the canonical picture, None when there is no part to straighten.

    Where a network located it, what lies around the part is painted over: a patterned belt would make the same parts
    look unlike in every pose.
    """
    got, located = rectifier.rectify_located(image)
    if got.reason not in (Reason.NONE, Reason.POSE):
        return None
    if rectifier.head is None or located is None:
        return got.canonical
    part = in_canonical(located, got.matrix, rectifier.size)
    return 1 + (got.canonical - 1) * part.reshape(*part.shape, *[1] * (got.canonical.ndim - 2))


def direction_agreement(looks: Sequence[Look]) -> float | None:
    """Return within how many degrees templates learned from two halves of the parts agree on directions, or None.

    The templates' own directions differ by a constant, and by any turn that leaves a symmetric part as it was. What
    has no direction (a disc, a berry) gets another one from every template.
    """
    try:
        halves = [Posing.learn(looks[k::2], 3, lambda _: None)[0] for k in range(2)]
    except DatasetError:
        return None
    first, second = (np.array([half.place(seen).pose.angle for seen in looks]) for half in halves)
    for folds in range(1, FOLDS + 1):
        turns = np.exp(1j * folds * (first - second))
        away = np.rad2deg(np.abs(np.angle(turns / turns.mean())))
        median = float(np.median(away))
        if median / folds < AGREE and median < AGREE_FOLD * 90:
            return median / folds
    return None
