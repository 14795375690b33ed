"""Power counts what a judge finds, says how sure that is, and the report's table shows the same numbers."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from calib.painting import CONTRASTS, KINDS, SIZES, part_size
from calib.power import Power, Row, power
from calib.power_figure import examples, render
from line_worker.vision.decide import clopper_pearson

SPAN = (0.4, 0.8)
CELLS = len(KINDS[:3]) * len(SIZES) * len(CONTRASTS) + len(SIZES)


def plate(height: int = 120, width: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Return a flat plate on its background and its mask."""
    picture, mask = np.ones((height, width), np.float32), np.zeros((height, width), np.bool_)
    picture[12:-12, 12:-12], mask[8:-8, 8:-8] = 0.6, True
    return picture, mask


GOOD, MASK = plate()


def largest_change(pictures) -> list[float]:
    return [float(np.abs(picture - GOOD).max()) for picture in pictures]


def measured(judge=largest_change, threshold=0.08, repeats=4, seed=0, **options) -> Power:
    return power(judge, [GOOD], MASK, SPAN, threshold, np.random.default_rng(seed), repeats, **options)


def made(*, found, tried=20, kinds=KINDS, part=100.0) -> Power:
    """Return a power whose cells are found as often as `found(kind, size, contrast)` says."""
    rows = [
        Row(kind, size, contrast, found(kind, size, contrast), tried)
        for kind in kinds
        for size in SIZES
        for contrast in ((None,) if kind == "missing" else CONTRASTS)
    ]
    return Power(tuple(rows), part, 1, 12)


def test_it_counts_what_the_judge_finds():
    rows = measured().rows
    assert len(rows) == CELLS
    assert {row.tried for row in rows} == {4}
    for row in rows:  # contrasts are 0.04, 0.10 and 0.24 of brightness; the limit lies at 0.08
        assert row.found == (4 if row.contrast != CONTRASTS[0] else 0)


def test_a_judge_that_finds_some_gets_its_share():
    calls = []

    def every_fourth(pictures):
        calls.extend(len(pictures) * [None])
        return [float(len(calls) % 4 == 0)] * len(pictures)

    rows = measured(every_fourth, 0.5, repeats=12, chunk=1).rows
    assert [(row.found, row.tried) for row in rows] == [(3, 12)] * CELLS


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_finite_counts_as_found(score):
    seen = measured(lambda pictures: [score] * len(pictures), repeats=1)
    assert all(row.found == row.tried == 1 for row in seen.rows)
    assert (seen.rejected, seen.good) == (1, 1)


def test_a_score_at_the_threshold_is_not_found():
    assert not any(row.found for row in measured(lambda pictures: [0.5] * len(pictures), 0.5, repeats=1).rows)


def test_pictures_take_turns_and_each_is_judged_unpainted_once():
    pictures = [GOOD + np.float32(0.001 * k) for k in range(5)]
    seen: list[int] = []
    clean: list[int] = []

    def judge(given):
        for picture in given:
            number = round(float(picture[0, 0] - 1) / 0.001)
            (clean if np.array_equal(picture, pictures[number]) else seen).append(number)
        return [float(number == 2) for number in range(len(given))]

    done = power(judge, pictures, MASK, SPAN, 0.5, np.random.default_rng(0), 5)
    assert clean == [0, 1, 2, 3, 4]
    assert (done.rejected, done.good) == (1, 5)
    assert np.bincount(seen).tolist() == [CELLS] * 5


def test_the_judge_gets_chunks_of_the_size_asked_for():
    sizes = []

    def judge(pictures):
        sizes.append(len(pictures))
        return [0.0] * len(pictures)

    measured(judge, repeats=1, chunk=7)
    assert set(sizes[:-1]) == {7}
    assert sum(sizes) == CELLS + 1


def test_a_judge_that_loses_a_score_is_an_error():
    with pytest.raises(ValueError, match="shorter"):
        measured(lambda pictures: [0.0] * (len(pictures) - 1))


def test_the_generator_decides_alone():
    def total(pictures):
        return [float(picture.sum()) for picture in pictures]

    def scores(seed):
        got = []
        measured(lambda pictures: got.extend(total(pictures)) or total(pictures), seed=seed, repeats=2)
        return got

    assert scores(1) == scores(1)
    assert scores(1) != scores(2)


def test_progress_ends_at_one_and_never_falls():
    shares: list[float] = []
    measured(repeats=2, progress=shares.append)
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] == 1.0


def test_sizes_are_in_pixels_of_the_image():
    whole, halved = measured(repeats=1), measured(repeats=1, scale=0.5)
    first = whole.rows[0]
    assert whole.pixels(first) == pytest.approx(SIZES[0] * part_size(MASK))
    assert halved.pixels(first) == pytest.approx(2 * whole.pixels(first))


def test_what_does_not_fit_is_not_counted():
    picture, mask = plate(34, 44)
    done = power(largest_change_of(picture), [picture], mask, SPAN, 0.08, np.random.default_rng(0), 3)
    by_size = {size: {row.tried for row in done.rows if row.size == size} for size in SIZES}
    assert by_size[SIZES[0]] == {0}  # half a pixel
    assert by_size[SIZES[2]] == {3}
    assert np.isnan(done.rows[0].rate)
    assert done.rows[0].interval == (0.0, 1.0)
    assert "does not fit" in render(done)


def largest_change_of(good):
    return lambda pictures: [float(np.abs(picture - good).max()) for picture in pictures]


