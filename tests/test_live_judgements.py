"""What operators say on the page, kept and exported; and the history of parts."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest

from calib.dataset import good_folder
from line_worker.live.judgements import Judgements
from line_worker.live.records import Records
from line_worker.live.searching import WAITING
from line_worker.sink.store import Store
from line_worker.verdicts import Reason
from live_bench import Bench, named, outcome, rejected, until


def test_a_judgement_is_kept_with_who_and_when(bench: Bench) -> None:
    rejected(bench, 0)
    status, part = bench.post("/judge", **named(0), judgement="false_reject", who=" Ada  Lovelace ")
    assert status == 200
    assert (part["judgement"], part["who"]) == ("false_reject", "Ada Lovelace")
    assert part["judged"] == pytest.approx(time.time(), abs=5)
    assert bench.post("/judge", **named(0), judgement="true_defect", who="Grace")[0] == 200
    [last] = Judgements(bench.config.store_path).newest()
    assert (last.judgement, last.who, last.part_id) == ("true_defect", "Grace", "part-0")


def test_a_pass_that_was_shown_can_be_kept_and_judged(bench: Bench) -> None:
    bench.part(0)
    assert bench.next()[0]["part"]["seq"] == 0
    status, part = bench.post("/keep", **named(0))
    assert (status, part["pictures"]) == (200, ["original"])
    assert bench.post("/judge", **named(0), judgement="missed_defect", who="Ada")[0] == 200
    png = bench.get(f"/picture?{urlencode(named(0))}&name=original")[1]
    assert (cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) == 40).all()


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"who": ""}, "needs a name"),
        ({"who": "x" * 65}, "needs a name"),
        ({"who": "\ud800"}, "needs a name"),
        ({"who": "Ada\u202e"}, "needs a name"),
        ({"judgement": "good"}, "true_defect, false_reject"),
        ({"judgement": ["true_defect"]}, "true_defect, false_reject"),
        ({"seq": 99}, "not known"),
        ({"seq": "-1"}, "named by"),
        ({"camera": "../.."}, "named by"),
        ({"epoch": str(2**64)}, "named by"),
    ],
)
def test_a_judgement_that_makes_no_sense_is_refused(bench: Bench, wrong: dict[str, Any], why: str) -> None:
    bench.part(0, Reason.ANOMALY)
    status, words = bench.post("/judge", **(named(0) | {"judgement": "true_defect", "who": "Ada"} | wrong))
    assert status == 400
    assert why in words
    assert not Judgements(bench.config.store_path).newest()


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json", "Origin": "http://evil.example"},
        {"Content-Type": "application/json", "Origin": "null"},
    ],
)
def test_another_site_in_the_same_browser_judges_nothing(bench: Bench, headers: dict[str, str]) -> None:
    bench.part(0, Reason.ANOMALY)
    body = json.dumps(named(0) | {"judgement": "true_defect", "who": "Ada"}).encode()
    assert bench.get("/judge", body=body, **headers)[0] == 403
    assert bench.get("/judge?who=Ada")[0] == 403


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"[" * 3000])
def test_what_is_no_json_object_is_refused(bench: Bench, body: bytes) -> None:
    assert bench.get("/judge", body=body, **{"Content-Type": "application/json"})[0] == 400


def test_judgements_of_a_newer_version_are_left_alone(bench: Bench) -> None:
    bench.part(0, Reason.ANOMALY)
    bench.config.store_path.mkdir(parents=True)
    with closing(sqlite3.connect(bench.config.store_path / "judgements.sqlite")) as db:
        db.execute("PRAGMA user_version=99")
    status, words = bench.post("/judge", **named(0), judgement="true_defect", who="Ada")
    assert (status, "newer version" in words) == (503, True)


def test_judged_pictures_become_a_folder_to_recalibrate_with(bench: Bench, tmp_path: Path) -> None:
    for seq, judgement in ((0, "false_reject"), (1, "true_defect")):
        rejected(bench, seq)
        bench.post("/judge", **named(seq), judgement=judgement, who="Ada")
        time.sleep(0.3)  # rejects are drawn four times a second at most
    bench.live.deliver(outcome(9, Reason.FOCUS), time.monotonic())
    bench.post("/judge", **named(9), judgement="false_reject", who="Ada")
    line_toml = tmp_path / "line.json"
    line_toml.write_text(bench.config.model_dump_json())
    out = tmp_path / "judged"
    command = [
        str(Path(sys.executable).parent / "line-worker"),
        "judgements",
        str(line_toml),
        "--out",
        str(out),
        "--json",
    ]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert told["judgements"] == {"false_reject": 2, "true_defect": 1}
    assert told["pictures"] == {"train/good": 1, "test/true_defect": 1, "without a picture": 1}
    assert (cv2.imread(str(next(good_folder(out).glob("*.png"))), cv2.IMREAD_UNCHANGED) == 40).all()
    assert len((out / "judgements.csv").read_text().splitlines()) == 4
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (again.returncode, "not empty" in again.stderr) == (3, True)


def test_history_is_found_by_time_part_and_reason(bench: Bench) -> None:
    assert bench.get("/history")[0] == 503, "without a store there is none"
    store = Store(bench.config.store_path, 1_000_000)
    store.open()
    for seq in range(120):
        reason = Reason.ANOMALY if seq % 10 == 0 else Reason.NONE
        store.deliver(replace(outcome(seq, reason), wall=1000.0 + seq), 0.0)
    store.close()

    def found(query: str) -> list[int]:
        return [part["seq"] for part in json.loads(bench.get(f"/history?{query}")[1])["parts"]]

    assert found("") == list(range(119, 69, -1))
    assert found("before=1070") == list(range(69, 19, -1))
    assert found("since=1004&before=1007") == [6, 5, 4]
    assert found("part=part-7") == [7]
    assert found("verdict=FAIL") == found("reason=ANOMALY") == list(range(110, -10, -10))
    assert found("camera=side") == []
    for wrong in ("since=yesterday", "reason=BECAUSE", "verdict=MAYBE"):
        assert bench.get(f"/history?{wrong}")[0] == 400
    assert bench.post("/judge", **named(7), judgement="missed_defect", who="Ada")[0] == 200, "long after it was shown"
    assert json.loads(bench.get("/history?part=part-7")[1])["parts"][0]["judgement"] == "missed_defect"


def test_parts_of_one_moment_are_leafed_through_without_loss(bench: Bench) -> None:
    """A row of gaps, say: every one of them has the time at which the line knew."""
    store = Store(bench.config.store_path, 1_000_000)
    store.open()
    for seq in range(120):
        store.deliver(replace(outcome(seq, Reason.NO_FRAME), wall=1000.0), 0.0)
    store.close()
    query, found = "", list[int]()
    for _ in range(3):
        page = json.loads(bench.get(f"/history?{query}")[1])
        found += [part["seq"] for part in page["parts"]]
        last = page["parts"][-1]
        query = f"before={last['wall']}&behind={last['camera']}/{last['epoch']}/{last['seq']}"
    assert found == list(range(119, -1, -1))
    assert not page["more"]
    for wrong in ("top", "top/7/x", "../7/1", "a/b/c/d"):
        assert bench.get(f"/history?before=1000&behind={wrong}")[0] == 400


def test_a_search_without_time_to_look_at_everything_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(bench.config.store_path, 1_000_000)
    store.open()
    for seq in range(1000):
        store.deliver(replace(outcome(seq), wall=1000.0 + seq), 0.0)
    store.close()
    monkeypatch.setattr("line_worker.sink.store.LOOKED_AT", 50)
    assert json.loads(bench.get("/history?verdict=FAIL")[1]) == {"parts": [], "more": False, "whole": True}
    monkeypatch.setattr("line_worker.live.records.SEARCH_S", 0.0)
    assert json.loads(bench.get("/history?verdict=FAIL")[1]) == {"parts": [], "more": False, "whole": False}


def test_a_search_keeps_nobody_waiting(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    searched = threading.Event()

    def history(*_: object) -> dict[str, Any]:
        assert searched.wait(10)
        return {"parts": []}

    monkeypatch.setattr(Records, "history", history)
    bench.part(0)
    with ThreadPoolExecutor(WAITING + 1) as people:
        searches = [people.submit(bench.get, f"/history?before={number}") for number in range(WAITING + 1)]
        assert bench.next()[0]["part"]["seq"] == 0
        until(lambda: any(search.done() for search in searches))
        searched.set()
        answers = sorted(search.result()[0] for search in searches)
    assert answers == [200] * WAITING + [503], "one was too many"


def test_rejects_from_before_the_start_are_still_there(bench: Bench) -> None:
    rejected(bench, 1)
    store = Store(bench.config.store_path, 1_000_000)
    store.open()
    for seq, reason in enumerate((Reason.NONE, Reason.ANOMALY, Reason.GAP)):
        store.deliver(replace(outcome(seq, reason), wall=1000.0 + seq), 0.0)
    store.close()
    bench.live.close()
    bench.live.open()
    assert [(one["seq"], one.get("pictured")) for one in bench.rejects()] == [(2, None), (1, True)]
