"""Bundle: everything that decides about a part, in one folder named by one sha256.

    manifest.json        format, versions, settings, input, threshold, calibration, golden results, sha256 of every file
    weights.safetensors  arrays: pose template, network, zone statistics
    golden/*.png         good training images whose scores every copy must reproduce before it may judge parts
    report.html          what was learned, for people

Nothing is pickled and nothing in a bundle is run. A bundle is read whole and checked before anything of it is used; it
is written beside its place and then renamed, so that an interrupted writer leaves the old one or none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from line_worker import __version__
from line_worker.errors import BundleError
from line_worker.images import read_image
from line_worker.verdicts import Reason

FORMAT = 2
MANIFEST, WEIGHTS, REPORT, GOLDEN = "manifest.json", "weights.safetensors", "report.html", "golden"
GOLDEN_TOLERANCE = 1e-3  # of the larger of 1 and the score: other processors round differently
SECTIONS: dict[str, type] = {
    "settings": dict,
    "input": dict,
    "rectify": dict,
    "reconstruct": dict,
    "standard": dict,
    "threshold": float,
    "calibration": dict,
    "golden": list,
    "files": dict,
}

Arrays = dict[str, NDArray[Any]]


class Golden(NamedTuple):
    """An image that every copy of the bundle must judge as its maker did; score is None when there was none."""

    name: str
    png: bytes
    reason: Reason
    score: float | None


class Judged(Protocol):
    """What is compared of an inspected image."""

    @property
    def reason(self) -> Reason:
        """Why it passed or did not."""
        ...

    @property
    def score(self) -> float | None:
        """How unusual it is."""
        ...


class Inspects(Protocol):
    """Whoever inspects images with a bundle; `line_worker.vision.inspection.Inspection` is one."""

    def inspect(self, images: Sequence[NDArray[Any]]) -> Sequence[Judged]:
        """Return one judgement per image."""
        ...


@dataclass(frozen=True)
class Bundle:
    """A bundle that was read and verified. `sha` is the sha256 (hex) of the manifest, which names everything else."""

    path: Path
    sha: str
    manifest: Mapping[str, Any]
    arrays: Arrays

    @property
    def threshold(self) -> float:
        """The score above which a part fails."""
        return float(self.manifest["threshold"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """What `train` was asked for."""
        return dict(self.manifest["settings"])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H, W) or (H, W, 3) of the images that it judges."""
        return tuple(self.manifest["input"]["shape"])

    def part(self, prefix: str) -> Arrays:
        """Return the arrays of one stage, by their names within it."""
        return {name.removeprefix(f"{prefix}."): a for name, a in self.arrays.items() if name.startswith(f"{prefix}.")}

    @classmethod
    def load(cls, path: Path | str) -> Bundle:
        """Read and verify the bundle at `path`; raises BundleError naming the file that cannot be trusted."""
        path = Path(path)
        raw = _read(path, MANIFEST)
        manifest = _manifest(path, raw)
        contents = {name: _verified(path, name, sha) for name, sha in manifest["files"].items()}
        if WEIGHTS not in contents:
            raise _bad(path, MANIFEST, f"does not list {WEIGHTS}")
        try:
            arrays = load_arrays(contents[WEIGHTS])
        except SafetensorError as error:
            raise _bad(path, WEIGHTS, f"is not a safetensors file ({error})") from error
        return cls(path, hashlib.sha256(raw).hexdigest(), manifest, arrays)


def write_bundle(
    path: Path | str,
    sections: Mapping[str, Any],
    arrays: Arrays,
    golden: Sequence[Golden],
    report: str,
) -> Bundle:
    """Write a bundle to `path`, whole or not at all, and return it as read back from there.

    `sections` are the manifest's sections but golden and files. A bundle that is already there is replaced; raises
    BundleError when something else is, or when the place cannot be written.
    """
    path = Path(path).absolute()
    check_place(path)
    files = {WEIGHTS: save_arrays({name: np.ascontiguousarray(a) for name, a in arrays.items()})}
    files |= {f"{GOLDEN}/{g.name}": g.png for g in golden} | {REPORT: report.encode()}
    files[MANIFEST] = _manifest_bytes(sections, golden, files)
    try:
        with _sibling(path) as folder:
            for name, data in files.items():
                _write(folder / name, data)
            _sync(folder / GOLDEN)
            _sync(folder)
            _replace(folder, path)
    except OSError as error:
        raise BundleError(
            f"{path}: cannot be written ({error}). Nothing was left there; choose another place"
        ) from error
    return Bundle.load(path)


