"""Metrics and health: true figures from a real hub, asked over real HTTP, red when decisions stop."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from line_worker.config import parse
from line_worker.hub.alarms import Alarm
from line_worker.hub.canary import Aviary
from line_worker.hub.challenge import Challenge
from line_worker.hub.drift import Drift
from line_worker.hub.exposition import Exposition
from line_worker.hub.observed import BOUNDS, OTHER, STAGES, Observed
from line_worker.hub.outbox import SinkView
from line_worker.hub.run import Hub
from line_worker.hub.snapshot import EXPIRED_PARTS, EXPIRED_S, OVERDUE_S, STALLED_S, Snapshot, health, troubles
from line_worker.ports import free_port
from line_worker.rehearsal import Rehearsal
from line_worker.verdicts import Reason, StationState, StopCause, verdict_of
from line_worker.wire.messages import FrameKey, Outcome

PATIENCE_S = 20.0
ODD = (("POST", "/metrics"), ("POST", "/health"), ("GET", "/"))


def outcome(reason: Reason = Reason.NONE, stages: dict[str, float] | None = None, camera: str = "c") -> Outcome:
    key, verdict = FrameKey("l", camera, 1, 0), str(verdict_of(reason))
    return Outcome(1, key, verdict, int(reason), None, None, (), "b", "w", 1, "", 0, 30.0, 170.0, 1.0, stages or {})


def seen(**changes: Any) -> Snapshot:
    observed = Observed()
    for reason in (Reason.NONE, Reason.NONE, Reason.ANOMALY, Reason.CRC):
        observed.take(outcome(reason, {"rectify": 3.0}), 99.0)
    whole = Snapshot(
        at=100.0, line="l", bundle="b", state=StationState.RUNNING, cause="", workers=2, recycled=1, leases=3,
        waiting=4, open_parts=7, next_due=100.2, newest_row=50, owed_rows=0, journal_error="", sources={"c": True},
        sinks=(SinkView("plc", False, True, 0, 0), SinkView("store", True, False, 41, 6)), refused={"late_result": 2},
        drift=(Drift("c", 200, 0.3, 0.25, 0.27, True),),
        stop_line=StopCause.SILENT, alarms=(Alarm(StopCause.SILENT, "c", "9 parts passed", 0.0),),
        canaries={"c": Aviary(60.0, 0.0, 90.0, sent=7, failed=4, missed=1)},
        challenges={"c": Challenge(60.0, 80.0, True, 3, 1, 2), "d": Challenge(0.0, 0.0)},
        outcomes=dict(observed.outcomes),
        stages={name: tally.frozen for name, tally in observed.stages.items()},
        decision={name: tally.frozen for name, tally in observed.decision.items()},
        slack={name: tally.frozen for name, tally in observed.slack.items()}, decided_at=dict(observed.decided_at),
        expired_in_a_row=0, expired_at=0.0,
    )  # fmt: skip
    return dataclasses.replace(whole, **changes)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return every sample: (name, label values in order of their names) -> value."""
    return {
        (
            sample.name.removeprefix("line_worker_"),
            *(sample.labels[name] for name in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_figure_is_where_a_monitor_reads_it() -> None:
    found = samples(Exposition(seen(), 101.5).text().decode())
    expected = {
        ("outcomes_total", "c", "NONE", "PASS"): 2,
        ("outcomes_total", "c", "ANOMALY", "FAIL"): 1,
        ("outcomes_total", "c", "CRC", "NO_DECISION"): 1,
        ("stage_seconds_count", "c", "rectify"): 4,
        ("stage_seconds_bucket", "c", "0.002", "rectify"): 0,
        ("stage_seconds_bucket", "c", "0.005", "rectify"): 4,
        ("stage_seconds_bucket", "c", "+Inf", "rectify"): 4,
        ("stage_seconds_sum", "c", "rectify"): 0.012,
        ("decision_seconds_sum", "c"): 0.12,
        ("slack_seconds_bucket", "c", "0.2"): 4,
        ("slack_seconds_bucket", "c", "0.1"): 0,
        ("last_decision_age_seconds", "c"): 2.5,
        ("loop_age_seconds",): 1.5,
        ("workers",): 2,
        ("workers_recycled_total",): 1,
        ("leased_parts",): 3,
        ("queue_parts",): 4,
        ("open_parts",): 7,
        ("outbox_lag_rows", "store"): 9,
        ("sink_reachable", "plc"): 1,
        ("sink_reachable", "store"): 0,
        ("frame_copies_dropped_total", "store"): 6,
        ("refused_total", "late_result"): 2,
        ("journal_error",): 0,
        ("state", "RUNNING"): 1,
        ("state", "FAULT"): 0,
        ("drift_share", "c"): 0.3,
        ("drift_share_limit", "c"): 0.27,
        ("drift_median_p_value", "c"): 0.25,
        ("drift_alarm", "c"): 1,
        ("stop_line", "SILENT"): 1,
        ("stop_line", "NONE"): 0,
        ("alarm", "c", "SILENT"): 1,
        ("canaries_sent_total", "c"): 7,
        ("canaries_failed_total", "c"): 4,
        ("canaries_missed_total", "c"): 1,
        ("canary_age_seconds", "c"): 11.5,
        ("challenge", "c", "under way"): 1,
        ("challenge", "c", "met"): 0,
        ("challenge", "d", "none"): 1,
        ("challenge_parts_left", "c"): 1,
        ("challenge_age_seconds", "c"): 21.5,
    }
    assert {name: found.get(name) for name in expected} == pytest.approx(expected)
    assert ("outbox_lag_rows", "plc") not in found, "a real-time sink is owed nothing"
    assert ("challenge_age_seconds", "d") not in found, "none was ever met"
    assert samples(Exposition(seen(journal_error="disk full"), 100).text().decode())["journal_error",] == 1


def test_names_that_a_worker_invents_do_not_grow_the_metrics() -> None:
    observed = Observed()
    for number in range(10 * STAGES):
        observed.take(outcome(stages={f"stage-{number}": 1.0}), 0.0)
    assert len(observed.stages) == STAGES + 1
    assert sum(observed.stages["c", OTHER].counts) == 9 * STAGES


def test_a_histogram_counts_its_upper_ends() -> None:
    observed = Observed()
    for ms in (*(bound * 1000 for bound in BOUNDS), 1e9, -5.0):
        observed.take(dataclasses.replace(outcome(), latency_ms=ms), 0.0)
    assert observed.decision["c"].frozen.counts == (2, *[1] * len(BOUNDS))


@pytest.mark.parametrize(
    ("changes", "now", "says"),
    [
        ({}, 100.1, ""),
        ({"next_due": None}, 100.1 + STALLED_S - 0.2, ""),
        ({"next_due": None}, 100.1 + STALLED_S, "stood still"),
        ({"next_due": 100.0}, 100.0 + OVERDUE_S + 0.01, "beyond its deadline"),
        ({"expired_in_a_row": EXPIRED_PARTS, "expired_at": 100.0}, 100.1, "met their deadline undecided"),
        ({"expired_in_a_row": EXPIRED_PARTS - 1, "expired_at": 100.0}, 100.1, ""),
        ({"expired_in_a_row": 9, "expired_at": 100.0 - EXPIRED_S}, 100.1, ""),
        ({"state": StationState.FAULT, "cause": "no worker is ready"}, 100.1, "FAULT: no worker is ready"),
        ({"state": StationState.DEGRADED}, 100.1, ""),
        ({"state": StationState.READY}, 100.1, ""),
    ],
)
def test_health_is_red_when_decisions_stop(changes: dict[str, Any], now: float, says: str) -> None:
    found = troubles(seen(**changes), now)
    assert [says in trouble for trouble in found] == ([True] if says else [])
    assert health(seen(**changes), now)["status"] == ("red" if says else "ok")


def test_health_before_the_first_turn_is_red() -> None:
    assert health(None, 0.0) == {"status": "red", "why": ["the hub's loop has not turned yet"]}


def test_parts_that_only_time_decided_are_counted_until_one_is_decided() -> None:
    observed = Observed()
    for reason in (Reason.DEADLINE, Reason.NO_WORKER, Reason.DEADLINE):
        observed.take(outcome(reason), 5.0)
    assert (observed.expired_in_a_row, observed.expired_at, observed.decided_at) == (3, 5.0, {})
    observed.take(outcome(Reason.ANOMALY), 6.0)
    assert (observed.expired_in_a_row, observed.decided_at) == (0, {"c": 6.0})


# ---- over real HTTP, from a real hub ---------------------------------------------------------------------------------


def ask(port: int, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def raw_config(folder: Path, port: int) -> dict[str, Any]:
    source = {"kind": "synthetic", "part": "noise", "parts": 60, "rate": 40, "width": 64, "height": 64}
    return {
        "line": {
            "name": "t",
            "runtime": str(folder / "run"),
            "data": str(folder / "data"),
            "metrics": f"127.0.0.1:{port}",
        },
        "cameras": [{"name": "cam", "deadline_ms": 5000, "window": 64, "canary_every_s": 0.3, "source": source}],
        "workers": {"bundle": "stub"},
        "sinks": [{"kind": "log", "path": str(folder / "log.jsonl")}],
    }


def until(ask_: Any, wanted: int) -> bytes:
    end = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(OSError):
            status, body = ask_()
            if status == wanted:
                return bytes(body)
        assert time.monotonic() < end, f"never {wanted}"
        time.sleep(0.05)


def test_a_running_line_is_counted_part_by_part(tmp_path: Path) -> None:
    port = free_port()
    scraped: list[dict[tuple[str, ...], float]] = []
    healthy: list[int] = []
    asked: set[tuple[str, str, int]] = set()

    def scrape() -> None:
        with contextlib.suppress(OSError):
            status, body = ask(port, "/metrics")
            if status == 200:
                scraped.append(samples(body.decode()))
            healthy.append(ask(port, "/health")[0])
            asked.update((method, path, ask(port, path, method)[0]) for method, path in ODD)

    assert Rehearsal(parse(raw_config(tmp_path, port)), tmp_path / "line.log").run(scrape) == 0
    last = scraped[-1]
    passed = [found.get(("outcomes_total", "cam", "NONE", "PASS"), 0.0) for found in scraped]
    assert passed == sorted(passed)
    assert 0 < passed[-1] <= 60
    assert last["stage_seconds_count", "cam", "stub"] == last["decision_seconds_count", "cam"] == passed[-1]
    assert last["workers",] == 1
    failed, sent = last["canaries_failed_total", "cam"], last["canaries_sent_total", "cam"]
    assert 0 < failed <= sent <= failed + 1, "one may be on its way"
    assert last["canary_age_seconds", "cam"] < 2
    assert last["stop_line", "NONE"] == last["challenge", "cam", "none"] == 1
    assert 1.0 in [found.get(("source_ready", "cam")) for found in scraped]
    for method, path, status in (("POST", "/metrics", 405), ("POST", "/health", 405), ("GET", "/", 404)):
        assert (method, path, status) in asked
    assert last["process_open_fds",] > 3
    assert 200 in healthy


def test_a_loop_that_stands_still_is_red_and_comes_back(short_path: Path) -> None:
    port = free_port()
    config = parse(raw_config(short_path, port))
    config.line.runtime.mkdir()
    hub = Hub(config, time.monotonic())
    try:
        assert ask(port, "/metrics")[0] == ask(port, "/health")[0] == 503, "it has not turned yet"
        hub.turn(time.monotonic())
        told = json.loads(until(lambda: ask(port, "/health"), 200))
        assert (told["status"], told["state"], told["workers"]) == ("ok", "SELFTEST", 0)
        told = json.loads(until(lambda: ask(port, "/health"), 503))  # nobody turns it
        assert "the hub's loop has stood still" in told["why"][0]
        assert samples(ask(port, "/metrics")[1].decode())["loop_age_seconds",] > STALLED_S
        hub.turn(time.monotonic())
        assert ask(port, "/health")[0] == 200
    finally:
        hub.close()
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/health")


def test_a_journal_that_cannot_be_written_is_red(tmp_path: Path) -> None:
    port, told = free_port(), []
    config = parse(raw_config(tmp_path, port))
    holder = contextlib.ExitStack()

    def hold_and_ask() -> None:
        if not told and rehearsal.watcher.outcomes:
            db = holder.enter_context(contextlib.closing(sqlite3.connect(config.journal_path, isolation_level=None)))
            db.execute("BEGIN IMMEDIATE")
            told.append(json.loads(until(lambda: ask(port, "/health"), 503)))
            holder.close()

    rehearsal = Rehearsal(config, tmp_path / "line.log")
    with holder:
        assert rehearsal.run(hold_and_ask) == 0
    [said] = told
    assert (said["status"], said["state"]) == ("red", "FAULT")
    assert any("journal" in why for why in said["why"])


@pytest.mark.long
def test_a_taken_port_costs_the_metrics_and_not_the_line(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = int(holder.getsockname()[1])
        config = parse(raw_config(tmp_path, port))
        assert Rehearsal(config, tmp_path / "line.log").run() == 0
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 60
    assert "no metrics are served" in (tmp_path / "line.log").read_text()
