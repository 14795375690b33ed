"""Every row of the fault table in SEMANTICS has a test: here, in test_faults, or where `ELSEWHERE` says.

A test named `test_row_NN_...` in any file is row NN's; the README lists the rows that have none, with the reason. Real
processes are broken through `line_worker.drill.saboteur`, which does what a signal from outside cannot do.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from line_worker.auditing import audit
from line_worker.config import Config, parse
from line_worker.drill.saboteur import SIGNALS
from line_worker.hub.part import Part
from line_worker.hub.quarantine import Quarantine
from line_worker.rehearsal import Rehearsal
from line_worker.supervisor import SILENT_S
from line_worker.wire.frames import FrameRing, checksum
from line_worker.wire.messages import Frame, FrameKey

TESTS = Path(__file__).parent
ROOT = TESTS.parent
COMMAND = str(Path(sys.executable).parent / "line-worker")
ROWS = range(1, 39)

ELSEWHERE: dict[int, tuple[str, ...]] = {
    1: ("test_line::test_a_worker_killed_in_a_run_of_500_frames_costs_no_outcome",),
    2: ("test_line::test_a_stopped_worker_is_expelled_and_its_frames_are_leased_again",),
    3: ("test_line::test_without_workers_every_part_is_refused_by_its_deadline",),
    4: (
        "test_batching::test_too_late_is_what_not_even_the_fastest_batch_of_one_would_make",
        "test_line::test_more_parts_than_can_be_scored_are_all_accounted_for",
    ),
    8: ("test_hub_sources::test_gaps_at_the_end_are_booked_when_the_source_says_goodbye",),
    9: (
        "test_station::test_when_the_only_camera_goes_dark_its_last_parts_are_decided_and_then_nothing_is_ready",
        "test_source_camera::test_a_pulled_cable_is_an_error_and_the_camera_can_be_opened_again",
        "test_announce::test_a_trigger_without_a_usable_picture_says_why",
    ),
    11: ("test_frames::test_a_header_that_lies_gives_a_reason", "test_ledger::test_a_header_that_already_decides"),
    12: (
        "test_sockets::test_large_pictures_travel_whole_and_larger_ones_than_agreed_do_not",
        "test_announce::test_a_trigger_without_a_usable_picture_says_why",
    ),
    13: (
        "test_images::test_a_bomb_is_refused_by_its_header",
        "test_images::test_random_damage_is_an_error_or_an_image",
    ),
    15: (
        "test_ledger::test_a_result_that_nobody_asked_for_is_a_mismatch",
        "test_ledger::test_a_result_about_other_pixels_or_of_another_bundle_is_refused_and_the_part_leased_again",
        "test_hub::test_a_result_that_does_not_fit_is_never_an_outcome",
    ),
    18: (
        "test_line::test_a_killed_hub_comes_back_and_decides_nothing_twice",
        "test_hub_restarts::test_a_hub_that_is_killed_continues_where_it_was",
        "test_ledger::test_decided_keys_of_an_earlier_hub_are_shown_in_order_and_within_their_deadline",
    ),
    20: (
        "test_line::test_a_killed_log_gets_what_it_missed_once",
        "test_outbox::test_a_durable_sink_that_cannot_write_holds_nobody_up",
        "test_mqtt::test_a_line_whose_broker_is_down_for_a_while_loses_nothing",
        "test_mqtt::test_what_a_line_could_not_send_before_it_was_stopped_goes_out_after_its_next_start",
        "test_webhook::test_a_line_whose_server_fails_hangs_and_restarts_loses_nothing",
        "test_nats::test_a_line_whose_server_is_down_for_a_while_loses_nothing",
        "test_kafka::test_brokers_that_stand_still_store_nothing_that_counts_and_get_it_again",
        "test_sparkplug::test_after_an_outage_the_station_is_born_again_and_nothing_is_missing",
    ),
    21: (
        "test_store::test_the_oldest_pictures_go_first",
        "test_store::test_a_really_full_disk_costs_pictures_and_no_acknowledged_outcome",
    ),
    24: (
        "test_plc::test_a_plc_that_stops_polling_gets_nothing_old_when_it_comes_back",
        "test_plc::test_a_plc_that_goes_away_is_reported_and_found_again",
        "test_opcua_plc::test_a_plc_that_was_restarted_begins_anew_and_gets_nothing_old",
        "test_s7::test_a_plc_that_is_killed_and_restarted_begins_anew_and_gets_nothing_old",
        "test_s7::test_over_a_slow_wire_everything_arrives_and_over_a_slower_one_nothing_passes",
        "test_s7::test_a_wire_that_dies_in_silence_is_noticed_and_replaced",
        "test_written_plcs::test_every_verdict_arrives_once_and_in_order_also_after_the_plc_was_killed_and_stopped",
        "test_written_plcs::test_a_wire_that_is_slow_or_dies_in_silence",
        "test_plc_handshake::test_no_pass_while_the_plc_heartbeat_is_stale_and_none_comes_back",
    ),
    25: ("test_plc::test_one_part_behind_is_a_fault_until_the_plc_synchronises",),
    27: (
        "test_line::test_serve_ends_in_good_order_at_sigterm_and_a_second_one_refuses_to_start",
        "test_hub_restarts::test_stopping_settles_what_is_open_and_shows_it",
    ),
    28: (
        "test_ledger::test_the_same_frame_again_is_a_duplicate",
        "test_ledger::test_another_picture_under_the_same_key_is_a_conflict_while_it_is_undecided",
        "test_ledger::test_after_the_decision_the_first_picture_stands",
    ),
    29: (
        "test_ledger::test_a_gap_is_a_reject_at_once",
        "test_hub_sources::test_a_jump_too_far_ends_the_epoch_and_is_not_booked",
    ),
    31: (
        "test_auth::test_unknown_key",
        "test_auth::test_denials_are_counted_each_and_told_once_a_second",
    ),
    32: (
        "test_outbox::test_three_malformed_messages_cut_a_peer_and_only_that_one",
        "test_hub_sources::test_a_malformed_announcement_becomes_a_gap",
    ),
    33: (
        "test_auth::test_rotation_with_both_keys_valid",
        "test_auth::test_revoked_key_on_an_open_connection",
    ),
    36: (
        "test_replay::test_a_cut_recording_is_replayed_as_far_as_it_goes_and_says_what_is_missing",
        "test_config::test_each_problem_says_what_is_allowed",
    ),
    37: (
        "test_journal::test_what_was_acknowledged_survives_a_kill",
        "test_ledger::test_open_keys_of_an_earlier_hub",
    ),
}


# ---- the table is complete -------------------------------------------------------------------------------------------


def _named_rows() -> set[int]:
    texts = [path.read_text("utf-8") for path in TESTS.glob("test_*.py")]
    return {int(number) for text in texts for number in re.findall(r"^def test_row_(\d+)_", text, re.MULTILINE)}


def _rows_the_readme_leaves_out() -> set[int]:
    text = (ROOT / "README.md").read_text("utf-8").split("## Not done yet, not tested")[1]
    listed = re.findall(r"Rows of the fault table without a test: (.*?)\.\n", text, re.DOTALL)
    return {int(number) for number in re.findall(r"\b(\d+) \(", " ".join(listed))}


def test_every_row_has_a_test_or_a_reason() -> None:
    assert _named_rows() | set(ELSEWHERE) | _rows_the_readme_leaves_out() == set(ROWS)


@pytest.mark.parametrize("test", sorted({test for tests in ELSEWHERE.values() for test in tests}))
def test_the_test_of_a_row_exists(test: str) -> None:
    file, name = test.split("::")
    assert f"\ndef {name}(" in (TESTS / f"{file}.py").read_text("utf-8"), test


# ---- a line to break -------------------------------------------------------------------------------------------------


def _config(folder: Path, parts: int, rate: float, deadline_ms: float = 4000, **more: Any) -> Config:
    source = {"kind": "synthetic", "part": "noise", "parts": parts, "rate": rate, "width": 160, "height": 120}
    camera = {"name": "camera", "deadline_ms": deadline_ms, "window": 256, "max_frame_mb": 0.1, "source": source}
    return parse(
        {
            "line": {"name": "f", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [camera],
            "workers": {"bundle": "stub", "count": 2, **more},
            "sinks": [{"kind": "log", "path": str(folder / "outcomes.jsonl")}],
        }
    )


class Broken:
    """A line whose processes can be broken; `run` breaks `role` once, when `after` outcomes have been seen."""

    def __init__(self, folder: Path, parts: int = 80, rate: float = 50, **more: Any) -> None:
        self.config, self._log = _config(folder, parts, rate, **more), folder / "line.log"
        self.rehearsal = Rehearsal(self.config, self._log)
        self.rehearsal.supervisor.module = "line_worker.drill.saboteur"

    def run(self, role: str, number: int, after: int = 20) -> Counter[str]:
        """Return the outcomes by reason; every announced part has exactly one."""
        self.rehearsal.run(self._once(after, lambda: os.kill(self.rehearsal.supervisor.pids(role)[0], number)))
        assert audit(self.config.journal_path).balanced
        with sqlite3.connect(self.config.journal_path) as db:
            reasons = db.execute("SELECT verdict || ' ' || reason FROM outcomes").fetchall()
        db.close()
        return Counter(reason for (reason,) in reasons)

    def _once(self, after: int, do: Callable[[], None]) -> Callable[[], None]:
        done: list[bool] = []

        def on_turn() -> None:
            if not done and len(self.rehearsal.watcher.outcomes) >= after:
                done.append(True)
                do()

        return on_turn

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8")


# ---- workers ---------------------------------------------------------------------------------------------------------


def test_row_02_hanging_worker_is_expelled_and_leaves_its_stacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SILENT_S, "worker", 1.5)
    line = Broken(tmp_path, 150, deadline_ms=10_000, count=1)  # time for the next worker on a busy machine
    assert line.run("worker", SIGNALS["hang"]) == {"PASS 0": 150}
    assert "no progress" in line.log
    assert re.search(r'File ".*saboteur\.py", line \d+ in hang', line.log), "the stacks name the place"


def test_row_05_out_of_memory_is_half_a_batch_once(tmp_path: Path) -> None:
    line = Broken(tmp_path, 80, 100, count=1, batch=4, stub_ms=15)
    assert line.run("worker", SIGNALS["oom"]) == {"PASS 0": 80}
    assert "smaller batches from now on" in line.log
    assert "unexpected end" not in line.log


def test_row_06_a_device_error_ends_the_worker_at_once_and_costs_no_part(tmp_path: Path) -> None:
    line = Broken(tmp_path, count=1)
    assert line.run("worker", SIGNALS["device"]) == {"PASS 0": 80}
    assert "lost (drill)" in line.log
    assert "worker lost" in line.log


def test_row_14_three_outputs_that_are_not_finite_restart_the_worker(tmp_path: Path) -> None:
    line = Broken(tmp_path, count=1)
    assert line.run("worker", SIGNALS["nonfinite"]) == {"PASS 0": 77, "NO_DECISION 55": 3}
    assert "3 results in a row were not finite" in line.log


# ---- sources and hub -------------------------------------------------------------------------------------------------


def test_row_07_a_killed_source_begins_a_new_epoch_and_both_balance(tmp_path: Path) -> None:
    line = Broken(tmp_path, 60)
    outcomes = line.run("source", signal.SIGKILL)
    epochs = audit(line.config.journal_path).epochs
    assert len(epochs) == 2
    assert 20 <= epochs[0].announced <= 60
    assert epochs[1].announced == 60
    assert outcomes["PASS 0"] >= 60


def test_row_19_a_hanging_hub_is_killed_by_its_watchdog_and_leaves_its_stacks(tmp_path: Path) -> None:
    line = Broken(tmp_path, 400)
    outcomes = line.run("hub", SIGNALS["hang"])
    assert outcomes.total() == 400
    assert line.rehearsal.watcher.outcomes[-1].passed, "with the next hub the line goes on"
    assert re.search(r'File ".*saboteur\.py", line \d+ in hang', line.log)
    hubs = {state.instance for state in line.rehearsal.watcher.states}
    assert len(hubs) == 2


def test_row_26_jumps_of_the_wall_clock_change_nothing(tmp_path: Path) -> None:
    line = Broken(tmp_path, 100)
    pids = line.rehearsal.supervisor.pids

    def jump() -> None:
        for role in ("hub", "worker", "source", "sink"):
            for pid in pids(role):
                os.kill(pid, SIGNALS["clock"])

    line.rehearsal.run(line._once(20, jump))
    assert [outcome.key.seq for outcome in line.rehearsal.watcher.outcomes] == list(range(100))
    assert all(outcome.passed and outcome.latency_ms < 4000 for outcome in line.rehearsal.watcher.outcomes)


# ---- disks -----------------------------------------------------------------------------------------------------------

FULL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from line_worker.hub.ballast import Ballast
from line_worker.hub.books import Books
from line_worker.hub.journal import Journal
from line_worker.hub.part import Decision, Part
from line_worker.verdicts import Reason
from line_worker.wire.messages import FrameKey
root = Path(sys.argv[1])
ballast = Ballast(root / "ballast", 600_000)
journal = Journal(root / "journal.sqlite", "l")
print(ballast.lay(), ballast.lay())
books = Books(journal, ballast)
rows, released = [], 0
for seq in range(100_000):
    part = Part(FrameKey("l", "c", 1, seq), 10.0, 10.5, decision=Decision(Reason.NONE, 10.1, 0.5, 1.0, (), "b", "w"))
    rows += books.write([part], beat=False)
    released = released or (len(rows) if not ballast.path.exists() else 0)
    if rows[-1] < 0:
        break
print(0 < released < len(rows) - 10, part.decision.reason.name, journal.last_row() == len(rows) - 1)
"""


