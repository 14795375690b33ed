"""What `line-worker bundle` does: describe a bundle, verify its files, judge its golden images again, compare two.

Everything returned is figures, ready for JSON; `cli_bundle` puts them into words.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_arrays

from line_worker.bundle import MANIFEST, WEIGHTS, Bundle, Inspects, Judged, verify_golden
from line_worker.errors import BundleError
from line_worker.scoring import Scored, score_paths
from line_worker.verdicts import Reason

# what may differ between bundles that judge every part alike; images' scores are compared on their own
UNJUDGED = ("line_worker", "created", "settings", "golden", "files")
UNJUDGED_CALIBRATION = ("scores", "undecided", "steps", "cut", "notes", "power", "bad")

Facts = dict[str, Any]
Changes = dict[str, tuple[Any, Any]]  # what A and B hold under a dotted name, None where one has no such thing


# ---- show ------------------------------------------------------------------------------------------------------------


def describe(bundle: Bundle) -> Facts:
    """Return what is known of a bundle; false rejects are of 1,000 good parts, sizes are in bytes."""
    manifest, calibration = bundle.manifest, bundle.manifest["calibration"]
    files = {name: (bundle.path / name).stat().st_size for name in (MANIFEST, *manifest["files"])}
    return {
        "bundle": str(bundle.path),
        "sha": bundle.sha,
        "format": manifest["format"],
        "made": manifest.get("created"),
        "line_worker": manifest.get("line_worker"),
        "settings": manifest["settings"],
        "input": manifest["input"],
        "rectified_size": manifest["rectify"].get("size"),
        "method": manifest["reconstruct"].get("method"),
        "rule": manifest["standard"].get("rule", {}),
        "threshold": bundle.threshold,
        "false_rejects_per_1000": per_thousand(bundle),
        "images": len(calibration.get("scores", {})),
        "undecided": calibration.get("undecided", {}),
        "folds": calibration.get("folds"),
        "files": files,
        "bytes": sum(files.values()),
    }


def per_thousand(bundle: Bundle) -> dict[str, float] | None:
    """Return expected, low and high (95 %) false rejects of 1,000 good parts, None when the bundle does not say."""
    limit = bundle.manifest["calibration"].get("limit", {})
    keys = ("expected", "low", "high")
    return {key: 1000 * limit[key] for key in keys} if all(key in limit for key in keys) else None


# ---- verify ----------------------------------------------------------------------------------------------------------


class Damage(NamedTuple):
    """A file of a bundle and what is wrong with it."""

    file: str
    what: str


class Verified(NamedTuple):
    """What a check found: `files` were looked at, `extra` are there although the manifest does not name them."""

    path: Path
    sha: str | None
    files: int
    damage: tuple[Damage, ...] = ()
    extra: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether the folder is exactly what its maker wrote."""
        return not self.damage and not self.extra

    def as_json(self) -> Facts:
        """Return what `--json` prints."""
        damage = [one._asdict() for one in self.damage]
        return {**self._asdict(), "path": str(self.path), "damage": damage, "whole": self.whole}


def verify(path: Path) -> Verified:
    """Check every file of the bundle at `path`, whatever is wrong with the others; BundleError when it is no folder."""
    if not path.is_dir():
        raise BundleError(f"{path}: is not a folder. Nothing was checked; give the folder that `train` wrote")
    try:
        raw = (path / MANIFEST).read_bytes()
        named = _named(json.loads(raw))
    except OSError as error:
        return Verified(path, None, 1, (Damage(MANIFEST, f"cannot be read ({error.strerror})"),))
    except ValueError as error:
        return Verified(path, None, 1, (Damage(MANIFEST, f"is not a manifest ({error})"),))
    damage = [one for name, sha in named.items() if (one := _altered(path, name, sha))]
    if WEIGHTS in named and not any(one.file == WEIGHTS for one in damage):
        damage += _array_damage(path)
    there = {p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_symlink() or not p.is_dir()}
    extra = sorted(there - named.keys() - {MANIFEST})
    sha = hashlib.sha256(raw).hexdigest()
    return Verified(path, sha, 1 + len(named), tuple(damage or _refusal(path)), tuple(extra))


