"""Images of a folder in the order of their names, at a rate, once or looped; or watched for new ones.

An image that cannot be read is a trigger all the same: it becomes NO_DECISION(DECODE), never a silent gap. A part's id
is its file's path within the folder, with a replacement character for every byte that is not UTF-8.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING

from line_worker.errors import ImageError, SourceError
from line_worker.images import IMAGE_SUFFIXES, read_image
from line_worker.source.pacing import PacedSource, Shot

if TYPE_CHECKING:
    from line_worker.config import FolderSource

POLL_S = 0.05


class Settling:
    """Tells which files are finished: those whose size and time have not changed for `settle_s`.

    Each file is named once, as long as it exists; a name that is used again later is a new file.
    """

    def __init__(self, settle_s: float) -> None:
        self._settle_s = settle_s
        self._growing: dict[str, tuple[tuple[int, int], float]] = {}  # name -> (size, mtime), last change
        self._done: set[str] = set()

    @property
    def done(self) -> Set[str]:
        """Names that have been told, or are to be ignored: they need no second look."""
        return self._done

    def ignore(self, names: Iterable[str]) -> None:
        """Leave these files out."""
        self._done.update(names)

    def update(self, listing: dict[str, tuple[int, int]], now: float) -> list[tuple[float, str]]:
        """Take the folder as it is, name -> (size, mtime); return (moment of last change, name) of finished files."""
        self._done &= listing.keys()
        changed = {name: look for name, look in listing.items() if name not in self._done}
        self._growing = {
            name: known if (known := self._growing.get(name)) and known[0] == look else (look, now)
            for name, look in changed.items()
        }
        finished = sorted((at, name) for name, (_, at) in self._growing.items() if now - at >= self._settle_s)
        self._done.update(name for _, name in finished)
        return finished


class FolderFrames(PacedSource):
    """See the module's text. A watched folder gives only files that appear after the first `open`."""

    ahead = 1

    def __init__(self, config: FolderSource) -> None:
        super().__init__()
        self._config = config
        self._settling: Settling | None = None
        self._stop = threading.Event()

    def open(self) -> None:
        """Look into the folder; SourceError when it is missing, or holds no image and is not watched."""
        names = sorted(self._listing())
        if not names and not self._config.watch:
            raise SourceError(
                f"{self._config.path}: holds no image ({', '.join(IMAGE_SUFFIXES)}); there is nothing to inspect; "
                "put images there, or set watch = true to wait for them"
            )
        if self._settling is None:
            self._settling = Settling(self._config.settle_ms / 1000)
            self._settling.ignore(names)
        super().open()

    def close(self) -> None:
        """Stop reading and watching."""
        self._stop.set()
        super().close()

    def shots(self) -> Generator[Shot]:
        """Yield the folder's images in order, or new ones as they are finished."""
        self._stop.clear()
        return self._watched() if self._config.watch else self._in_order(sorted(self._listing()))

    def _in_order(self, names: list[str]) -> Generator[Shot]:
        endless = itertools.cycle(names) if self._config.loop else iter(names)
        for number, name in enumerate(endless):
            yield self._shot(name)._replace(offset=number / self._config.rate, trigger=number)

    def _watched(self) -> Generator[Shot]:
        assert self._settling is not None
        number = 0
        while not self._stop.wait(POLL_S):
            for at, name in self._settling.update(self._listing(self._settling.done), time.monotonic()):
                yield self._shot(name)._replace(at=at, trigger=number)
                number += 1

    def _shot(self, name: str) -> Shot:
        part_id = os.fsencode(name).decode("utf-8", "replace")  # no message holds what Python makes of other bytes
        try:
            return Shot(read_image(self._config.path / name), part_id=part_id)
        except ImageError as error:
            return Shot(None, part_id=part_id, problem=error.reason)

    def _listing(self, known: Set[str] = frozenset()) -> dict[str, tuple[int, int]]:
        """Return every image below the folder: relative path -> (bytes, time of change); (0, 0) for known ones."""
        try:
            images = {name: entry for name, entry in _files(self._config.path) if name.lower().endswith(IMAGE_SUFFIXES)}
        except OSError as error:
            raise SourceError(
                f"{self._config.path}: cannot be listed ({error.strerror}); no images come from it; "
                "check that the folder exists and may be read"
            ) from error
        looks = ((name, (0, 0) if name in known else _look(entry)) for name, entry in images.items())
        return {name: look for name, look in looks if look is not None}


def _look(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    try:
        info = entry.stat()
    except FileNotFoundError:  # renamed or removed since the folder was listed
        return None
    return info.st_size, info.st_mtime_ns


def _files(folder: Path | str, prefix: str = "") -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield (relative path, entry) of every file below `folder`; links to folders are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name, entry