def check_place(path: Path) -> None:
    """Raise BundleError when `path` cannot be made, or holds something that is not a bundle: it is not replaced."""
    there = next(folder for folder in path.absolute().parents if folder.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        what = "may not be written" if there.is_dir() else "is no folder"
        raise BundleError(f"{path}: cannot be written, because {there} {what}; choose another place with --out")
    if path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir())):
        return
    if path.exists():
        raise BundleError(f"{path}: exists and is not a bundle. It is left alone; choose another name with --out")


def verify_golden(bundle: Bundle, inspection: Inspects, tolerance: float = 0.0) -> None:
    """Judge the golden images again; raises BundleError naming the first that comes out differently.

    tolerance: of the inspection, where its arithmetic is coarser than GOLDEN_TOLERANCE.
    """
    tolerance = max(GOLDEN_TOLERANCE, tolerance)
    for expected in bundle.manifest["golden"]:
        image = read_image(bundle.path / expected["file"])
        got = inspection.inspect([image])[0]
        reason, score = Reason[expected["reason"]], expected["score"]
        if got.reason is not reason or not _close(got.score, score, tolerance):
            raise BundleError(
                f"{bundle.path}: golden image {expected['file']} gives {_words(got.reason, got.score)}, expected "
                f"{_words(reason, score)}. This machine does not reproduce the bundle, so it may not judge parts; "
                "check the device and the installed versions, or train it again here"
            )


def _close(got: float | None, expected: float | None, tolerance: float) -> bool:
    if got is None or expected is None:
        return got is expected
    return math.isfinite(got) and abs(got - expected) <= tolerance * max(1.0, abs(expected))


def _words(reason: Reason, score: float | None) -> str:
    return f"{reason.name} with {'no score' if score is None else f'score {score:.6g}'}"


def _manifest_bytes(sections: Mapping[str, Any], golden: Sequence[Golden], files: Mapping[str, bytes]) -> bytes:
    manifest = {
        "format": FORMAT,
        "line_worker": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **sections,
        "golden": [{"file": f"{GOLDEN}/{g.name}", "reason": g.reason.name, "score": g.score} for g in golden],
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
    }
    return json.dumps(manifest, indent=1, allow_nan=False).encode()


def _manifest(path: Path, raw: bytes) -> dict[str, Any]:
    try:
        manifest = json.loads(raw)
    except ValueError as error:
        raise _bad(path, MANIFEST, f"is not JSON ({error})") from error
    if not isinstance(manifest, dict):
        raise _bad(path, MANIFEST, "is not a JSON object")
    if manifest.get("format") != FORMAT:
        raise BundleError(
            f"{path}: has format {manifest.get('format')!r}, of line-worker {manifest.get('line_worker', '?')}, "
            f"and line-worker {__version__} reads format {FORMAT}. It is not loaded; train it again with this version, "
            "or run the version that wrote it"
        )
    missing = [name for name in SECTIONS if name not in manifest]
    if missing:
        raise _bad(path, MANIFEST, f"lacks {', '.join(missing)}")
    wrong = [name for name, kind in SECTIONS.items() if not isinstance(manifest[name], kind)]
    if wrong or not all(isinstance(sha, str) for sha in manifest["files"].values()):
        raise _bad(path, MANIFEST, f"has something else than it should under {', '.join(wrong) or 'files'}")
    return manifest


def _verified(path: Path, name: str, sha: str) -> bytes:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        raise _bad(path, MANIFEST, f"names a file outside the bundle ({name})")
    data = _read(path, name)
    if hashlib.sha256(data).hexdigest() != sha:
        raise _bad(path, name, "does not have the sha256 that the manifest names")
    return data


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise _bad(path, name, f"cannot be read ({error.strerror})") from error


def _bad(path: Path, name: str, what: str) -> BundleError:
    return BundleError(f"{path}: {name} {what}. The bundle is not loaded; copy it again whole, or train it again")


@contextlib.contextmanager
def _sibling(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path`, on the same disk so that rename is atomic; gone afterwards if still there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (folder / GOLDEN).mkdir()
        folder.chmod(0o755)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, path: Path) -> None:
    """Put `folder` at `path`; a bundle there is set aside first and comes back should the rename fail."""
    if not path.exists():
        folder.rename(path)
    else:
        aside = folder.with_name(f"{folder.name}.old")
        path.rename(aside)
        try:
            folder.rename(path)
        except BaseException:
            aside.rename(path)
            raise
        shutil.rmtree(aside)
    _sync(path.parent)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