def _named(manifest: Any) -> dict[str, str]:
    """Return the sha256 of each file; raises ValueError when the manifest does not list them."""
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or not all(isinstance(sha, str) for sha in files.values()):
        raise ValueError("it does not list files with their sha256")
    return files


def _altered(path: Path, name: str, sha: str) -> Damage | None:
    inside = PurePosixPath(name)
    if inside.is_absolute() or ".." in inside.parts:
        return Damage(MANIFEST, f"names a file outside the bundle ({name})")
    try:
        data = (path / name).read_bytes()
    except OSError as error:
        return Damage(name, f"cannot be read ({error.strerror})")
    if hashlib.sha256(data).hexdigest() != sha:
        return Damage(name, "does not have the sha256 that the manifest names")
    return None


def _array_damage(path: Path) -> list[Damage]:
    try:
        arrays = load_arrays((path / WEIGHTS).read_bytes())
    except SafetensorError as error:
        return [Damage(WEIGHTS, f"is not a safetensors file ({error})")]
    counts = {name: int((~np.isfinite(a)).sum()) for name, a in arrays.items() if a.dtype.kind == "f"}
    return [Damage(WEIGHTS, f"array {name} holds {n} value(s) that are not finite") for name, n in counts.items() if n]


def _refusal(path: Path) -> list[Damage]:
    """Return why a bundle is refused although its files are as written: another format, a missing section."""
    try:
        Bundle.load(path)
    except BundleError as error:
        return [Damage(MANIFEST, str(error).removeprefix(f"{path}: ").removeprefix(f"{MANIFEST} "))]
    return []


# ---- golden ----------------------------------------------------------------------------------------------------------


class Again(NamedTuple):
    """A golden image judged again; a score is None where there was no verdict, or it was not finite."""

    file: str
    expected_reason: Reason
    expected_score: float | None
    reason: Reason
    score: float | None
    ok: bool

    @property
    def difference(self) -> float | None:
        """How far the score is from the expected one, None unless there are both."""
        if self.score is None or self.expected_score is None:
            return None
        return self.score - self.expected_score

    def as_json(self) -> Facts:
        """Return what `--json` prints."""
        reasons = {"expected_reason": self.expected_reason.name, "reason": self.reason.name}
        return {**self._asdict(), **reasons, "difference": self.difference}


class _Remembers:
    """Inspects as another does and keeps what it said last."""

    def __init__(self, inspection: Inspects) -> None:
        self.inspection = inspection
        self.said: tuple[Reason, float | None] = Reason.NO_FRAME, None

    def inspect(self, images: Sequence[NDArray[Any]]) -> Sequence[Judged]:
        """Return what the other says."""
        judged = self.inspection.inspect(images)
        self.said = judged[-1].reason, judged[-1].score
        return judged


def judge_golden(bundle: Bundle, inspection: Inspects, tolerance: float = 0.0) -> Iterator[Again]:
    """Judge each golden image again; whether it is ok is what `verify_golden` says of it, as before a line starts."""
    for golden in bundle.manifest["golden"]:
        remembers, ok = _Remembers(inspection), True
        try:
            verify_golden(replace(bundle, manifest={**bundle.manifest, "golden": [golden]}), remembers, tolerance)
        except BundleError:
            ok = False
        reason, score = remembers.said
        finite = score if score is not None and math.isfinite(score) else None
        yield Again(golden["file"], Reason[golden["reason"]], golden["score"], reason, finite, ok)


# ---- diff ------------------------------------------------------------------------------------------------------------


