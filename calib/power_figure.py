"""The detection power for the report: the table as HTML, and a sheet that shows what was painted."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from calib import figures
from calib.figures import Picture
from calib.painting import CONTRASTS, KINDS, SIZES, Mask, TooSmall, paint, part_size
from calib.power import RELIABLE, Power, Row

TILE, GAP, LABEL = 180, 6, 22  # pixels: a picture of the sheet, the space around it, the line of text above it
RING = 8  # tile pixels between a defect and the circle around it
VIEW = 0.3  # side of what a tile shows, of the part's size
NAMES = {"missing": "missing piece"}
INK, PAPER = (29, 39, 51), (255, 255, 255)  # RGB, as the report's page has them
GREEN, RED = (47, 143, 78), (201, 55, 44)
STRONGEST = 0.6  # of the green in a cell where everything was found: dark text stays readable on it
_CELL = "text-align: center; padding: 3px 12px; border: 2px solid #ffffff; white-space: nowrap;"
_SMALL = "font-size: 12px; color: #5b6875;"


def render(power: Power) -> str:
    """Return the table as an HTML fragment: a row for each kind and size, a column for each contrast."""
    head = "".join(f'<th style="{_CELL}">{100 * contrast:.0f} %</th>' for contrast in CONTRASTS)
    body = "".join(_kind(power, kind) for kind in dict.fromkeys(row.kind for row in power.rows))
    return (
        f"<p>{power.summary()}</p>"
        '<div style="overflow-x: auto"><table><thead><tr><th rowspan="2">Painted</th><th rowspan="2">Size</th>'
        f'<th colspan="{len(CONTRASTS)}" style="{_CELL}">Found, by contrast</th></tr><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div><p>{_notes(power)}</p>"
    )


def _kind(power: Power, kind: str) -> str:
    """Return the rows of one kind, the first with its name."""
    rows = [row for row in power.rows if row.kind == kind]
    sizes = list(dict.fromkeys(row.size for row in rows))
    lines = []
    for size in sizes:
        name = f'<th rowspan="{len(sizes)}">{NAMES.get(kind, kind)}</th>' if size == sizes[0] else ""
        of_size = [row for row in rows if row.size == size]
        wide = len(CONTRASTS) if len(of_size) == 1 else 1
        cells = "".join(_cell(row, wide) for row in of_size)
        lines.append(f"<tr>{name}<td>{power.pixels(of_size[0]):.0f} px</td>{cells}</tr>")
    return "".join(lines)


def _cell(row: Row, wide: int) -> str:
    span = f' colspan="{wide}"' if wide > 1 else ""
    if not row.tried:
        return f'<td{span} style="{_CELL} {_SMALL}">does not fit</td>'
    low, high = row.interval
    share = f"<b>{100 * row.rate:.0f} %</b>" if row.rate >= RELIABLE else f"{100 * row.rate:.0f} %"
    return (
        f'<td{span} style="{_CELL} background: {_shade(row.rate)};" title="{row.found} of {row.tried} found">{share} '
        f'<span style="{_SMALL}">{100 * low:.0f}&ndash;{100 * high:.0f}</span></td>'
    )


def _shade(rate: float) -> str:
    """Return the colour of a cell: white where nothing is found, green where everything is."""
    mix = (round(p + STRONGEST * rate * (g - p)) for p, g in zip(PAPER, GREEN, strict=True))
    return "#" + "".join(f"{value:02x}" for value in mix)


def _notes(power: Power) -> str:
    tried = max((row.tried for row in power.rows), default=0)
    return (
        f'<span style="{_SMALL}">Painted at random places of good parts that the model had not seen, up to {tried} '
        f"times each; bold from {100 * RELIABLE:.0f} %, small the 95 % interval. Size is the longest extent in pixels "
        "of your images; contrast is the change of brightness as a share of the range that good parts show. Of the "
        f"same pictures, {power.rejected} of {power.good} are rejected with nothing painted on them: a rate no higher "
        "than that means unseen. Real defects differ from painted ones; this says what can be seen, not what will "
        "occur.</span>"
    )


def examples(
    rng: np.random.Generator,
    canonical: NDArray[np.float32],
    mask: Mask,
    span: tuple[float, float],
    scale: float = 1.0,
) -> Picture:
    """Return a sheet, uint8 BGR, of each kind at each size and the middle contrast, circled.

    Arguments are those of `paint`; scale: canonical pixels per image pixel. A defect that does not fit leaves its tile
    empty.
    """
    contrast = CONTRASTS[len(CONTRASTS) // 2]
    rows = []
    for kind in KINDS:
        tiles = []
        for size in SIZES:
            words = f"{NAMES.get(kind, kind)}, {size * part_size(mask) / scale:.0f} px"
            try:
                painted = paint(rng, canonical, mask, kind, size, contrast, span)
            except TooSmall:
                tiles.append(_labelled(np.full((TILE, TILE, 3), 235, np.uint8), f"{words}: no room"))
            else:
                tiles.append(_labelled(_close_up(painted.picture, painted.mask, part_size(mask), span), words))
        rows.append(np.hstack(tiles))
    return np.vstack(rows)


def _close_up(picture: NDArray[np.float32], changed: Mask, part: float, span: tuple[float, float]) -> Picture:
    """Return a square of the picture with the defect circled, good parts' darkest a little above black."""
    rows, cols = np.nonzero(changed)
    middle = np.array([cols.min() + cols.max(), rows.min() + rows.max()]) / 2
    radius = np.hypot(np.ptp(cols), np.ptp(rows)) / 2
    side = max(16, round(VIEW * part))
    room = np.maximum(np.array(changed.shape[::-1]) - side, 0) / 2  # the square stays in the picture where it can
    centre = np.clip(middle, (side - 1) / 2, (side - 1) / 2 + 2 * room)
    cut = np.asarray(cv2.getRectSubPix(picture, (side, side), [float(v) for v in centre]), np.float32)
    beyond = 0.15 * (span[1] - span[0])
    shown = figures.part(cut, span[0] - beyond, max(span[1] + beyond, 1.0))
    tile = cv2.resize(shown, (TILE, TILE), interpolation=cv2.INTER_AREA)
    at = np.round((middle - centre + side / 2) * TILE / side).astype(int)
    ring = round(radius * TILE / side) + RING
    return np.asarray(cv2.circle(tile, (int(at[0]), int(at[1])), ring, RED[::-1], 1, cv2.LINE_AA))


def _labelled(tile: Picture, words: str) -> Picture:
    """Return the tile with a line of text above it and space around it."""
    framed = cv2.copyMakeBorder(tile, LABEL, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=PAPER)
    place = (GAP, LABEL - 7)
    return np.asarray(cv2.putText(framed, words, place, cv2.FONT_HERSHEY_SIMPLEX, 0.42, INK[::-1], 1, cv2.LINE_AA))
