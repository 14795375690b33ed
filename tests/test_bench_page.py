"""`bench page` has real browsers look at a real line by turns."""

from __future__ import annotations

import json

import pytest

from bench.browser import CHROMIUM, MISSING
from line_worker.cli import main

QUICK = ["--rounds", "1", "--seconds", "1", "--browsers", "1", "--size", "320x240", "--workers", "1"]


@pytest.mark.long
@pytest.mark.skipif(CHROMIUM is None, reason=MISSING)
def test_the_line_is_measured_with_nobody_a_browser_elsewhere_and_one_here(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "page", *QUICK, "--json"])
    without, elsewhere, here = json.loads(capsys.readouterr().out.splitlines()[-1])["phases"]
    assert end.value.code == 0
    assert [phase["where"] for phase in (without, elsewhere, here)] == ["nobody", "elsewhere", "here"]
    assert without["shown_a_second"] == []
    for watched in (elsewhere, here):
        assert without["parts"] > 0 < watched["elapsed_ms"]["p99"]
        assert watched["shown_a_second"][0] > 0


def test_without_a_browser_nothing_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("bench.browser.CHROMIUM", None)
    with pytest.raises(SystemExit) as end:
        main(["bench", "page", *QUICK])
    assert (end.value.code, MISSING in capsys.readouterr().err) == (3, True)