def difference(a: Bundle, b: Bundle) -> Facts:
    """Return what differs between two bundles.

    same: whether both judge every part alike and promise the same of it. settings, judging: `Changes` of what `train`
    was asked for and of every other section of the manifest that a verdict or its limit depends on. threshold,
    false_rejects_per_1000: of both. arrays: per array that differs its largest absolute difference, or its forms when
    they are not the same. scores: see `_score_shift`.
    """
    judging = _changes(_judging(a), _judging(b))
    arrays = _array_changes(a, b)
    scores = [bundle.manifest["calibration"].get("scores", {}) for bundle in (a, b)]
    return {
        "a": {"bundle": str(a.path), "sha": a.sha},
        "b": {"bundle": str(b.path), "sha": b.sha},
        "same": not judging and not arrays and scores[0] == scores[1],
        "settings": _changes(a.manifest["settings"], b.manifest["settings"]),
        "judging": judging,
        "threshold": (a.threshold, b.threshold),
        "false_rejects_per_1000": (per_thousand(a), per_thousand(b)),
        "arrays": arrays,
        "scores": _score_shift(a, b),
    }


def disagreements(a: Bundle, b: Bundle, paths: Sequence[Path], device: str) -> Facts:
    """Judge the images under `paths` with both; verdicts has one entry an image, disagree those that differ."""
    both = zip(score_paths(a, paths, device), score_paths(b, paths, device), strict=True)
    verdicts: list[Facts] = [{"path": str(one.path), "a": _verdict(one), "b": _verdict(other)} for one, other in both]
    return {"verdicts": verdicts, "disagree": [v for v in verdicts if v["a"]["outcome"] != v["b"]["outcome"]]}


def _verdict(scored: Scored) -> Facts:
    said = scored.as_json()
    return {key: said[key] for key in ("outcome", "score", "threshold", "reasons")}


def _judging(bundle: Bundle) -> Facts:
    """Return the manifest without what no verdict depends on."""
    manifest = {key: value for key, value in bundle.manifest.items() if key not in UNJUDGED}
    kept = {key: value for key, value in manifest["calibration"].items() if key not in UNJUDGED_CALIBRATION}
    return {**manifest, "calibration": kept}


def _changes(a: Mapping[str, Any], b: Mapping[str, Any]) -> Changes:
    """Return the values that differ, by dotted name."""
    one, other = dict(_flat(a)), dict(_flat(b))
    names = [*one, *(name for name in other if name not in one)]
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _array_changes(a: Bundle, b: Bundle) -> Facts:
    changes: Facts = {}
    for name in sorted(a.arrays.keys() | b.arrays.keys()):
        one, other = a.arrays.get(name), b.arrays.get(name)
        if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
            changes[name] = {"form": (_form(one), _form(other))}
        elif not np.array_equal(one, other, equal_nan=one.dtype.kind == "f"):
            at = one != other
            apart = float(np.abs(one[at].astype(np.float64) - other[at].astype(np.float64)).max())
            changes[name] = {"max_difference": apart if math.isfinite(apart) else None}
    return changes


def _form(array: NDArray[Any] | None) -> str | None:
    return None if array is None else f"{array.dtype} {' x '.join(str(side) for side in array.shape) or 'number'}"


def _score_shift(a: Bundle, b: Bundle) -> Facts:
    """Return how the scores of good images that both name moved, from A to B, and whose verdict turned."""
    one, other = (bundle.manifest["calibration"].get("scores", {}) for bundle in (a, b))
    shifts = {name: other[name] - score for name, score in one.items() if name in other}
    if not shifts:
        return {"images": 0}
    most = max(shifts, key=lambda name: abs(shifts[name]))
    turned = [name for name in shifts if (one[name] > a.threshold) != (other[name] > b.threshold)]
    mean = sum(shifts.values()) / len(shifts)
    return {"images": len(shifts), "mean": mean, "largest": shifts[most], "of": most, "turned": turned}
