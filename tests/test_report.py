"""The report stands alone, says the true figures, and survives any file name."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from calib import figures, report
from calib.calibration import calibrate
from calib.choosing import Chosen
from calib.dataset import Dataset
from calib.fitting import Fitted
from calib.learned import Learned, Straightened
from calib.options import TrainOptions
from calib.power import Power, Row
from line_worker.bundle import Bundle
from line_worker.vision.rectify import Frame, Rectifier
from line_worker.vision.score import RULES
from line_worker.vision.standard import Standard

NASTY = '<script>alert("&")</script>.png'


class Checker(HTMLParser):
    """Collects the tags, and what each refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.refers: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.refers += [value for name, value in attrs if name in ("src", "href") and value]


class Final:
    """A fitted model of which the report asks the object's cells and the names of its maps."""

    mask = torch.ones(8, 12, dtype=torch.bool)

    def __init__(self, *branches: str) -> None:
        self.branches = branches

    def meta(self):
        return {"method": "hybrid", "branches": {name: {} for name in self.branches}} if self.branches else {}


def learned(
    undecided: dict[str, str] | None = None,
    rule: str = "zone",
    colour: bool = False,
    size: tuple[int, int] = (32, 48),
    branches: tuple[str, ...] = (),
) -> Learned:
    """Return what could have been learned from 30 images of noise; when some are undecided the time also ran out."""
    count, maps = 30, max(1, len(branches))
    errors = (1 + 0.2 * torch.randn(count, maps, 8, 12, generator=torch.Generator().manual_seed(3))).abs()
    final = Final(*branches)
    fitted = Fitted(final, final, torch.arange(6), errors, (False,) * maps, 7, bool(undecided), ("Fitted & <well>.",))
    shape = (*size, 3) if colour else size
    rng = np.random.default_rng(0)
    canonicals = [rng.random(shape, np.float32) for _ in range(count)]
    made = calibrate(fitted, canonicals, rule, 0.1)
    frame = Frame(size, 3 if colour else 1, "uint8", 255.0)
    rectifier = Rectifier(frame, size, 1.0, 0.0, None, np.ones(size, np.float32), np.mean(canonicals, 0))
    undecided = undecided or {}
    names = [f"{NASTY}{k}" for k in range(count)] + list(undecided)
    images = [np.zeros(shape, np.uint8)] * len(names)
    standard = Standard(made.zones, made.rule, made.limit.threshold, sorted(made.scores), made.adaptive)
    return Learned(
        TrainOptions(Path("good"), Path("screw & <nut>.bundle"), rule=rule, false_reject=0.1),
        Dataset(Path("good"), names, images),
        Chosen(rectifier, "background", "rigid", ("locate background: 30 of 30 <good> images.",)),
        Straightened(list(range(count)), canonicals, undecided),
        fitted,
        made,
        standard,
        None,
        None,
        None,
    )


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    return checker


@pytest.mark.parametrize("rule", RULES)
def test_it_stands_alone(rule):
    page = report.render(learned(rule=rule, colour=rule == "zone"))
    checker = checked(page)
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert all(value.startswith("data:image/") for value in checker.refers)
    assert checker.tags.count("img") == 4 + 6 + 6 + 4
    assert "http" not in re.sub(r"data:[^\"]*", "", page)
    assert report.RULES[rule] in page


def test_zones_of_several_maps_are_shown_by_name():
    given = learned(branches=("feature", "memory"))
    page = report.render(given)
    assert checked(page).tags.count("img") == 1 + 2 * 3 + 6 + 6 + 4
    limits = given.calibrated.zones.limit(given.calibrated.limit.threshold, given.calibrated.rule)[0]
    for name, limit in zip(("feature", "memory"), limits, strict=True):
        low, high = np.percentile(limit.numpy(), [1, 99])
        told = f"Error at which the zone fails the part</b> ({name}), by the zone rule"
        assert f'{told}<span class="scale">{low:.2f}<i></i>{high:.2f}</span>' in page


def test_names_and_titles_are_escaped():
    given = learned(undecided={NASTY: "POSE"})
    page = report.render(given._replace(bad={NASTY: (None, "POSE")}))
    assert "<script>" not in page
    assert "screw &amp; &lt;nut&gt;" in page
    assert page.count("&lt;script&gt;") == 6 + 6 + 2 + 1 + 1  # worst, best, maps, undecided, bad


def test_it_says_the_true_figures():
    given = learned()
    page = report.render(given)
    limit = given.calibrated.limit
    assert f"{1000 * limit.expected:.0f} in 1000" in page
    assert f"{limit.above} of 30" in page
    assert f"limit {limit.threshold:.2f}" in page
    assert f"between {1000 * limit.low:.1f} and {1000 * limit.high:.0f}" in page
    worst = max(given.calibrated.scores)
    assert f"{worst:.2f}</b>" in page


