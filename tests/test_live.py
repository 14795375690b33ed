"""The page without a browser: what is said beside the picture, what is drawn, and who is answered."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import pytest

from line_worker.config import parse
from line_worker.errors import ConfigError, SinkError
from line_worker.live import HEADERS, UNDECIDED_S, Live
from line_worker.live.board import SILENT_S, Board, part_of, percentile
from line_worker.live.pages import STATIC, WAIT_S
from line_worker.live.painter import REJECTS, Job
from line_worker.live.pictures import SHOWN, to_jpeg
from line_worker.live.words import REASONS, STATES, STOPS
from line_worker.serving import with_page
from line_worker.verdicts import Reason, StationState, StopCause
from line_worker.wire.evidence import View
from line_worker.wire.frames import checksum
from line_worker.wire.limits import LIVE_INLINE, LIVE_WAITING
from line_worker.wire.messages import Frame
from live_bench import DEADLINE_MS, Bench, config, outcome, state, until

# ---- what is said ----------------------------------------------------------------------------------------------------


def test_everything_has_words() -> None:
    assert set(REASONS) == set(Reason)
    assert set(STATES) == set(StationState)
    assert set(STOPS) == set(StopCause)
    assert all(words for reason, words in REASONS.items() if reason is not Reason.NONE)


def test_rates_and_percentiles_are_those_of_the_last_parts() -> None:
    board = Board("line-1", {"top": DEADLINE_MS})
    for seq in range(100):
        board.take(outcome(seq, Reason.ANOMALY if seq % 4 == 0 else Reason.NONE, latency_ms=seq + 1.0), 0.1 * seq)
    view = board.view(10.0)
    assert view["recent"] == {"parts": 100, "rejects": 25, "rate": 0.25}
    assert (view["cameras"]["top"]["p50_ms"], view["cameras"]["top"]["p99_ms"]) == (50.0, 99.0)
    assert view["parts_a_second"] == pytest.approx(10.0, rel=0.02)
    json.dumps(view, allow_nan=False)


def test_nothing_yet_is_no_number() -> None:
    view = Board("line-1", {"top": DEADLINE_MS}).view(0.0)
    assert (view["state"], view["recent"]["rate"], view["cameras"]["top"]["p99_ms"]) == ("SILENT", None, None)
    assert percentile([], 0.5) is None
    assert percentile([7.0], 0.99) == 7.0


def test_a_line_that_is_not_heard_is_not_shown_as_running() -> None:
    board = Board("line-1", {"top": DEADLINE_MS})
    board.beat(state(cause="", stop_line=int(StopCause.REJECT_RATE)), 5.0)
    assert board.view(5.0 + SILENT_S)["state"] == "RUNNING"
    assert board.view(5.0)["stop"] == "the reject rate is too high"
    late = board.view(5.1 + SILENT_S)
    assert (late["state"], late["stop"], late["workers"]) == ("SILENT", "", None)
    assert "old" in late["cause"]


def test_views_cannot_be_chosen_for_they_are_shown_as_parts() -> None:
    board = Board("line-1", {"left": DEADLINE_MS, "right": DEADLINE_MS, "screws": DEADLINE_MS}, views=["left", "right"])
    assert board.view(0.0)["choices"] == ["screws"]


def test_outputs_are_shown_but_for_the_page_itself() -> None:
    board = Board("line-1", {"top": DEADLINE_MS}, own="live")
    board.told({"sinks": {"plc": True, "live": True}, "alarms": [{"text": "look"}]})
    assert board.view(0.0)["sinks"] == {"plc": True}
    assert board.view(0.0)["alarms"] == ["look"]


def test_a_part_keeps_its_numbers_in_javascript() -> None:
    part = part_of(outcome(3, Reason.ANOMALY), DEADLINE_MS)
    assert part["epoch"] == str(2**62)
    assert (part["words"], part["regions"]) == ("looks unlike good parts", [[8, 4, 16, 12]])


@pytest.mark.parametrize("shape", [(48, 64), (48, 64, 3), (2600, 100)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_picture_can_be_shown(shape: tuple[int, ...], dtype: type) -> None:
    pixels = np.full(shape, 200 if dtype is np.uint8 else 200 << 4, dtype)  # 12 of 16 bits
    found = cv2.imdecode(np.frombuffer(to_jpeg(pixels), np.uint8), cv2.IMREAD_UNCHANGED)
    assert max(found.shape[:2]) <= SHOWN
    assert found.mean() == pytest.approx(200, abs=3)


# ---- the sink and its server -----------------------------------------------------------------------------------------


def test_the_newest_part_comes_with_its_picture(bench: Bench) -> None:
    bench.part(0, Reason.ANOMALY)
    told, jpeg = bench.next()
    assert (told["part"]["part_id"], told["part"]["verdict"]) == ("part-0", "FAIL")
    assert (told["part"]["width"], told["part"]["height"]) == (64, 48)
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED).mean() == pytest.approx(40, abs=2)
    assert told["board"]["state_words"] == "Running"


def _width_shown(bench: Bench, seq: int, asked: str) -> int:
    bench.get(f"/next?seen=&longest={asked}")
    pixels = np.zeros((10, 2000), np.uint8)
    frame = Frame(outcome(seq).key, 0.0, DEADLINE_MS, pixels.shape, "uint8", "gray", checksum(pixels), "inline")
    bench.live.tap(frame, pixels.tobytes())
    bench.live.deliver(outcome(seq), time.monotonic())
    until(lambda: bench.live._painter.newest["top"].part["part_id"] == f"part-{seq}")
    jpeg = bench.live._painter.newest["top"].jpeg
    return int(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED).shape[1])


def test_the_picture_is_as_large_as_the_largest_that_is_shown(bench: Bench) -> None:
    bench.part(0)
    assert _width_shown(bench, 1, "500") == 512
    assert _width_shown(bench, 2, "900") == 960
    assert _width_shown(bench, 3, "7") == 960, "somebody still looks at the larger one"


def test_a_part_that_is_looked_at_for_long_is_drawn_as_large_as_it_is_shown(bench: Bench) -> None:
    bench.part(0)
    assert _width_shown(bench, 1, "500") == 512
    small = bench.live._painter.newest["top"]
    bench.get("/next?seen=&longest=900")
    until(lambda: bench.live._painter.newest["top"].number > small.number)
    told, jpeg = bench.next(str(small.number))
    assert told["part"]["part_id"] == "part-1"
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED).shape[1] == 960


def test_a_page_that_another_process_has_served_sees_the_next_part(bench: Bench) -> None:
    bench.part(0)
    first = bench.next()[0]
    bench.live.close()
    bench.live.open()
    bench.part(1, Reason.ANOMALY)
    told = bench.next(str(first["number"]))[0]
    assert told["part"]["part_id"] == "part-1"
    assert told["rejects"] > first["rejects"]


@pytest.mark.parametrize("asked", ["", "x", "-5", "1e9", "99999", "9" * 5000, "%C2%B2"])
def test_a_size_that_is_none_gets_the_largest(bench: Bench, asked: str) -> None:
    bench.part(0)
    assert _width_shown(bench, 1, asked) == SHOWN


def test_the_numbers_come_unless_they_are_not_wanted(bench: Bench) -> None:
    bench.part(0)
    told = [json.loads(bench.get(f"/next?seen=&board={asked}")[1].partition(b"\n")[0]) for asked in ("0", "1", "")]
    assert ["board" in one for one in told] == [False, True, True]
    assert all(one["part"]["part_id"] == "part-0" for one in told)
    idle = bench.get(f"/next?seen={told[0]['number']}&board=0")[1]
    assert json.loads(idle.partition(b"\n")[0])["board"]["state"] == "RUNNING", "there is nothing else to say"


def test_who_has_seen_the_newest_part_waits_for_the_next(bench: Bench) -> None:
    bench.part(0)
    number = str(bench.next()[0]["number"])
    start = time.monotonic()
    told, jpeg = bench.next(number)
    assert time.monotonic() - start > 0.9 * WAIT_S
    assert "part" not in told
    assert jpeg == b""
    bench.part(1)
    assert bench.next(number)[0]["part"]["seq"] == 1


def test_a_slow_browser_sees_the_newest_part_and_none_in_between(bench: Bench) -> None:
    bench.part(0)
    number = str(bench.next()[0]["number"])
    for seq in range(1, 30):
        bench.part(seq)
    until(lambda: bench.next(number)[0]["part"]["seq"] == 29)


def test_browsers_that_never_read_hold_nobody(bench: Bench) -> None:
    bench.part(0)
    rude = [socket.create_connection(("127.0.0.1", bench.port)) for _ in range(30)]
    for one in rude:
        one.sendall(f"GET /next?seen= HTTP/1.1\r\nHost: 127.0.0.1:{bench.port}\r\n\r\n".encode())
    took = []
    for seq in range(1, 6):
        start = time.monotonic()
        bench.part(seq)
        took.append(time.monotonic() - start)
    assert median(took) < 0.1
    assert bench.next()[0]["part"] is not None
    for one in rude:
        one.close()


def test_a_part_whose_picture_is_gone_is_shown_without_one(bench: Bench) -> None:
    bench.announce(0)
    for seq in range(1, 8):  # more than the ring has slots
        bench.announce(seq)
    bench.live.deliver(outcome(0, Reason.ANOMALY), time.monotonic())
    told, jpeg = bench.next()
    assert told["part"]["seq"] == 0
    assert jpeg == b""
    bench.live.deliver(outcome(100, Reason.GAP), time.monotonic())
    until(lambda: bench.next()[0]["part"]["seq"] == 100)


def test_pictures_that_travel_in_messages_are_shown_and_kept(bench: Bench) -> None:
    for seq in range(3):
        bench.announce_inline(seq, sent=seq == 1)
        bench.live.deliver(outcome(seq, Reason.ANOMALY), time.monotonic())
    told, jpeg = bench.next()
    assert told["part"]["seq"] == 1, "those without a picture are not shown in its place"
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED).mean() == pytest.approx(41, abs=2)
    until(lambda: any("pictured" in one for one in bench.rejects()))
    assert [(one["seq"], one.get("pictured")) for one in bench.rejects()] == [(2, None), (1, True), (0, None)]


def test_pictures_in_messages_whose_parts_nobody_decides_are_let_go(bench: Bench) -> None:
    for seq in range(2 * LIVE_INLINE):
        bench.announce_inline(seq)
    assert len(bench.live._inline) == LIVE_INLINE
    bench.live.poll(time.monotonic() + UNDECIDED_S + 1)
    assert not bench.live._inline


def test_rejects_are_listed_and_their_pictures_kept(bench: Bench) -> None:
    bench.part(0)
    bench.part(1, Reason.ANOMALY)
    bench.live.deliver(outcome(2, Reason.NO_WORKER), time.monotonic())
    until(lambda: any("pictured" in one for one in bench.rejects()))
    assert [one["seq"] for one in bench.rejects()] == [2, 1]
    status, png = bench.get(f"/picture?camera=top&epoch={2**62}&seq=1&name=original")
    assert status == 200
    assert (cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED) == 41).all(), "the original, unchanged"
    assert bench.get(f"/picture?camera=top&epoch={2**62}&seq=1&name=overlay")[0] == 404


@pytest.mark.parametrize("what", ["camera=..&epoch=1&seq=1&name=original", "camera=top&epoch=x&seq=1", "camera=%2e%2e"])
def test_a_picture_is_asked_for_by_name_alone(bench: Bench, what: str) -> None:
    assert bench.get(f"/picture?{what}")[0] == 400


def test_a_flood_of_rejects_is_listed_but_not_all_drawn(bench: Bench) -> None:
    for seq in range(200):
        bench.announce(seq % 100)
        bench.live.deliver(outcome(seq, Reason.ANOMALY), time.monotonic())
    until(lambda: any("pictured" in one for one in bench.rejects()) or bench.rejects()[0]["seq"] == 199)
    assert len(bench.rejects()) == REJECTS
    assert len(list(bench.config.live_path(bench.live._sink).rglob("*-original.png"))) <= LIVE_WAITING


def test_an_outcome_that_comes_twice_counts_once(bench: Bench) -> None:
    bench.part(0, Reason.ANOMALY)
    bench.live.deliver(outcome(0, Reason.ANOMALY), time.monotonic())
    assert len(bench.rejects()) == 1


def test_headers_of_parts_that_nobody_decides_are_forgotten(bench: Bench) -> None:
    frame = bench.announce(0)
    for seq in range(HEADERS + 50):
        bench.live.tap(replace(frame, key=outcome(seq).key), b"")
    assert len(bench.live._headers) <= HEADERS


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1:1"])
def test_a_site_that_calls_itself_by_another_name_is_refused(bench: Bench, host: str) -> None:
    assert bench.get("/next", host=host)[0] == 403
    assert bench.get("/", host=host)[0] == 403
    assert bench.get("/", host=f"localhost:{bench.port}")[0] == 200


def test_nothing_comes_from_elsewhere(bench: Bench) -> None:
    for name in ("", *STATIC):
        status, body = bench.get(f"/{name}")
        assert status == 200
        assert b"//" not in body.replace(b"http://www.w3.org/2000/svg", b"").replace(b"// ", b"")
    assert bench.get("/../config.py")[0] == 404


def test_a_taken_port_says_so_and_leaves_nothing_behind(bench: Bench) -> None:
    second = Live(bench.config.sinks[0], bench.config)  # type: ignore[arg-type]
    with pytest.raises(SinkError, match="cannot be bound"):
        second.open()
    second.close()
    assert bench.get("/")[0] == 200


def test_a_page_without_its_threads_is_started_again(bench: Bench) -> None:
    assert bench.live._painter is not None
    bench.live._painter.close()
    with pytest.raises(SinkError, match="started again"):
        bench.live.poll(time.monotonic())


# ---- the configuration -----------------------------------------------------------------------------------------------


def test_serve_shows_the_page_unless_it_is_turned_off(tmp_path: Path) -> None:
    own = config(tmp_path, name="page")
    assert with_page(own) is own
    bare = own.model_copy(update={"sinks": ()})
    [page] = with_page(bare).sinks
    assert (page.kind, page.name) == ("live", "live")
    assert not with_page(bare.model_copy(update={"line": bare.line.model_copy(update={"live": False})})).sinks


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"host": "0.0.0.0"}, r"0\.0\.0\.0.*token_file"),
        ({"host": "192.168.1.10", "token_file": "t"}, "other hosts can reach it"),
        ({"host": "station-1", "certificate": "c", "private_key": "k"}, "other hosts can reach it"),
        ({"certificate": "c"}, "go together"),
        ({"port": 0}, "greater than or equal to 1"),
    ],
)
def test_off_loopback_without_token_and_tls_is_refused(tmp_path: Path, wrong: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        config(tmp_path, **wrong)


def test_of_a_part_that_several_cameras_see_the_view_that_did_not_pass_is_shown(tmp_path: Path) -> None:
    plain = config(tmp_path).model_dump(mode="json")
    [camera] = plain["cameras"]
    plain["cameras"] = [camera, camera | {"name": "side"}]
    plain["parts"] = [{"name": "pairs", "cameras": ["top", "side"]}]
    pair = parse(plain)
    live = Live(pair.sinks[0], pair)  # type: ignore[arg-type]
    bad, good = outcome(0, Reason.ANOMALY), outcome(0)
    good = replace(good, key=replace(good.key, camera="side"))
    jobs = {one.key: Job(one.key, part_of(one, 100.0), None) for one in (good, bad)}
    live._seen_by |= jobs
    views = tuple(View(one.key, one.verdict, one.reason, 2.0, 1.0) for one in (good, bad))
    whole = replace(bad, key=replace(bad.key, camera="pairs"), regions=(), views=views)
    shown = live._whole(whole, Job(whole.key, part_of(whole, 100.0), None))
    assert (shown.part["camera"], shown.part["view"], shown.part["verdict"]) == ("pairs", "top", "FAIL")
    assert shown.part["regions"] == [[8, 4, 16, 12]]
    assert live._seen_by == {}
