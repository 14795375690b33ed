"""Defective parts that the user has: judged by the finished bundle and reported, never used for the limit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from line_worker.errors import DatasetError, ImageError
from line_worker.images import IMAGE_SUFFIXES, read_image
from line_worker.vision.inspection import Inspection


def find(folder: Path) -> list[Path]:
    """Return the images under `folder` by name; raises DatasetError when there is none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise DatasetError(f"{folder}: holds no image of a bad part. Nothing was written; leave out --bad or fill it")
    return paths


def judge(
    folder: Path, inspection: Inspection, progress: Callable[[float], None]
) -> dict[str, tuple[float | None, str]]:
    """Return score and reason by name of each image under `folder`; the score is None when there was none.

    An image that cannot be read is a reject with its reason, as on the line. Raises what `find` raises.
    """
    paths = find(folder)
    found: dict[str, tuple[float | None, str]] = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        try:
            judged = inspection.inspect([read_image(path)])[0]
            found[name] = judged.score, judged.reason.name
        except ImageError as error:
            found[name] = None, error.reason.name
        progress(len(found) / len(paths))
    return found
