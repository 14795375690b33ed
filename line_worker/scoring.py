"""Score files: what `line-worker score` does, one verdict per image, without a line around it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from line_worker.errors import ConfigError, ImageError
from line_worker.images import IMAGE_SUFFIXES, read_image, save_png
from line_worker.verdicts import Reason, Verdict, verdict_of

if TYPE_CHECKING:
    from line_worker.bundle import Bundle
    from line_worker.vision.inspection import Inspection


class Scored(NamedTuple):
    """The outcome of one file; `boxes` as in vision.crop, `ms` from pixels to verdict."""

    path: Path
    reason: Reason
    score: float | None
    threshold: float
    boxes: tuple[Any, ...]
    ms: float
    bundle: str
    detail: str = ""  # in words, when there was no image to judge
    p_value: float | None = None  # the chance that a good part scores this much or more

    @property
    def verdict(self) -> Verdict:
        """PASS, FAIL or NO_DECISION."""
        return verdict_of(self.reason)

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "path": str(self.path),
            "outcome": self.verdict.value,
            "score": self.score,
            "threshold": self.threshold,
            "p_value": self.p_value,
            "reasons": [] if self.reason is Reason.NONE else [self.reason.name],
            "detail": self.detail,
            "boxes": [box._asdict() for box in self.boxes],
            "ms": round(self.ms, 3),
            "bundle": self.bundle,
        }

    def as_line(self) -> str:
        """Return one line for a person."""
        score = "      -" if self.score is None else f"{self.score:7.2f}"
        why = "" if self.reason in (Reason.NONE, Reason.ANOMALY) else f"  {self.reason.name}"
        where = "".join(f"  [{box.x},{box.y} {box.w}x{box.h}]" for box in self.boxes[:3])
        return f"{self.verdict.value:<11} {score} / {self.threshold:.2f}  {self.path}{why}{where}"


def find(paths: Sequence[Path]) -> list[Path]:
    """Return the files to score: those given, and every image under the folders given, by name.

    Raises ConfigError, naming all of them, for paths that do not exist and folders without an image.
    """
    found: list[Path] = []
    problems = [] if paths else ["no image or folder was given"]
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if path.is_dir() else [path]
        if not path.exists():
            problems.append(f"{path} does not exist")
        elif not inside:
            problems.append(f"{path} holds no image")
        found += inside
    if problems:
        raise ConfigError("score", problems)
    return found


def score_paths(
    bundle: Bundle, paths: Sequence[Path], device: str = "cpu", overlay: Path | None = None, runtime: str = "auto"
) -> Iterator[Scored]:
    """Yield the outcome of each image in `paths` (files, or folders to walk) in turn.

    An image that cannot be read is NO_DECISION. `overlay` is a folder for pictures with the verdict drawn in. Raises
    ConfigError before the first image for paths that lead nowhere, BundleError when this machine does not reproduce the
    bundle's golden images.
    """
    from line_worker.selftest import self_tested

    files = find(paths)
    inspection = self_tested(bundle, device, runtime)
    for number, path in enumerate(files):
        yield _scored(bundle, inspection, path, None if overlay is None else overlay / f"{number:04d}_{path.stem}.png")


def _scored(bundle: Bundle, inspection: Inspection, path: Path, overlay: Path | None) -> Scored:
    try:
        image = read_image(path)
    except ImageError as error:
        return Scored(path, error.reason, None, bundle.threshold, (), 0.0, bundle.sha, str(error))
    begun = time.perf_counter()
    inspected = inspection.inspect([image])[0]
    ms = 1e3 * (time.perf_counter() - begun)
    if overlay is not None:
        from line_worker.vision import crop

        overlay.parent.mkdir(parents=True, exist_ok=True)
        save_png(overlay, crop.overlay(image, inspected))
    return Scored(
        path,
        inspected.reason,
        inspected.score,
        bundle.threshold,
        inspected.boxes,
        ms,
        bundle.sha,
        p_value=inspected.p_value,
    )


def exit_code(scored: Iterable[Scored]) -> int:
    """Return 2 when any image is undecided, else 1 when any fails, else 0."""
    verdicts = {one.verdict for one in scored}
    if Verdict.NO_DECISION in verdicts:
        return 2
    return 1 if Verdict.FAIL in verdicts else 0
