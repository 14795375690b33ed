"""Limits on the page: what another one would have done, and who may have the hub use it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from line_worker.errors import ConfigError
from line_worker.hub.control import ControlSocket
from line_worker.live.judgements import Judged, Judgement
from line_worker.live.scores import PARTS, Scores
from line_worker.sink.store import Store
from line_worker.verdicts import Reason
from line_worker.wire.messages import Outcome
from live_bench import Bench, named, outcome, until


def scored(seq: int, score: float | None, **changes: Any) -> Outcome:
    if score is None:
        return replace(outcome(seq, Reason.DEADLINE), score=None, p_value=None, **changes)
    return replace(outcome(seq, Reason.ANOMALY if score > 1 else Reason.NONE), score=score, **changes)


def judged(seq: int, score: float | None, judgement: Judgement, **changes: Any) -> Judged:
    fields = {"key": outcome(seq).key, "part_id": "", "verdict": "FAIL", "reason": "ANOMALY", "score": score}
    fields |= {"threshold": 1.0, "bundle": "b" * 64, "judgement": judgement, "who": "Ada", "note": "", "wall": 0.0}
    return Judged(**fields | changes)


def test_the_last_scores_are_those_of_the_bundle_that_judges() -> None:
    scores = Scores(["top"])
    assert scores.view("top", []) == {"camera": "top", "bundle": "", "scores": [], "undecided": 0, "judged": []}
    scores.take(scored(0, 9.0, bundle="a" * 64))
    for seq, score in enumerate((0.5, 1.5, None, 0.7)):
        scores.take(scored(seq, score))
    said = [
        judged(0, 0.5, Judgement.GOOD),
        judged(1, 1.5, Judgement.TRUE_DEFECT),
        judged(2, None, Judgement.FALSE_REJECT),
        judged(3, 0.7, Judgement.MISSED_DEFECT),
        judged(4, 7.0, Judgement.FALSE_REJECT, bundle="a" * 64),
    ]
    view = scores.view("top", said)
    assert (view["scores"], view["undecided"], view["bundle"]) == ([0.5, 1.5, 0.7], 1, "b" * 64)
    assert view["judged"] == [(0.5, False), (1.5, True), (0.7, True)]
    for seq in range(PARTS + 10):
        scores.take(scored(seq, 2.0))
    assert scores.view("top", [])["scores"] == [2.0] * PARTS
    with pytest.raises(KeyError):
        scores.view("side", [])


class Hub:
    """What is asked of the control socket; it refuses limits above 1 that nobody knows to be less sensitive."""

    def __init__(self, runtime: Path) -> None:
        runtime.mkdir()
        self.asked: list[tuple[Any, ...]] = []
        self.at = 1.0
        commands = {"status": self.status, "threshold": self.threshold}
        self._control, self._stop = ControlSocket(runtime, commands), threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop.wait(0.005):
            self._control.poll(time.monotonic())

    def status(self) -> dict[str, Any]:
        told = {"at": self.at, "own": 1.0, "less_sensitive": self.at > 1}
        return {"thresholds": {"top": told}, "threshold_changes": []}

    def threshold(self, camera: str, at: float | None, who: str, less_sensitive: bool) -> dict[str, Any]:
        self.asked.append((camera, at, who, less_sensitive))
        if at is not None and at > 1 and not less_sensitive:
            raise ConfigError("threshold", ["more defects may pass"])
        self.at = at or 1.0
        return {"camera": camera, "after": at}

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._control.close()


@pytest.fixture
def hub(short_path: Path) -> Iterator[Hub]:
    found = Hub(short_path / "run")
    yield found
    found.close()


@pytest.fixture
def page(hub: Hub, short_path: Path) -> Iterator[Bench]:
    found = Bench(short_path)
    yield found
    found.close()


def shown(page: Bench) -> dict[str, Any]:
    page.live.poll(time.monotonic() + 1)
    return page.next()[0]["board"]["thresholds"]


def test_scores_and_judgements_are_shown_together(page: Bench) -> None:
    for seq in range(3):
        page.part(seq, Reason.ANOMALY)
    page.post("/judge", **named(1), judgement="true_defect", who="Ada")
    status, body = page.get("/scores?camera=top")
    assert status == 200
    assert json.loads(body)["scores"] == [2.0, 2.0, 2.0]
    assert json.loads(body)["judged"] == [[2.0, True]]
    assert page.get("/scores?camera=side")[0] == page.get("/scores")[0] == 400


def test_scores_from_before_the_start_are_still_there(page: Bench) -> None:
    store = Store(page.config.store_path, 1_000_000)
    store.open()
    for seq in range(5):
        store.deliver(scored(seq, 0.1 * (seq + 1), wall=1000.0 + seq), 0.0)
    store.close()
    page.live.close()
    page.live.open()
    assert json.loads(page.get("/scores?camera=top")[1])["scores"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_limit_is_changed_by_somebody_and_shown_at_once(page: Bench, hub: Hub) -> None:
    until(lambda: shown(page).get("top", {}).get("at") == 1.0)
    status, done = page.post("/threshold", camera="top", at=0.8, who=" Ada  Lovelace ")
    assert (status, done["after"]) == (200, 0.8)
    assert hub.asked == [("top", 0.8, "Ada Lovelace", False)]
    until(lambda: shown(page)["top"]["at"] == 0.8)
    assert page.post("/threshold", camera="top", at=1.2, who="Ada", less_sensitive=True)[0] == 200
    until(lambda: shown(page)["top"]["less_sensitive"])
    assert page.post("/threshold", camera="top", at=None, who="Ada")[0] == 200
    assert hub.at == 1.0


@pytest.mark.parametrize("wrong", [{"who": ""}, {"who": None}, {"at": 1.2}, {"at": 1.2, "less_sensitive": "yes"}])
def test_a_change_without_a_name_or_unknowingly_is_refused(page: Bench, hub: Hub, wrong: dict[str, Any]) -> None:
    status, words = page.post("/threshold", **({"camera": "top", "at": 0.8, "who": "Ada"} | wrong))
    assert status in (400, 503)
    assert "needs a name" in words or "more defects may pass" in words
    assert hub.at == 1.0


def test_what_says_no_limit_changes_none(page: Bench, hub: Hub) -> None:
    assert page.post("/threshold", camera="top", who="Ada")[0] == 400, "a limit left out is not the bundle's own"
    assert hub.asked == []


def test_another_site_in_the_same_browser_changes_no_limit(page: Bench, hub: Hub) -> None:
    body = json.dumps({"camera": "top", "at": 0.8, "who": "Ada"}).encode()
    for headers in (
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json", "Origin": "http://evil.example"},
    ):
        assert page.get("/threshold", body=body, **headers)[0] == 403
    assert page.get("/threshold?camera=top&at=0.8&who=Ada")[0] == 403
    assert hub.asked == []


def test_without_a_hub_a_change_says_so(bench: Bench) -> None:
    status, words = bench.post("/threshold", camera="top", at=0.8, who="Ada")
    assert (status, "no hub answers" in words) == (503, True)