def test_a_part_too_small_for_anything_says_so():
    picture, mask = np.ones((16, 16), np.float32), np.zeros((16, 16), np.bool_)
    done = power(largest_change_of(picture), [picture], mask, SPAN, 0.1, np.random.default_rng(0), 1)
    assert not any(row.tried for row in done.rows)
    assert done.summary() == "The part is too small to paint defects on."
    json.dumps(done.as_json(), allow_nan=False)
    assert "too small" in render(done)


@pytest.mark.parametrize(
    "wrong", [{"canonicals": []}, {"repeats": 0}, {"threshold": np.nan}, {"threshold": np.inf}, {"chunk": 0}]
)
def test_arguments_are_checked(wrong):
    given = {"canonicals": [GOOD], "mask": MASK, "span": SPAN, "threshold": 0.1, "repeats": 1, **wrong}
    with pytest.raises(ValueError, match="power needs"):
        power(largest_change, rng=np.random.default_rng(0), **given)


def test_json_holds_every_cell_with_its_exact_interval():
    done = measured(repeats=3)
    plain = json.loads(json.dumps(done.as_json(), allow_nan=False))
    assert len(plain["rows"]) == CELLS
    for given, row in zip(plain["rows"], done.rows, strict=True):
        assert (given["kind"], given["size"], given["contrast"]) == (row.kind, row.size, row.contrast)
        assert (given["found"], given["tried"]) == (row.found, row.tried)
        assert (given["low"], given["high"]) == clopper_pearson(row.found, row.tried)
    assert plain["summary"] == done.summary()
    assert (plain["rejected"], plain["good"]) == (0, 1)


def test_summary_names_the_smallest_then_the_faintest_found():
    def found(kind, size, contrast):
        return {
            "scratch": 20 if size >= 0.05 and contrast != 0.1 else 0,
            "pit": 18 if contrast == 0.6 or size >= 0.05 else 17,
            "smear": 17,
            "missing": 20,
        }[kind]

    assert made(found=found).summary() == (
        "It finds scratches of 5 px or more with a contrast of 25 % or more, pits of 2 px or more with a contrast of "
        "60 % or more and missing pieces of 2 px or more at a rate of 90 % or more; not even smears of 10 px with a "
        "contrast of 60 %."
    )


def test_summary_promises_nothing_that_a_larger_defect_breaks():
    def found(kind, size, contrast):
        return 20 if size != 0.05 else 10

    assert "pits of 10 px or more with a contrast of 10 % or more" in made(found=found, kinds=("pit",)).summary()


def test_summary_when_nothing_is_found():
    assert made(found=lambda *_: 3, kinds=("pit", "missing")).summary() == (
        "It finds nothing that was painted at a rate of 90 % or more, not even pits of 10 px with a contrast of 60 % "
        "or missing pieces of 10 px."
    )


class Table(HTMLParser):
    """Collects the table's cells by row, and checks that every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[tuple[str, dict]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(("", dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            text, attrs = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, attrs)


def test_the_table_shows_every_cell_by_number_and_colour():
    def found(kind, size, contrast):
        return 20 if kind == "missing" else round(20 * contrast * size / 0.1)

    done = made(found=found)
    table = Table(render(done))
    cells = [cell for row in table.rows[2:] for cell in row if "background" in cell[1].get("style", "")]
    assert len(cells) == CELLS
    shades = {}
    for (text, attrs), row in zip(cells, done.rows, strict=True):
        low, high = row.interval
        assert text == f"{100 * row.rate:.0f} % {100 * low:.0f}–{100 * high:.0f}"
        assert attrs["title"] == f"{row.found} of {row.tried} found"
        shades[row.rate] = int(re.search(r"background: #(..)", attrs["style"]).group(1), 16)
    ordered = [shades[rate] for rate in sorted(shades)]
    assert ordered == sorted(ordered, reverse=True)
    assert len(set(ordered)) == len(ordered) > 3


def test_the_table_is_rectangular():
    table = Table(render(made(found=lambda *_: 20)))
    widths = [sum(int(attrs.get("colspan", 1)) for _, attrs in row if "rowspan" not in attrs) for row in table.rows]
    assert widths == [3, 3] + [1 + 3] * (len(KINDS) * len(SIZES))
    names = [text for row in table.rows[2:] for text, attrs in row if "rowspan" in attrs]
    assert names == ["scratch", "pit", "smear", "missing piece"]


def test_the_table_says_what_is_rejected_unpainted():
    assert "1 of 12 are rejected with nothing painted" in render(made(found=lambda *_: 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_the_sheet_shows_each_kind_at_each_size(channels):
    picture = GOOD if channels == 1 else np.repeat(GOOD[..., None], 3, 2)
    sheet = examples(np.random.default_rng(0), picture, MASK, SPAN)
    assert sheet.dtype == np.uint8
    assert sheet.ndim == 3
    rows, cols = (side // count for side, count in zip(sheet.shape, (len(KINDS), len(SIZES)), strict=False))
    for row in range(len(KINDS)):
        for col in range(len(SIZES)):
            tile = sheet[row * rows : (row + 1) * rows, col * cols : (col + 1) * cols].astype(int)
            assert (tile[..., 2] - tile[..., 0] > 60).any()  # the red circle


def test_a_defect_that_does_not_fit_leaves_its_tile_empty():
    picture, mask = plate(34, 44)
    sheet = examples(np.random.default_rng(0), picture, mask, SPAN)
    tile = sheet[22 : sheet.shape[0] // len(KINDS), : sheet.shape[1] // len(SIZES)]
    assert len(np.unique(tile)) <= 2
