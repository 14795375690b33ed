"""The page without a browser: what is said beside the picture, what is drawn, and who is answered."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest

from calib.dataset import good_folder
from line_worker.config import Config, parse
from line_worker.errors import ConfigError, SinkError
from line_worker.live import HEADERS, Live
from line_worker.live.board import SILENT_S, Board, part_of, percentile
from line_worker.live.judgements import Judgements
from line_worker.live.pages import STATIC, WAIT_S
from line_worker.live.painter import REJECTS
from line_worker.live.pictures import to_jpeg
from line_worker.live.words import REASONS, STATES, STOPS
from line_worker.serving import with_page
from line_worker.sink.store import Store
from line_worker.verdicts import Reason, StationState, StopCause, verdict_of
from line_worker.wire.frames import FrameRing, checksum
from line_worker.wire.limits import LIVE_WAITING
from line_worker.wire.messages import Frame, FrameKey, HubState, Outcome, Region

DEADLINE_MS = 200.0


def outcome(seq: int, reason: Reason = Reason.NONE, latency_ms: float = 20.0) -> Outcome:
    key = FrameKey("line-1", "top", 2**62, seq)
    regions = (Region(8, 4, 16, 12, (1,), 3.0, 2.0, 1.0, 4.0),) if reason is Reason.ANOMALY else ()
    return Outcome(
        seq + 1, key, verdict_of(reason), int(reason), 2.0, 1.0, regions, "b" * 64, "w", 1, f"part-{seq}", 0,
        latency_ms, 100.0, time.time(), {}, 0.5,
    )  # fmt: skip


def state(**more: Any) -> HubState:
    beat = HubState(1, 1, int(StationState.RUNNING), "", "b" * 64, 2, 3, {"PASS": 5, "FAIL": 1, "NO_DECISION": 0})
    return replace(beat, **more)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config(folder: Path, **sink: Any) -> Config:
    source = {"kind": "synthetic", "part": "noise"}
    return parse(
        {
            "line": {"name": "line-1", "runtime": str(folder / "run"), "data": str(folder / "data")},
            "cameras": [{"name": "top", "deadline_ms": DEADLINE_MS, "source": source}],
            "workers": {"bundle": "stub"},
            "sinks": [{"kind": "live", "port": free_port(), **sink}],
        }
    )


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
    assert max(found.shape[:2]) <= 1280
    assert found.mean() == pytest.approx(200, abs=3)


# ---- the sink and its server -----------------------------------------------------------------------------------------


class Bench:
    """An open page beside a camera's ring."""

    def __init__(self, folder: Path, **sink: Any) -> None:
        self.config = config(folder, **sink)
        self.live = Live(self.config.sinks[0], self.config)  # type: ignore[arg-type]
        self.live.open()
        self.live.beat(state(), time.monotonic())
        self.live.poll(time.monotonic())
        self.ring = FrameRing(f"test-live-{free_port()}", 6, 48 * 64)
        self.port = self.live.address[1]

    def announce(self, seq: int) -> Frame:
        pixels = np.full((48, 64), 40 + seq, np.uint8)
        slot = self.ring.put(pixels)
        assert slot is not None
        key, at = outcome(seq).key, (self.ring.ring, slot.offset, slot.generation)
        frame = Frame(key, 0.0, DEADLINE_MS, (48, 64), "uint8", "gray", checksum(pixels), "ring", *at)
        self.live.tap(frame, b"")
        self.ring.free(slot)
        return frame

    def part(self, seq: int, reason: Reason = Reason.NONE) -> None:
        self.announce(seq)
        self.live.deliver(outcome(seq, reason), time.monotonic())

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def get(self, path: str, host: str = "", body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = self.connection()
        try:
            named = {"Host": host or f"127.0.0.1:{self.port}", **headers}
            connection.request("GET" if body is None else "POST", path, body, headers=named)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def next(self, seen: str = "") -> tuple[dict[str, Any], bytes]:
        status, body = self.get(f"/next?seen={seen}")
        assert status == 200
        told, _, jpeg = body.partition(b"\n")
        return json.loads(told), jpeg

    def post(self, path: str, **message: Any) -> tuple[int, Any]:
        status, body = self.get(path, body=json.dumps(message).encode(), **{"Content-Type": "application/json"})
        return status, json.loads(body) if status == 200 else body.decode()

    def rejects(self) -> list[dict[str, Any]]:
        return list(json.loads(self.get("/rejects")[1])["rejects"])

    def close(self) -> None:
        self.live.close()
        self.ring.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.close()


def until(true: Any, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_newest_part_comes_with_its_picture(bench: Bench) -> None:
    bench.part(0, Reason.ANOMALY)
    told, jpeg = bench.next()
    assert (told["part"]["part_id"], told["part"]["verdict"]) == ("part-0", "FAIL")
    assert (told["part"]["width"], told["part"]["height"]) == (64, 48)
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED).mean() == pytest.approx(40, abs=2)
    assert told["board"]["state_words"] == "Running"


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
    start = time.monotonic()
    bench.part(1)
    assert time.monotonic() - start < 0.1
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


# ---- judgements and history ------------------------------------------------------------------------------------------


def named(seq: int) -> dict[str, Any]:
    return {"camera": "top", "epoch": str(2**62), "seq": seq}


def rejected(bench: Bench, seq: int) -> None:
    bench.part(seq, Reason.ANOMALY)
    until(lambda: any(one["seq"] == seq and "pictured" in one for one in bench.rejects()))


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


# ---- with a token and TLS --------------------------------------------------------------------------------------------

TOKEN = "a token that nobody guesses"


class Private(Bench):
    """A page with a token and TLS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        secret(folder / "token", TOKEN + "\n")
        certify(folder)
        super().__init__(
            folder,
            token_file=str(folder / "token"),
            certificate=str(folder / "c.pem"),
            private_key=str(folder / "k.pem"),
        )
        self.trusted = ssl.create_default_context(cafile=str(folder / "c.pem"))

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.trusted)

    def log_in(self, token: str) -> tuple[str, str]:
        """Return where it leads, and the cookie."""
        connection = self.connection()
        try:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request("POST", "/login", urlencode({"token": token}), form)
            answer = connection.getresponse()
            assert answer.status == 303
            return answer.getheader("Location", ""), answer.getheader("Set-Cookie", "")
        finally:
            connection.close()


def secret(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o400)


def certify(folder: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is missing: apt-get install openssl")
    what = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=page -keyout {folder}/k.pem"
    names = ["-out", f"{folder}/c.pem", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *what.split(), *names], check=True, capture_output=True)
    (folder / "k.pem").chmod(0o400)


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Private]:
    found = Private(tmp_path)
    yield found
    found.close()


def test_without_the_token_nobody_sees_anything(private: Private) -> None:
    private.part(0)
    assert private.get("/")[0] == 303
    for path in ("/next", "/rejects", f"/part?{urlencode(named(0))}", "/history", "/page.js"):
        assert private.get(path)[0] == 401
    assert private.get("/next", Cookie="line-worker=" + "0" * 64)[0] == 401
    assert private.get("/next", Cookie="line-worker=\xfc; ;=")[0] == 401
    assert private.post("/judge", **named(0), judgement="good", who="Ada")[0] == 401
    assert b"Token" in private.get("/login")[1]


def test_with_the_token_once_the_browser_is_known(private: Private) -> None:
    private.part(0)
    where, cookie = private.log_in(TOKEN)
    assert where == "/"
    assert {"HttpOnly", "SameSite=Strict", "Secure"} <= set(cookie.split("; "))
    assert TOKEN not in cookie
    known = {"Cookie": cookie.partition(";")[0]}
    until(lambda: b'"part"' in private.get("/next?seen=", **known)[1])
    body = json.dumps(named(0) | {"judgement": "good", "who": "Ada"}).encode()
    json_ = {"Content-Type": "application/json", **known}
    assert private.get("/judge", body=body, **json_, Origin="https://evil.example")[0] == 403
    assert private.get("/judge", body=body, **json_, Origin=f"https://127.0.0.1:{private.port}")[0] == 200


def test_a_wrong_token_is_answered_late(private: Private) -> None:
    start = time.monotonic()
    assert private.log_in(TOKEN + "?") == ("/login", "")
    assert time.monotonic() - start > 0.9


def test_peers_that_do_not_speak_tls_hold_nobody(private: Private) -> None:
    rude = [socket.create_connection(("127.0.0.1", private.port)) for _ in range(10)]
    for n, one in enumerate(rude):
        one.sendall((b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00")[n % 3])
    assert private.get("/login")[0] == 200
    for one in rude:
        one.close()


def test_large_answers_come_whole_through_tls(private: Private) -> None:
    known = {"Cookie": private.log_in(TOKEN)[1].partition(";")[0]}
    folder = private.config.live_path(private.config.sinks[0]) / "top" / "7"  # type: ignore[arg-type]
    folder.mkdir(parents=True)
    (folder / "1-original.png").write_bytes(b"x" * 9_000_000)
    assert len(private.get("/picture?camera=top&epoch=7&seq=1&name=original", **known)[1]) == 9_000_000


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda folder: (folder / "token").chmod(0o444), "open to others"),
        (lambda folder: (folder / "k.pem").chmod(0o444), "open to others"),
        (lambda folder: (folder / "token").unlink(), "cannot be read"),
        (lambda folder: [(folder / "token").unlink(), secret(folder / "token", "short")], "shorter than 16"),
        (lambda folder: (folder / "c.pem").write_text("no certificate"), "cannot be used for TLS"),
    ],
)
def test_secrets_that_cannot_be_used_serve_nothing(private: Private, spoil: Callable[[Path], Any], why: str) -> None:
    private.live.close()
    spoil(private.folder)
    with pytest.raises(SinkError, match=why):
        private.live.open()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", private.port))
