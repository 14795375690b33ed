"""What the good images have in common: one size and type, one part in each; what is wrong with them, by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from numpy.typing import NDArray

from line_worker.errors import DatasetError
from line_worker.vision.background import Image
from line_worker.vision.locate import Segmenter
from line_worker.vision.template import Look, look

LEARN_FROM = 400  # of more images every second, third ... is taken: more do not sharpen the templates
LOCATED_MIN = 0.9  # share of good images that must show a part
NAMED = 5  # images named in an error
GIVE_MASKS = (
    "Use --locate full when texture fills the frame; otherwise leave a border of plain background around one part, or "
    "mark the part in every good image and give --masks DIR"
)
CHECK_MASKS = "Check their masks; where the part looks like its surroundings, take more images or a calmer background"

Progress = Callable[[float], None]
T = TypeVar("T")


class Frame(NamedTuple):
    """What every image must be: (H, W), 1 or 3 channels, its type, and the value of full scale."""

    shape: tuple[int, int]
    channels: int
    dtype: str
    white: float

    def fits(self, image: NDArray[Any]) -> bool:
        """Return whether `image` is of this shape and type."""
        want = self.shape if self.channels == 1 else (*self.shape, self.channels)
        return image.shape == want and image.dtype == self.dtype


def sampled(items: Sequence[T]) -> Sequence[T]:
    """Return those of the good images, or of what belongs to them, that are learned from: at most LEARN_FROM."""
    return items[:: -(-len(items) // LEARN_FROM)]


def look_at(images: Sequence[Image], white: float, head: Segmenter | None, tell: Progress) -> list[Look]:
    """Locate the part in every image."""
    looks = []
    for image in images:
        looks.append(look(image, white, head))
        tell(len(looks) / len(images))
    return looks


def showing(looks: Sequence[Look], names: Sequence[str], trained: bool = False) -> list[Look]:
    """Return the looks that show one part; raises DatasetError, naming images, when too many do not.

    trained: a network located it, not the background.
    """
    lost = [(name, seen.located.why) for name, seen in zip(names, looks, strict=True) if not seen.located.found]
    if len(looks) - len(lost) < LOCATED_MIN * len(looks):
        why = "; ".join(f"{count} x {text}" for text, count in Counter(why for _, why in lost).most_common(3))
        where, advice = ("to the trained network", CHECK_MASKS) if trained else ("on a plain background", GIVE_MASKS)
        raise DatasetError(
            f"{len(lost)} of {len(looks)} good images show no single part {where} ({why}): "
            f"{_listed([name for name, _ in lost])}. {advice}"
        )
    return [seen for seen in looks if seen.located.found]


def common_frame(images: Sequence[Image], names: Sequence[str]) -> Frame:
    """Return what all images are; raises DatasetError naming those that differ from the majority."""
    if len(images) < 2:
        raise DatasetError(f"{len(images)} good image(s) are too few to learn from; give at least 20")
    kinds = [(image.shape, str(image.dtype)) for image in images]
    (shape, dtype), _ = Counter(kinds).most_common(1)[0]
    odd = [name for name, kind in zip(names, kinds, strict=True) if kind != (shape, dtype)]
    if odd:
        raise DatasetError(
            f"{len(odd)} of {len(images)} good images are not {shape[1]} x {shape[0]} {dtype} with "
            f"{_channels(shape)} channel(s) like the others: {_listed(odd)}. Remove or convert them"
        )
    white = 255.0 if dtype == "uint8" else _white(max(int(image.max()) for image in images))
    return Frame((shape[0], shape[1]), _channels(shape), dtype, white)


def _channels(shape: tuple[int, ...]) -> int:
    return 1 if len(shape) == 2 else shape[2]


def _white(brightest: int) -> float:
    """Return full scale of a camera whose values are stored in 16 bits: 10, 12, 14 or 16 bits."""
    return float(next(2**bits - 1 for bits in (10, 12, 14, 16) if brightest < 2**bits))


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
