"""The good images to learn from: found, read and checked before any work starts.

A folder is either flat or a category in MVTec AD's layout, whose train/good is used. Everything that is wrong with it
is said at once: a user who has to fetch images from the line again should have to do it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from line_worker.errors import DatasetError, ImageError
from line_worker.images import IMAGE_SUFFIXES, read_image

MINIMUM = 20  # good images without which neither statistics nor a limit mean anything
LISTED = 12  # names in one message

Image = NDArray[np.uint8] | NDArray[np.uint16]


class Dataset(NamedTuple):
    """Good images of one shape and type, with names that are paths relative to `folder`."""

    folder: Path
    names: list[str]
    images: list[Image]


def good_folder(folder: Path) -> Path:
    """Return where the good images lie: train/good of an MVTec AD category, else the folder itself."""
    inside = folder / "train" / "good"
    return inside if inside.is_dir() else folder


def find_images(folder: Path) -> list[Path]:
    """Return the images directly in `folder` by name; raises DatasetError when it is no folder or holds none."""
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is not a folder. Nothing was learned; give a folder of images of good parts")
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not found:
        kinds = ", ".join(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES)
        raise DatasetError(
            f"{folder}: holds no image ({kinds}), nor a folder train/good that does. Nothing was learned; "
            "give the folder in which the images of good parts lie"
        )
    return found


def load(
    folder: Path,
    threads: int = 1,
    progress: Callable[[float], None] = lambda _: None,
    exclude: Path | None = None,
) -> Dataset:
    """Read the good images under `folder`, but those that the text file `exclude` names, one a line.

    Raises DatasetError that names every image that cannot be read and every one of another size, channel count or bit
    depth than most, and when fewer than MINIMUM are usable.
    """
    folder = good_folder(folder)
    paths = find_images(folder)
    if exclude is not None:
        paths = _without(paths, exclude)
    if len(paths) < MINIMUM:
        raise _too_few(folder, len(paths))
    with ThreadPoolExecutor(threads) as pool:
        read = []
        for image in pool.map(_read, paths):
            read.append(image)
            progress(len(read) / len(paths))
    names = [path.name for path in paths]
    return Dataset(folder, names, _checked(folder, names, read))


def _without(paths: Sequence[Path], exclude: Path) -> list[Path]:
    """Return the paths whose names `exclude` does not hold.

    Raises DatasetError for a name that nothing bears, and when `exclude` is not a text file.
    """
    try:
        text = exclude.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{exclude}: cannot be read as text ({error}). Nothing was learned; give a text file with the names of "
            "images to leave out, one a line"
        ) from error
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    names = {line for line in lines if line}
    unknown = sorted(names - {path.name for path in paths})
    if unknown:
        raise DatasetError(
            f"{exclude}: names {len(unknown)} file(s) that are not among the good images "
            f"({', '.join(unknown[:LISTED])}). Nothing was learned; correct the names, one a line"
        )
    return [path for path in paths if path.name not in names]


def _read(path: Path) -> Image | ImageError:
    try:
        return read_image(path)
    except ImageError as error:
        return error


def _checked(folder: Path, names: Sequence[str], read: Sequence[Image | ImageError]) -> list[Image]:
    images = {name: image for name, image in zip(names, read, strict=True) if not isinstance(image, ImageError)}
    problems = [str(error) for error in read if isinstance(error, ImageError)]
    problems += _misfits(images)
    if problems:
        raise DatasetError(
            f"{folder}: {len(problems)} of {len(names)} images cannot be used together with the others. Nothing was "
            f"learned; remove or replace them:\n{listed(problems)}"
        )
    return list(images.values())


def _misfits(images: dict[str, Image]) -> list[str]:
    """Return a line for each image that is not as most are."""
    kinds = {name: describe(image) for name, image in images.items()}
    (most, count), *others = Counter(kinds.values()).most_common() or [("", 0)]
    if not others:
        return []
    return [f"{name} is {kind}; {count} others are {most}" for name, kind in kinds.items() if kind != most]


def describe(image: Image) -> str:
    """Return an image's shape and type in words."""
    height, width = image.shape[:2]
    return f"{width} x {height} {'gray' if image.ndim == 2 else 'colour'}, {8 * image.itemsize} bit"


def _too_few(folder: Path, count: int) -> DatasetError:
    return DatasetError(
        f"{folder}: holds {count} images, and it takes at least {MINIMUM} good ones to know what is usual. Nothing was "
        "learned; take more (50 allow a limit at 2 % false rejects, 300 a reliable one)"
    )


def listed(problems: Sequence[str]) -> str:
    """Return problems as lines of a message, the first LISTED of them."""
    lines = [f"  - {problem}" for problem in problems[:LISTED]]
    if len(problems) > LISTED:
        lines.append(f"  - and {len(problems) - LISTED} more")
    return "\n".join(lines)
