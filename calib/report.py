"""The report: what the bundle will reject, how often, and how sure that is, for the engineer who has to trust it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from calib import figures, power_figure
from calib.learned import Learned
from calib.page import PAGE, figure, picture, row, scale
from line_worker import __version__
from line_worker.vision.decide import images_needed

SHOWN = 6  # pictures of the worst and of the best
OUTLINED = 3  # pictures with the outline of the part that was found
RULES = {
    "zone": "A part fails when the error of any zone is further above what is usual there than the limit allows, "
    "counted in the zone's own spreads.",
    "deviation": "A part fails when one of its most conspicuous zones stands out from the zones around it by more than "
    "the limit allows.",
    "classic": "A part fails when the error of one of its most conspicuous patches differs from its neighbours by more "
    "than three standard deviations of what good parts reach.",
    "adaptive": "A part fails when the error of any zone is further above what is usual there, given the texture that "
    "the picture shows there, than the limit allows.",
}


def render(learned: Learned) -> str:
    """Return the report as one self-contained HTML page."""
    c = learned.calibrated
    order = list(np.argsort(c.scores))
    low, high = (float(v) for v in np.percentile(learned.chosen.rectifier.mean, [0.5, 99.5]))
    shades = min(low, 0.9 * high), max(high, 1.0 if learned.chosen.locate != "full" else high)
    wide = learned.chosen.rectifier.mean.shape[1] > 1.6 * learned.chosen.rectifier.mean.shape[0]
    return PAGE.substitute(
        title=escape(learned.options.out.stem),
        subtitle=_subtitle(learned),
        figures=_figures(learned),
        rejects=_rejects(learned),
        histogram=figures.histogram(c.scores, c.limit.threshold),
        rule=f"<p>{RULES[c.rule.name]} {_unlike()}</p>",
        zones=_zones(learned, shades),
        chosen="".join(f"<li>{escape(note)}</li>" for note in learned.notes()),
        found=_found(learned),
        power=_power(learned, shades),
        bad=_bad(learned),
        suspicious=_suspicious(learned),
        worst=_gallery(learned, order[::-1][:SHOWN], shades),
        best=_gallery(learned, order[:SHOWN], shades),
        maps=_maps(learned, [order[len(order) // 2], order[-1]], shades),
        undecided=_undecided(learned),
        settings=_settings(learned),
        cell="300px" if wide else "190px",
    )


def _subtitle(learned: Learned) -> str:
    shape = learned.data.images[0].shape
    kind = "colour" if len(shape) == 3 else "gray"
    size = f"{shape[1]} x {shape[0]} {kind}"
    return f"Learned from {len(learned.names)} images of good parts, {size}. No bad part was used to set the limit."


def _figures(learned: Learned) -> str:
    limit = learned.calibrated.limit
    per_thousand = figure(
        f"{1000 * limit.expected:.0f} in 1000",
        f"good parts expected to be rejected; with 95 % certainty between {1000 * limit.low:.1f} and "
        f"{1000 * limit.high:.0f}",
    )
    above = figure(f"{limit.above} of {limit.images}", "good images lie above the limit")
    return per_thousand + above + figure(f"{limit.threshold:.2f}", "is the limit on the score")


def _rejects(learned: Learned) -> str:
    limit, target = learned.calibrated.limit, learned.options.false_reject
    text = (
        f"<p>You asked for at most {100 * target:g} % false rejects. The limit is set so that about "
        f"{1000 * limit.expected:.0f} of 1000 good parts are rejected. With {limit.images} images the true figure is, "
        f"with 95 % certainty, between {1000 * limit.low:.1f} and {1000 * limit.high:.0f}; four times as many images "
        "would halve that range.</p>"
    )
    if limit.images < images_needed(target) and learned.calibrated.rule.name != "classic":
        text += (
            f'<p class="warn">{limit.images} images are too few to promise {100 * target:g} %: it takes at least '
            f"{images_needed(target)}. The limit is the largest score of a good image.</p>"
        )
    if learned.fitted.cut:
        text += (
            '<p class="warn">The time allowed was too short for this machine, which was slow or busy: training ended '
            f"after {learned.fitted.steps} steps. More time makes a sharper limit, and one that "
            "the same seed gives again.</p>"
        )
    return text


def _unlike() -> str:
    return (
        "It knows good parts only: whatever makes a zone look unlike every good part counts, be it a scratch, dirt, a "
        "missing piece or a new surface finish. It cannot see what these images would not show."
    )


def _zones(learned: Learned, shades: tuple[float, float]) -> str:
    zones = learned.calibrated.zones
    mask = zones.mask.numpy()
    size = figures.thumbnail_size(learned.chosen.rectifier.mean.shape[0], learned.chosen.rectifier.mean.shape[1])
    cells = [picture(figures.uri(figures.part(learned.chosen.rectifier.mean, *shades)), "<b>The mean part</b>")]
    limits = zones.limit(learned.calibrated.limit.threshold, learned.calibrated.rule)
    for k, what in enumerate(_maps_of(learned)):
        usual, spread = learned.fitted.errors[:, k].mean(0), learned.fitted.errors[:, k].std(0)
        planes = {
            "Usual error": (usual, "of good parts"),
            "Spread of the error": (spread, "from one good part to the next"),
            "Error at which the zone fails the part": (limits[0, k], "by the zone rule"),
        }
        if learned.fitted.flat[k]:  # one limit for all of the part: nothing to draw
            _, (limit, _) = planes.popitem()
            planes["Spread of the error"] = (spread, f"from part to part; all zones fail at {float(limit.max()):.2f}")
        for name, (plane, note) in planes.items():
            heat, low, high = figures.heat(plane.numpy(), mask, size)
            cells.append(picture(figures.uri(heat), f"<b>{name}</b>{what}, {note}{scale(low, high)}"))
    return "".join(cells)


def _found(learned: Learned) -> str:
    """Return the section that shows where parts were found, "" when texture fills the frame."""
    rectifier, usable = learned.chosen.rectifier, learned.straight.usable
    if rectifier.placer is None:
        return ""
    cells = []
    for i in {usable[round(k)]: None for k in np.linspace(0, len(usable) - 1, OUTLINED)}:
        image = learned.data.images[i]
        plain = figures.part(image.astype(np.float32), 0.0, rectifier.frame.white)
        outline = figures.outlined(plain, rectifier.look(image).located.mask)
        cells.append(picture(figures.uri(outline), escape(learned.data.names[i])))
    return (
        "<section><h2>Where it finds the part</h2><p>The outline should lie on the part's edge, not on its shadow, in "
        f'each of these good pictures.</p><div class="grid">{"".join(cells)}</div></section>'
    )


def _maps_of(learned: Learned) -> list[str]:
    """Return what each error map is called where there are several."""
    branches = list(learned.fitted.final.meta().get("branches", {}))
    return [f" ({name})" for name in branches] if len(branches) > 1 else [""]


def _power(learned: Learned, shades: tuple[float, float]) -> str:
    """Return the section on painted defects, "" when none were painted."""
    if learned.power is None:
        return ""
    rectifier = learned.chosen.rectifier
    middle = learned.straight.canonicals[int(np.argsort(learned.calibrated.scores)[len(learned.names) // 2])]
    dice = np.random.default_rng(learned.options.seed)
    sheet = power_figure.examples(dice, middle, rectifier.template_mask, shades, rectifier.scale)
    return (
        "<section><h2>What it would find: painted defects</h2><p>Defects were painted on good parts that the judging "
        f"model had not seen. They are no real ones, but say what size and contrast this line can see.</p>"
        f"{power_figure.render(learned.power)}{picture(figures.uri(sheet), 'What was painted, circled.')}</section>"
    )


def _bad(learned: Learned) -> str:
    """Return the section on the user's own bad parts, "" when none were given."""
    if learned.bad is None:
        return ""
    passed = [name for name, (_, reason) in learned.bad.items() if reason == "NONE"]
    rows = "".join(
        row(escape(name), f"{'-' if value is None else format(value, '.2f')} {'PASS' if reason == 'NONE' else reason}")
        for name, (value, reason) in sorted(learned.bad.items(), key=lambda item: item[1][0] or 0.0)[:40]
    )
    return (
        f"<section><h2>Your bad parts</h2><p>{len(learned.bad) - len(passed)} of {len(learned.bad)} are rejected, "
        f"{len(passed)} would escape. They were not used to set the limit. The lowest scores first:</p>"
        f"<table>{rows}</table></section>"
    )


