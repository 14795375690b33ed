"""`line-worker bundle show|verify|golden|diff|activate`: the commands, and the words for what `bundles` found.

Exit codes as everywhere: 0 all is well, 1 the answer is no (damaged, not reproduced, different), 3 wrong usage or
input. What is heavy is imported by the command that needs it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from line_worker.verdicts import Reason, verdict_of

if TYPE_CHECKING:
    from line_worker.bundles import Again, Facts, Verified

bundle_app = typer.Typer(help="Show, verify, compare and activate bundles.")

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="What `train` wrote.")]
Device = Annotated[str, typer.Option(help="auto | cpu | cuda | cuda:N")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line, for scripts.")]


@bundle_app.command()
def show(bundle: BundlePath, as_json: Json = False) -> int:
    """Say what a bundle is: made of what and when, its limit and what that promises, its files."""
    from line_worker.bundle import Bundle
    from line_worker.bundles import describe

    facts = describe(Bundle.load(bundle))
    _print(json.dumps(facts) if as_json else _shown(facts))
    return 0


@bundle_app.command()
def verify(bundle: BundlePath, as_json: Json = False) -> int:
    """Check every file against the manifest; exit code 1 when one is damaged or does not belong there."""
    from line_worker.bundles import verify as check

    found = check(bundle)
    _print(json.dumps(found.as_json()) if as_json else _verified(found))
    return 0 if found.whole else 1


@bundle_app.command()
def activate(
    config: Annotated[Path, typer.Argument(metavar="LINE.TOML", help="The running line's configuration.")],
    bundle: BundlePath,
    as_json: Json = False,
) -> int:
    """Have a running line change to another bundle without a gap; exit code 1 when it keeps the old one."""
    from line_worker.approving import activate as change
    from line_worker.config import load

    phase = ""
    for step in change(load(config), bundle):
        phase = step["phase"]
        why = f": {step['detail']}" if step["detail"] else ""
        typer.echo(json.dumps(step) if as_json else f"{step['bundle'][:12]} {phase}{why}")
    return 0 if phase == "done" else 1


@bundle_app.command()
def golden(bundle: BundlePath, device: Device = "auto", as_json: Json = False) -> int:
    """Judge the golden images again on this machine; exit code 1 when one comes out differently."""
    from line_worker.bundle import Bundle
    from line_worker.bundles import judge_golden
    from line_worker.vision.inspection import Inspection

    loaded = Bundle.load(bundle)
    if not loaded.manifest["golden"]:
        typer.echo(f"{bundle}: has no golden image, so nothing shows that this machine reproduces it", err=True)
        return 1
    reproduced = True
    inspection = Inspection.from_bundle(loaded, device)
    for again in judge_golden(loaded, inspection, inspection.tolerance):
        _print(json.dumps(again.as_json()) if as_json else _again(again))
        reproduced &= again.ok
    return 0 if reproduced else 1


@bundle_app.command()
def diff(
    a: Annotated[Path, typer.Argument(metavar="A", help="A bundle.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
    images: Annotated[
        list[Path] | None, typer.Argument(metavar="[IMAGES]...", help="Images or folders that both shall judge.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> int:
    """Say what differs between two bundles; exit code 1 when they may judge a part differently."""
    from line_worker.bundle import Bundle
    from line_worker.bundles import difference, disagreements

    one, other = Bundle.load(a), Bundle.load(b)
    facts = difference(one, other)
    if images:
        facts["images"] = disagreements(one, other, images, device)
    _print(json.dumps(facts) if as_json else _differences(facts))
    return 0 if facts["same"] else 1


# ---- words -----------------------------------------------------------------------------------------------------------


def _print(words: str | Iterator[str]) -> None:
    typer.echo(words if isinstance(words, str) else "\n".join(words))


def _shown(facts: Facts) -> Iterator[str]:
    rectified = " x ".join(str(side) for side in facts["rectified_size"] or ["?"])
    rows = {
        "sha": facts["sha"],
        "made": f"{facts['made']} by line-worker {facts['line_worker']}, format {facts['format']}",
        "settings": _pairs(facts["settings"]),
        "input": _pairs(facts["input"]),
        "rectified to": f"{rectified} (height x width)",
        "method": facts["method"],
        "rule": _pairs(facts["rule"]),
        "threshold": _word(facts["threshold"]),
        "false rejects": f"{_rate(facts['false_rejects_per_1000'])} of 1,000 good parts",
        "learned from": f"{facts['images']} good images in {facts['folds']} folds",
        "undecided": _pairs(facts["undecided"]) or "none",
    }
    yield facts["bundle"]
    yield from (f"   {label:<14} {value}" for label, value in rows.items())
    yield from (f"   {size:>12,} B {name}" for name, size in facts["files"].items())
    yield f"   {facts['bytes']:>12,} B in all"


def _verified(found: Verified) -> Iterator[str]:
    yield from (f"damaged  {one.file}: {one.what}" for one in found.damage)
    yield from (f"warning  {name}: the manifest does not name it, and it is never read" for name in found.extra)
    if found.damage:
        yield f"{found.path}: damaged; copy it again whole, or train it again"
    elif found.extra:
        yield f"{found.path}: all that its maker wrote is whole; remove what was added"
    else:
        yield f"{found.path}: whole, {found.files} files, sha {found.sha}"


def _again(again: Again) -> str:
    expected, got = _outcome(again.expected_reason, again.expected_score), _outcome(again.reason, again.score)
    apart = "" if again.difference is None else f", difference {again.difference:+.2g}"
    return f"{'ok' if again.ok else 'DIFFERS':<8} {again.file}: expected {expected}, got {got}{apart}"


def _outcome(reason: Reason, score: float | None) -> str:
    verdict = verdict_of(reason)
    return f"{verdict}({reason.name})" if score is None else f"{verdict} {_word(score)}"


def _differences(facts: Facts) -> Iterator[str]:
    yield f"A  {facts['a']['bundle']} {facts['a']['sha']}"
    yield f"B  {facts['b']['bundle']} {facts['b']['sha']}"
    yield f"   threshold {_arrow(facts['threshold'])}"
    rates = facts["false_rejects_per_1000"]
    yield f"   false rejects of 1,000 good parts: {_rate(rates[0])} -> {_rate(rates[1])}"
    yield from (f"   setting {name}: {_arrow(pair)}" for name, pair in facts["settings"].items())
    yield from (f"   {name}: {_arrow(pair)}" for name, pair in facts["judging"].items() if name != "threshold")
    yield from (f"   array {name}: {_array(change)}" for name, change in facts["arrays"].items())
    yield _shift(facts["scores"])
    if "images" in facts:
        yield from _disagreements(facts["images"])
    yield "same: both judge every part alike" if facts["same"] else "different: they may judge a part differently"


def _array(change: Mapping[str, Any]) -> str:
    if "form" in change:
        return _arrow(change["form"])
    apart = change["max_difference"]
    return "holds values that are not finite" if apart is None else f"differs by at most {apart:.3g}"


def _shift(scores: Mapping[str, Any]) -> str:
    if not scores["images"]:
        return "   no good image is named by both"
    turned = f"; {len(scores['turned'])} turned: {', '.join(scores['turned'])}" if scores["turned"] else ""
    largest = f"most {scores['largest']:+.3g} ({scores['of']})"
    return f"   scores of {scores['images']} good images that both name: mean {scores['mean']:+.3g}, {largest}{turned}"


def _disagreements(images: Mapping[str, Any]) -> Iterator[str]:
    for one in images["disagree"]:
        sides = (f"{s['outcome']} {_word(s['score'])} / {s['threshold']:.6g}" for s in (one["a"], one["b"]))
        yield f"   {' -> '.join(sides)}  {one['path']}"
    yield f"   {len(images['disagree'])} of {len(images['verdicts'])} images get another verdict"


def _rate(rates: Mapping[str, float] | None) -> str:
    if rates is None:
        return "unknown"
    return f"about {rates['expected']:.1f} (95 %: {rates['low']:.1f} to {rates['high']:.1f})"


def _arrow(pair: tuple[Any, Any]) -> str:
    return f"{_word(pair[0])} -> {_word(pair[1])}"


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_word(value)}" for name, value in values.items() if value is not None)


def _word(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