def test_row_22_a_full_disk_first_costs_the_ballast_and_then_lets_nothing_pass(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=2m none {tmp_path}"
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "sh", "-c", mount], check=False).returncode:
        pytest.skip("unshare may not mount a small disk here; as root: pytest tests/test_fault_table.py")
    command = f'{mount} && exec "$0" -c "$1" {tmp_path} {ROOT}'
    arguments = ["unshare", "-rm", "sh", "-c", command, sys.executable, FULL_DISK]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    said = [line for line in done.stdout.splitlines() if line.startswith(("True", "False"))]
    assert said == ["True True", "True JOURNAL True"], done.stdout + done.stderr
    assert "ballast released" in done.stdout + done.stderr


def test_poisonous_parts_are_quarantined_in_bounded_room(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine", kept=2)
    for seq in range(4):
        pixels = bytes([seq]) * 20
        header = Frame(FrameKey("l", "c", 1, seq), 0.0, 1.0, (4, 5), "uint8", "gray", checksum(pixels), "inline")
        thread = quarantine.keep(Part(header.key, 0.0, 1.0, frame=header, pixels=pixels))
        assert thread is not None
        thread.join()
        time.sleep(0.01)  # the oldest goes first: they must have an age
    assert sorted(path.name for path in quarantine.folder.iterdir()) == [
        *("c-1-2.json", "c-1-2.raw", "c-1-3.json", "c-1-3.raw")
    ]
    assert (quarantine.folder / "c-1-3.raw").read_bytes() == b"\x03" * 20


def test_a_poisonous_part_in_shared_memory_is_copied_before_its_slot_is_used_again(tmp_path: Path) -> None:
    import numpy as np

    ring = FrameRing("line-worker-test-quarantine", 1, 100)
    picture = np.arange(20, dtype=np.uint8).reshape(4, 5)
    try:
        slot = ring.put(picture)
        assert slot is not None
        place = {"place": "ring", "ring": ring.ring, "offset": slot.offset, "generation": slot.generation}
        key = FrameKey("l", "c", 1, 0)
        header = Frame(key, 0.0, 1.0, (4, 5), "uint8", "gray", checksum(picture), **place)
        quarantine = Quarantine(tmp_path)
        thread = quarantine.keep(Part(key, 0.0, 1.0, frame=header))
        ring.free(slot)
        ring.put(picture + 1)
        assert thread is not None
        thread.join()
        assert (tmp_path / "c-1-0.raw").read_bytes() == picture.tobytes()
    finally:
        ring.close()


# ---- the configuration -----------------------------------------------------------------------------------------------

LINE = """
[line]
name = "f"
runtime = "{folder}/run"
data = "data"
[[cameras]]
name = "camera"
deadline_ms = {deadline}
source = {{ kind = "synthetic", part = "noise", rate = 50, width = 160, height = 120 }}
[workers]
bundle = "stub"
[[sinks]]
kind = "log"
path = "outcomes.jsonl"
"""


def test_row_34_a_reload_is_applied_whole_or_refused_whole(tmp_path: Path) -> None:
    path, outcomes = tmp_path / "line.toml", tmp_path / "outcomes.jsonl"
    path.write_text(LINE.format(folder=tmp_path, deadline=500))
    with subprocess.Popen([COMMAND, "serve", str(path)], stderr=subprocess.PIPE) as serve:
        _wait_for_lines(outcomes, 10)
        path.write_text(LINE.format(folder=tmp_path, deadline=-1))
        serve.send_signal(signal.SIGHUP)
        _wait_for_lines(outcomes, _lines(outcomes) + 30)
        path.write_text(LINE.format(folder=tmp_path, deadline=700))
        serve.send_signal(signal.SIGHUP)
        until = time.monotonic() + 30
        while len(audit(tmp_path / "data" / "journal.sqlite").epochs) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        serve.terminate()
        _, said = serve.communicate(timeout=30)
    log = said.decode()
    assert serve.returncode == 0, log[-2000:]
    assert "configuration refused, the line goes on as it was" in log
    [applied] = [line for line in log.splitlines() if "configuration applied" in line]
    assert '"changed": ["cameras[0].deadline_ms"]' in applied
    books = audit(tmp_path / "data" / "journal.sqlite")
    assert books.balanced
    assert len(books.epochs) == 2, "the refused one has not even paused the line"


def _lines(path: Path) -> int:
    return len(path.read_text().splitlines()) if path.exists() else 0


def _wait_for_lines(path: Path, count: int) -> None:
    until = time.monotonic() + 30
    while _lines(path) < count:
        assert time.monotonic() < until, f"{path} has not got {count} lines"
        time.sleep(0.05)
