"""Exports: what OpenVINO's converter made of a bundle, kept by the bundle's sha256 so that a worker starts in a second.

Converting takes several seconds, reading the result one. The folder is systemd's CACHE_DIRECTORY, or the user's cache;
what lies there is never trusted: a file that cannot be read is made again, and one that computes something else does
not reproduce the golden images. Where nothing can be written, every start converts.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

KEPT = 8  # exports, of 30 MB each; those longest unused go
NAME = "model.xml"

log = structlog.get_logger()


def cache_folder() -> Path:
    """Return where exports are kept: CACHE_DIRECTORY, XDG_CACHE_HOME/line-worker or ~/.cache/line-worker."""
    own = os.environ.get("CACHE_DIRECTORY", "").split(":")[0]
    if own:
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache") / "line-worker"


class Exports:
    """The exported model of one bundle, by its sha256 and the versions that wrote it."""

    def __init__(self, sha: str, folder: Path | None = None) -> None:
        versions = "-".join(importlib.metadata.version(name) for name in ("openvino", "line-worker"))
        self._folder = folder or cache_folder()
        self._entry = self._folder / f"{sha[:32]}-{versions}"

    def __call__(self, convert: Callable[[], Any]) -> Any:
        """Return the openvino.Model, read if it was kept, otherwise made by `convert`, kept and read.

        What is read differs from what was made in the last bits of what it computes; all starts are to be alike.
        """
        kept = self._read()
        if kept is not None:
            return kept
        made = convert()
        self._keep(made)
        return self._read() or made

    def _read(self) -> Any:
        import openvino as ov

        path = self._entry / NAME
        if not path.is_file():
            return None
        try:
            model = ov.Core().read_model(path)
            os.utime(self._entry)
        except (RuntimeError, OSError) as error:
            log.warning("kept export cannot be read: it is made again", path=str(path), error=str(error).strip()[:200])
            shutil.rmtree(self._entry, ignore_errors=True)
            return None
        return model

    def _keep(self, model: Any) -> None:
        """Write it whole or not at all; another worker that was quicker wins."""
        import openvino as ov

        new = None
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            new = tempfile.mkdtemp(dir=self._folder, prefix=".new-")
            ov.save_model(model, Path(new) / NAME, compress_to_fp16=False)
            Path(new).rename(self._entry)
            self._forget()
        except (RuntimeError, OSError) as error:
            if not self._entry.is_dir():
                log.info("export is not kept: every start converts", folder=str(self._folder), error=str(error)[:200])
        finally:
            if new is not None:
                shutil.rmtree(new, ignore_errors=True)

    def _forget(self) -> None:
        entries = [path for path in self._folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        for path in sorted(entries, key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)
