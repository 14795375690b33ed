"""The report stands alone, says the true figures, and survives any file name."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from calib import figures, report
from calib.calibration import calibrate
from line_worker.bundle import Bundle

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


def learned(undecided: dict[str, str] | None = None, rule: str = "zone", colour: bool = False) -> report.Learned:
    errors = (1 + 0.2 * torch.randn(30, 8, 12, generator=torch.Generator().manual_seed(3))).abs()
    mask = torch.ones(8, 12, dtype=torch.bool)
    made = calibrate(errors, mask, rule, 0.1)
    shape = (32, 48, 3) if colour else (32, 48)
    rng = np.random.default_rng(0)
    canonicals = [rng.random(shape, np.float32) for _ in range(30)]
    sections = {
        "settings": {"locate": "background", "rule": rule, "false_reject": 0.1},
        "input": {"shape": list(shape), "dtype": "uint8"},
        "reconstruct": {"size": [16, 24]},
        "calibration": {"undecided": undecided or {}, "folds": 5, "steps": 7, "cut": bool(undecided)},
    }
    names = [f"{NASTY}{k}" for k in range(30)]
    return report.Learned(sections, names, canonicals, np.mean(canonicals, 0), made, "screw & <nut>")


@pytest.mark.parametrize("rule", ["zone", "deviation", "classic"])
def test_it_stands_alone(rule):
    page = report.render(learned(rule=rule, colour=rule == "zone"))
    checker = Checker()
    checker.feed(page)
    assert "script" not in checker.tags
    assert "link" not in checker.tags
    assert all(value.startswith("data:image/") for value in checker.refers)
    assert checker.tags.count("img") == 4 + 6 + 6 + 4
    assert "http" not in re.sub(r"data:[^\"]*", "", page)


def test_names_and_titles_are_escaped():
    page = report.render(learned(undecided={NASTY: "POSE"}))
    assert "<script>" not in page
    assert "screw &amp; &lt;nut&gt;" in page


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


def test_it_says_what_is_weak():
    page = report.render(learned(undecided={"17.png": "POSE"}))
    assert "ended after 7 steps" in page
    assert "17.png" in page
    assert "no verdict" in page
    assert "ended after" not in report.render(learned())


def test_too_few_images_for_the_target_is_said():
    given = learned()
    given.sections["settings"]["false_reject"] = 0.02
    assert "at least 49" in report.render(given)


def test_histogram_counts_every_score_and_marks_those_above():
    svg = figures.histogram([1.0] * 10 + [2.0] * 5 + [9.0], 3.0)
    counts = dict.fromkeys(("good", "bad"), 0)
    for kind, count in re.findall(r'<rect class="(\w+)"[^>]*><title>(\d+)', svg):
        counts[kind] += int(count)
    assert counts == {"good": 15, "bad": 1}


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
