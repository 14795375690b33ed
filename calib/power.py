"""Detection power: which painted defects are found, of which size and contrast, before the first bad part exists.

Every cell of the table is a share of tries with its exact interval. Beside it stands how many of the same good pictures
are rejected unpainted: a rate no higher than that means that the defect is not seen at all.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from itertools import chain, cycle, islice, product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calib.painting import CONTRASTS, KINDS, SIZES, Mask, TooSmall, paint, part_size
from line_worker.verdicts import Reason
from line_worker.vision.decide import clopper_pearson, decide

RELIABLE = 0.9  # rate at which a defect counts as found
CHUNK = 8  # pictures judged together

Judge = Callable[[Sequence[NDArray[np.float32]]], Sequence[float]]
Cell = tuple[str, float, float | None]  # kind, size, contrast
PLURALS = {"scratch": "scratches", "pit": "pits", "smear": "smears", "missing": "missing pieces"}


class Row(NamedTuple):
    """How often one kind of defect of one size (share of the part's) and contrast (None: missing) was found."""

    kind: str
    size: float
    contrast: float | None
    found: int
    tried: int  # 0 when the defect does not fit on the part

    @property
    def rate(self) -> float:
        """The share that was found; NaN when nothing was tried."""
        return self.found / self.tried if self.tried else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """The exact 95 % interval of the rate."""
        return clopper_pearson(self.found, self.tried) if self.tried else (0.0, 1.0)


class Power(NamedTuple):
    """What was found: the rows by kind, size and contrast, and what the part's size is in pixels of the image.

    rejected of good: how many of the same pictures are above the threshold with nothing painted on them.
    """

    rows: tuple[Row, ...]
    part: float
    rejected: int
    good: int

    def pixels(self, row: Row) -> float:
        """Return the size of a row's defect in pixels of the original image."""
        return row.size * self.part

    def as_json(self) -> dict[str, Any]:
        """Return plain values for the manifest and for scripts."""
        rows = [
            {**row._asdict(), "pixels": round(self.pixels(row), 1), "low": row.interval[0], "high": row.interval[1]}
            for row in self.rows
        ]
        return {"rows": rows, "rejected": self.rejected, "good": self.good, "summary": self.summary()}

    def summary(self) -> str:
        """Return in one sentence what is found reliably, and what is not even at its largest, for people."""
        rows = {kind: [row for row in self.rows if row.kind == kind and row.tried] for kind in PLURALS}
        tried = {kind: of_kind for kind, of_kind in rows.items() if of_kind}
        if not tried:
            return "The part is too small to paint defects on."
        found = {kind: limit for kind, of_kind in tried.items() if (limit := _limit(of_kind))}
        lost = [self._words(of_kind[-1], "") for kind, of_kind in tried.items() if kind not in found]
        rate = f"at a rate of {100 * RELIABLE:.0f} % or more"
        if not found:
            return f"It finds nothing that was painted {rate}, not even {_listed(lost, 'or')}."
        text = f"It finds {_listed([self._words(row, ' or more') for row in found.values()], 'and')} {rate}"
        return f"{text}; not even {_listed(lost, 'or')}." if lost else f"{text}."

    def _words(self, row: Row, more: str) -> str:
        """Return a row's defect in words, `more` after each number."""
        contrast = "" if row.contrast is None else f" with a contrast of {100 * row.contrast:.0f} %{more}"
        return f"{PLURALS[row.kind]} of {self.pixels(row):.0f} px{more}{contrast}"


def _limit(rows: Sequence[Row]) -> Row | None:
    """Return the smallest defect of a kind, then the faintest, from which on all are found reliably."""
    return next((row for row in rows if all(r.rate >= RELIABLE for r in rows if _at_least(r, row))), None)


def _listed(words: Sequence[str], joint: str) -> str:
    return f" {joint} ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _at_least(row: Row, limit: Row) -> bool:
    """Return whether a row's defect is as large and as strong as that of `limit`, or more so."""
    return row.size >= limit.size and (row.contrast or 0.0) >= (limit.contrast or 0.0)


def power(
    judge: Judge,
    canonicals: Sequence[NDArray[np.float32]],
    mask: Mask,
    span: tuple[float, float],
    threshold: float,
    rng: np.random.Generator,
    repeats: int,
    *,
    scale: float = 1.0,
    chunk: int = CHUNK,
    progress: Callable[[float], None] = lambda _: None,
) -> Power:
    """Paint `repeats` defects of each kind, size and contrast on held-out good pictures and count those found.

    judge: scores of canonical pictures, given up to `chunk` at a time; above `threshold`, or not finite, is found.
    canonicals, mask, span: as `paint` takes them; the pictures take turns. scale: canonical pixels per image pixel.
    The contrasts of a defect share its places, so that columns differ by contrast alone. `progress` is told the share
    of the work that is done. Raises ValueError without a picture, a repeat, a chunk or a finite threshold.
    """
    if not canonicals or min(repeats, chunk) < 1 or not math.isfinite(threshold):
        raise ValueError(
            f"power needs at least 1 good picture, 1 repeat, a chunk of 1 and a finite threshold; got "
            f"{len(canonicals)}, {repeats}, {chunk} and {threshold}"
        )
    cells = _cells()
    used = canonicals[: len(KINDS) * len(SIZES) * repeats]
    jobs = chain(((None, good) for good in used), _painted(canonicals, mask, span, rng, repeats))
    tried: Counter[Cell | None] = Counter()
    found: Counter[Cell | None] = Counter()
    for cell, rejected in _judged(judge, jobs, threshold, chunk):
        tried[cell] += 1
        found[cell] += rejected
        progress(min(1.0, tried.total() / (len(used) + len(cells) * repeats)))
    progress(1.0)
    rows = tuple(Row(*cell, found[cell], tried[cell]) for cell in cells)
    return Power(rows, part_size(mask) / scale, found[None], tried[None])


def contrasts(kind: str) -> tuple[float | None, ...]:
    """Return the contrasts that a kind is painted with: a missing piece has none."""
    return (None,) if kind == "missing" else CONTRASTS


def _cells() -> list[Cell]:
    return [(kind, size, contrast) for kind in KINDS for size in SIZES for contrast in contrasts(kind)]


def _painted(
    canonicals: Sequence[NDArray[np.float32]],
    mask: Mask,
    span: tuple[float, float],
    rng: np.random.Generator,
    repeats: int,
) -> Iterator[tuple[Cell, NDArray[np.float32]]]:
    """Yield each defect with the cell that it belongs to; one that does not fit on the part is left out."""
    turn = cycle(canonicals)
    for kind, size, _ in product(KINDS, SIZES, range(repeats)):
        good, seed = next(turn), int(rng.integers(2**63))
        with suppress(TooSmall):
            for contrast in contrasts(kind):
                defect = paint(np.random.default_rng(seed), good, mask, kind, size, contrast, span)
                yield (kind, size, contrast), defect.picture


def _judged(
    judge: Judge, jobs: Iterator[tuple[Cell | None, NDArray[np.float32]]], threshold: float, chunk: int
) -> Iterator[tuple[Cell | None, bool]]:
    """Yield whether each picture is rejected, with its cell; a score that is not finite rejects, as on the line."""
    while taken := list(islice(jobs, chunk)):
        scores = judge([picture for _, picture in taken])
        for (cell, _), score in zip(taken, scores, strict=True):
            yield cell, decide(float(score), threshold) is not Reason.NONE
