"""The user's masks: for each good picture an image of the same size, not zero where the part is.

Files bear the names of the good pictures, whatever the suffix, or NAME_mask as in MVTec AD. Everything that is wrong
with them is said at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from calib.dataset import LISTED, Dataset, listed
from line_worker.errors import DatasetError, ImageError
from line_worker.images import IMAGE_SUFFIXES, read_image
from line_worker.vision.background import Plane, shrink
from line_worker.vision.locate import AREA_MAX, AREA_MIN, LOCATE_SIDE, SHARE_MIN, largest
from line_worker.vision.template import FINE_SIDE

SUFFIX = "_mask"

Progress = Callable[[float], None]


def read_masks(folder: Path, data: Dataset, progress: Progress = lambda _: None) -> list[Plane]:
    """Return for each good image the share of part in each pixel, float32 (h, w), LOCATE_SIDE on its long side.

    Raises DatasetError, naming files, for masks that are missing, cannot be read, are of another size than the picture,
    mark nothing or nearly everything, or several pieces.
    """
    if not folder.is_dir():
        raise DatasetError(f"{folder}: is not a folder. Nothing was learned; give the folder in which the masks lie")
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES}
    wanted = [Path(name).stem for name in data.names]
    paths = [found.get(stem) or found.get(stem + SUFFIX) for stem in wanted]
    missing = [name for name, path in zip(data.names, paths, strict=True) if path is None]
    if missing:
        raise DatasetError(
            f"{folder}: holds no mask for {len(missing)} of {len(data.names)} good images: "
            f"{', '.join(missing[:LISTED])}{', ...' if len(missing) > LISTED else ''}. Nothing was learned; paint the "
            f"part in these too, as NAME.png or NAME{SUFFIX}.png, or leave the images out with --exclude FILE"
        )
    masks, problems = [], []
    for path, image in zip(paths, data.images, strict=True):
        assert path is not None
        try:
            masks.append(_read(path, (image.shape[0], image.shape[1])))
        except ImageError as error:
            problems.append(str(error))
        progress((len(masks) + len(problems)) / len(paths))
    if problems:
        raise DatasetError(
            f"{folder}: {len(problems)} of {len(paths)} masks cannot be used. Nothing was learned; correct them:\n"
            f"{listed(problems)}"
        )
    return masks


def _read(path: Path, shape: tuple[int, int]) -> Plane:
    """Return the mask in a file, shrunk; raises ImageError saying what is wrong with it."""
    image = read_image(path)
    if image.shape[:2] != shape:
        size = f"{image.shape[1]} x {image.shape[0]}"
        raise ImageError(f"{path.name} is {size}, its picture {shape[1]} x {shape[0]}")
    marked = np.ascontiguousarray(image.reshape(*shape, -1).any(2), np.uint8)
    middle = shrink(_part(path.name, marked), FINE_SIDE)[0]  # by the very steps by which its picture is shrunk
    return np.asarray(shrink(middle, LOCATE_SIDE)[0], np.float32)


def _part(name: str, marked: NDArray[np.uint8]) -> Plane:
    """Return the marked piece without its holes, (H, W) in 0..1: the network is to see a part as one."""
    if not marked.any():
        raise ImageError(f"{name} is empty: it marks no pixel as part")
    share = float(marked.mean())
    if share >= AREA_MAX:
        raise ImageError(f"{name} marks {share:.0%} of the picture as part; background must be seen around it")
    piece, of_all = largest(marked)
    if of_all < SHARE_MIN:
        raise ImageError(f"{name} marks several pieces, the largest of them {of_all:.0%} of all; mark one part")
    if float(piece.mean()) <= AREA_MIN:
        raise ImageError(f"{name} marks {share:.2%} of the picture as part, too little to be found")
    return piece.astype(np.float32)
