"""What a shadow's book says: how far two bundles agree, where they do not, and what to do next in words. Pure."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from line_worker.sink.shadow.book import Pages
from line_worker.sink.shadow.comparison import Comparison, Judgement, Kind, share

WORST = 10  # disagreements that the report lists
FEW = 300  # with fewer and no disagreement, one part in a hundred may still come out otherwise

WORDS = {
    Kind.BOTH_PASS: "both pass",
    Kind.BOTH_FAIL: "both fail",
    Kind.ONLY_SHADOW_FAILS: "only the shadow fails",
    Kind.ONLY_SHADOW_PASSES: "only the shadow passes",
    Kind.UNDECIDED: "undecided by either",
}


@dataclass(frozen=True, slots=True)
class Report:
    """The newest pair of bundles: `bundle` decides, `shadow` does not.

    `compared`: parts since the pair met, of which the newest, in `kinds`, are kept; `undecided`: (line, shadow) in
    words -> parts; `differ` of the kept ones would get another verdict. `unseen` parts the line decided meanwhile and
    the shadow did not judge: `skipped` by why, `away` between its runs, `lost` unexplained (a kill takes the last
    second). `pairs`: how many pairs the book knows.
    """

    bundle: str
    shadow: str
    compared: int
    kinds: dict[Kind, int]
    undecided: dict[str, int]
    differ: int
    unseen: int
    skipped: dict[str, int]
    away: int
    lost: int
    worst: tuple[Comparison, ...]
    pairs: int

    @property
    def kept(self) -> int:
        """Comparisons that `kinds` counts."""
        return sum(self.kinds.values())


def report(pages: Pages) -> Report:
    """Return the report of what a book holds."""
    skipped: Counter[str] = sum((run.skipped for run in pages.runs), Counter())
    compared = sum(run.compared for run in pages.runs)
    decided = sum(run.decided for run in pages.runs)
    differing = [one for one in pages.comparisons if one.differs]
    kinds = Counter(one.kind for one in pages.comparisons)
    return Report(
        bundle=pages.runs[-1].bundle if pages.runs else "",
        shadow=pages.runs[-1].shadow if pages.runs else "",
        compared=compared,
        kinds={kind: kinds[kind] for kind in Kind},
        undecided=dict(Counter(_pair(one) for one in pages.comparisons if one.kind is Kind.UNDECIDED).most_common()),
        differ=len(differing),
        unseen=max(0, decided - compared) + pages.away,
        skipped=dict(skipped.most_common()),
        away=pages.away,
        lost=max(0, decided - compared - skipped.total()),
        worst=tuple(heapq.nlargest(WORST, differing, key=lambda one: one.apart)),
        pairs=pages.pairs,
    )


def advice(found: Report) -> str:
    """Return what to do next."""
    if not found.kept:
        return "nothing was compared yet: let the line run; `line-worker status` tells what is wrong with a shadow"
    if found.bundle == found.shadow:
        return "the shadow is the very bundle that decides: give it the one that you want to try"
    if found.differ:
        return f"look at the pictures of the worst first. {_questions(found)} If the shadow is right, {_activate()}"
    if found.kept < FEW:
        return f"let it run on: {found.kept} parts without a disagreement are too few, {FEW} say more"
    return f"they agree on every part, so nothing speaks against the shadow; to change over, {_activate()}"


def _questions(found: Report) -> str:
    """Return what each kind of disagreement may mean, for those that there are."""
    questions = {
        Kind.ONLY_SHADOW_PASSES: "Where only the shadow passes: was the part good, or would a defect get by?",
        Kind.ONLY_SHADOW_FAILS: "Where only the shadow fails: did a defect get by, or was the part good?",
        Kind.UNDECIDED: "Where one is undecided, the part is a reject for it: is the picture really unlike?",
    }
    return " ".join(text for kind, text in questions.items() if found.kinds[kind])


def _activate() -> str:
    return "`line-worker bundle activate LINE.TOML BUNDLE` has it decide, without a gap"


def to_json(found: Report) -> dict[str, Any]:
    """Return what `--json` prints."""
    rate, low, high = share(found.differ, found.kept)
    return {
        "bundle": found.bundle,
        "shadow": found.shadow,
        "compared": found.compared,
        "kept": found.kept,
        "agreement": {kind.value: parts for kind, parts in found.kinds.items()},
        "undecided": found.undecided,
        "differ": {"parts": found.differ, "share": rate, "low": low, "high": high},
        "not_seen": {"parts": found.unseen, "skipped": found.skipped, "away": found.away, "lost": found.lost},
        "worst": [_to_json(one) for one in found.worst],
        "pairs": found.pairs,
        "next": advice(found),
    }


def _to_json(one: Comparison) -> dict[str, Any]:
    return {
        "key": str(one.key),
        "wall": one.wall,
        "kind": one.kind.value,
        "apart": one.apart,
        "line": _judgement(one.line),
        "shadow": _judgement(one.shadow),
        "picture": one.picture,
    }


def _judgement(one: Judgement) -> dict[str, Any]:
    return {
        "outcome": one.verdict.value,
        "reason": one.reason.name,
        "score": one.score,
        "threshold": one.threshold,
        "p_value": one.p_value,
    }


def render(found: Report, folder: str) -> str:
    """Return the report as text for people; `folder` is where the pictures are."""
    return "\n".join(_lines(found, folder))


def _lines(found: Report, folder: str) -> Iterator[str]:
    yield f"line {found.bundle[:12] or '-'}, shadow {found.shadow[:12] or '-'}: {found.compared} parts compared"
    if found.pairs > 1:
        yield f"  (the book knows {found.pairs} pairs of bundles; these are the newest)"
    if found.kept < found.compared:
        yield f"  (the newest {found.kept} of them are kept and counted here)"
    for kind, parts in found.kinds.items():
        yield f"  {WORDS[kind]:<24} {parts:>8} {_percent(parts, found.kept)}".rstrip()
        if kind is Kind.UNDECIDED:
            yield from (f"    {pair:<36} {parts:>8}" for pair, parts in found.undecided.items())
    rate, low, high = share(found.differ, found.kept)
    if found.kept:
        yield f"  another verdict: {found.differ}, {rate:.2%} (95 %: {low:.2%} to {high:.2%})"
    yield from _unseen(found)
    yield from _worst(found.worst, folder)
    yield f"next: {advice(found)}"


def _unseen(found: Report) -> Iterator[str]:
    yield f"not seen by the shadow: {found.unseen} parts"
    for why, parts in (*found.skipped.items(), ("while the shadow was away", found.away), ("unknown", found.lost)):
        if parts:
            yield f"  {why:<48} {parts:>8}"


def _worst(worst: Sequence[Comparison], folder: str) -> Iterator[str]:
    if worst:
        yield f"the worst disagreements; pictures in {folder}"
    for one in worst:
        yield f"  {one.key}  line {_said(one.line)}, shadow {_said(one.shadow)}  {one.picture}".rstrip()


def _said(one: Judgement) -> str:
    if one.score is None or one.threshold is None:
        return f"{one.verdict}({one.reason.name})"
    p = "" if one.p_value is None else f" p {one.p_value:.3f}"
    return f"{one.verdict} {one.score:.4g} / {one.threshold:.4g}{p}"


def _pair(one: Comparison) -> str:
    return f"line {_short(one.line)}, shadow {_short(one.shadow)}"


def _short(one: Judgement) -> str:
    return one.verdict.value if one.verdict != "NO_DECISION" else one.reason.name


def _percent(parts: int, whole: int) -> str:
    return f"{parts / whole:7.2%}" if whole else ""