def _suspicious(learned: Learned) -> str:
    above = learned.calibrated.limit.above
    if not above:
        return "None lies above the limit. Red marks what is most unusual about them."
    return (
        f"{above} lie above the limit and would be rejected. Look at them first: if one is not a good part, write "
        "its name into a file and train again with --exclude FILE, and the limit becomes sharper. Red marks what is "
        "unusual."
    )


def _gallery(learned: Learned, chosen: Sequence[int], shades: tuple[float, float]) -> str:
    return "".join(picture(figures.uri(_marked(learned, i, shades)), _caption(learned, i)) for i in chosen)


def _marked(learned: Learned, i: int, shades: tuple[float, float]) -> figures.Picture:
    part = figures.part(learned.straight.canonicals[i], *shades)
    return figures.marked(part, learned.calibrated.decisions[i].numpy(), learned.calibrated.limit.threshold)


def _caption(learned: Learned, i: int) -> str:
    value = learned.calibrated.scores[i]
    colour = ' class="bad"' if value > learned.calibrated.limit.threshold else ""
    return f"<b{colour}>{value:.2f}</b> {escape(learned.names[i])}"


def _maps(learned: Learned, chosen: Sequence[int], shades: tuple[float, float]) -> str:
    mask = learned.calibrated.zones.mask.numpy()
    cells = []
    for i in chosen:
        part = figures.part(learned.straight.canonicals[i], *shades)
        size = part.shape[1], part.shape[0]
        heat, low, high = figures.heat(learned.calibrated.decisions[i].numpy(), mask, size)
        cells += [picture(figures.uri(part), _caption(learned, i)), picture(figures.uri(heat), scale(low, high))]
    return "".join(cells)


def _undecided(learned: Learned) -> str:
    undecided = learned.straight.undecided
    if not undecided:
        return ""
    listed = "".join(row(escape(name), reason) for name, reason in list(undecided.items())[:20])
    return (
        "<section><h2>Good images it gives no verdict on</h2><p>On the line these parts are rejected with the reason "
        f"named, beside the false rejects above: {len(undecided)} images.</p><table>{listed}</table></section>"
    )


def _settings(learned: Learned) -> str:
    made = learned.sections()["settings"] | {"folds": learned.fitted.folds, "steps": learned.fitted.steps}
    rows, cols = learned.calibrated.zones.mask.shape
    made |= {"cells": f"{cols} x {rows}", "line-worker": __version__}
    return "".join(row(escape(name.replace("_", " ")), escape(str(value))) for name, value in made.items())