def test_it_says_what_was_chosen_and_why():
    page = report.render(learned(rule="deviation"))
    notes = re.findall(r"<li>(.*?)</li>", page)
    assert notes[:2] == ["locate background: 30 of 30 &lt;good&gt; images.", "Fitted &amp; &lt;well&gt;."]
    assert "Neighbours are compared at a distance of" in notes[2]


def test_it_says_how_it_was_made():
    page = report.render(learned())
    rows = dict(re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", page))
    assert (rows["locate"], rows["pose"], rows["reconstruct"]) == ("background", "rigid", "hybrid")
    assert (rows["folds"], rows["steps"], rows["cells"], rows["false reject"]) == ("5", "7", "12 x 8", "0.1")
    assert not {"good", "out", "backbone", "exclude"} & rows.keys()  # no path of the machine that it was made on


def test_it_says_what_is_weak():
    page = report.render(learned(undecided={"17.png": "POSE"}))
    assert "ended after 7 steps" in page
    assert "17.png" in page
    assert "no verdict" in page
    assert "ended after" not in report.render(learned())


def test_too_few_images_for_the_target_is_said():
    given = learned()
    asked = given._replace(options=replace(given.options, false_reject=0.02))
    assert "at least 49" in report.render(asked)
    assert "at least" not in report.render(given)


def test_painted_defects_have_their_section():
    rows = (Row("scratch", 0.1, 0.24, 19, 20), Row("missing", 0.1, None, 3, 20), Row("pit", 0.1, 0.24, 0, 0))
    given = learned(size=(96, 144))
    page = report.render(given._replace(power=Power(rows, 100.0, 1, 6)))
    section = page.partition("What it would find: painted defects")[2].partition("</section>")[0]
    assert Power(rows, 100.0, 1, 6).summary() in section
    for words in ("<b>95 %</b>", "15 %", "does not fit", "1 of 6 are rejected"):
        assert words in section
    assert checked(section).tags.count("img") == 1  # what was painted
    assert "painted" not in report.render(given)


def test_bad_parts_have_their_section():
    given = learned()
    bad = {"b/seen.png": (9.25, "ANOMALY"), "b/missed.png": (1.5, "NONE"), "b/empty.png": (None, "NO_OBJECT")}
    page = report.render(given._replace(bad=bad))
    section = page.partition("Your bad parts")[2].partition("</section>")[0]
    assert "2 of 3 are rejected, 1 would escape" in section
    assert re.findall(r"<tr><th>(.*?)</th><td>(.*?)</td></tr>", section) == [
        ("b/empty.png", "- NO_OBJECT"),
        ("b/missed.png", "1.50 PASS"),
        ("b/seen.png", "9.25 ANOMALY"),
    ]
    assert "Your bad parts" not in report.render(given)


def test_histogram_counts_every_score_and_marks_those_above():
    svg = figures.histogram([1.0] * 10 + [2.0] * 5 + [9.0], 3.0)
    counts = dict.fromkeys(("good", "bad"), 0)
    for kind, count in re.findall(r'<rect class="(\w+)"[^>]*><title>(\d+)', svg):
        counts[kind] += int(count)
    assert counts == {"good": 15, "bad": 1}


def test_the_outline_of_the_part_is_drawn_and_its_inside_left_alone():
    mask = np.zeros((40, 60), np.uint8)
    mask[10:30, 20:40] = 1
    drawn = figures.outlined(np.full((80, 120, 3), 128, np.uint8), mask)
    green = drawn[..., 1] > 150
    assert green[20, 40:80].all()
    assert green[20:60, 40].all()
    assert (drawn[30:50, 50:70] == 128).all()
    assert (drawn[:15] == 128).all()


def test_heat_marks_where_the_limit_is_passed():
    decision = np.zeros((8, 12), np.float32)
    decision[4, 6] = 5.0
    plain = np.full((80, 120, 3), 128, np.uint8)
    marked = figures.marked(plain, decision, 4.0)
    assert marked[45, 65, 2] > marked[45, 65, 0] + 60
    assert (marked[:20] == 128).all()


def test_a_trained_bundle_has_its_report(tiny_bundle):
    page = (tiny_bundle / "report.html").read_text()
    assert f"limit {Bundle.load(tiny_bundle).threshold:.2f}" in page
    assert len(page) < 2_000_000
    assert "Where it finds the part" in page
    assert page.partition("Where it finds the part")[2].partition("</section>")[0].count("<img") == 3
