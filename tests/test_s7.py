"""The S7 sink with snap7's own server as the PLC: killed, stopped, slow, half-open, restarted, with one session."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("snap7", reason="python-snap7 is missing: pip install 'line-worker[s7]'")

import snap7
from snap7.error import S7Error
from snap7.util import get_dword, get_real, get_word

from line_worker.config import S7Sink
from line_worker.errors import SinkError
from line_worker.ports import free_port
from line_worker.sink.plc import PlcOutput
from line_worker.sink.plc.printed import as_blocks_csv
from line_worker.sink.plc.registers import FROM_PLC, MAP_VERSION, SIZE, TO_PLC
from line_worker.sink.plc.s7 import BlockClient
from line_worker.sink.plc.s7_served import ServedBlock
from plc_process import BASE, DB, S7Plc, Wire, deliver_all, why_not
from plc_station import HOST, Station, outcome, sink_process, wait_for


def settings(port: int, **changes: object) -> S7Sink:
    keys = {"kind": "s7", "host": HOST, "port": port, "db": DB, "base": BASE, "queue": 64}
    return S7Sink.model_validate(keys | changes)


@pytest.fixture
def plc(tmp_path: Path) -> Iterator[S7Plc]:
    with S7Plc(tmp_path) as running:
        yield running


@pytest.fixture
def station(plc: S7Plc) -> Iterator[Station]:
    with Station(PlcOutput(settings(plc.port))) as running:
        running.await_reachable()
        yield running


def test_every_verdict_arrives_once_and_in_order(station: Station, plc: S7Plc) -> None:
    deliver_all(station, plc, 0, 100)
    received = [booking for booking in plc.books if booking["received"]]
    assert [booking["accepted"] for booking in received] == [seq % 4 < 2 for seq in range(100)]
    assert (received[5]["part_id"], received[5]["score"]) == ("part-5", 5.0)


def test_50_parts_a_second_are_all_acknowledged(station: Station, plc: S7Plc) -> None:
    start = time.monotonic()
    for seq in range(100):
        time.sleep(max(0.0, start + seq / 50 - time.monotonic()))
        station.deliver(outcome(seq))
    wait_for(lambda: station.output.counts["acknowledged"] == 100)
    assert station.output.counts == {"acknowledged": 100}


def test_what_is_printed_is_where_snap7s_own_client_finds_it(station: Station, plc: S7Plc) -> None:
    station.deliver(outcome(0x12345))
    wait_for(lambda: len(plc.taken) == 1)
    places = {line.split(",")[0]: line.split(",")[1] for line in as_blocks_csv(DB, BASE).splitlines()[1:]}
    client = snap7.Client()
    client.connect(HOST, 0, 1, plc.port)

    def found(name: str, size: int) -> bytearray:
        block, address = places[name].split(".")
        assert block == f"DB{DB}"
        return client.db_read(DB, int(address[3:]), size)

    try:
        assert places["map_version"] == f"DB{DB}.DBW{BASE}"
        assert get_word(found("map_version", 2), 0) == MAP_VERSION
        assert get_dword(found("seq", 4), 0) == 0x12345
        assert get_real(found("score", 4), 0) == float(0x12345)
        assert bytes(found("camera", 16)) == b"top".ljust(16, b"\0")
        assert get_word(found("ack_toggle", 2), 0) == get_word(found("toggle", 2), 0) > 0
    finally:
        client.disconnect()


# ---- a PLC in trouble ------------------------------------------------------------------------------------------------


def test_a_plc_that_is_killed_and_restarted_begins_anew_and_gets_nothing_old(station: Station, plc: S7Plc) -> None:
    deliver_all(station, plc, 0, 10)
    plc.kill()
    wait_for(lambda: "cannot be reached" in why_not(station))
    assert f"{HOST}:{plc.port}, rack 0, slot 1, DB5 from byte 40" in why_not(station)
    station.deliver(outcome(10, left_ms=50))
    time.sleep(0.2)
    plc.start()
    station.await_reachable()
    deliver_all(station, plc, 12, 10)
    assert 10 not in [seq for seq, _ in plc.taken]


def test_a_plc_that_stands_still_lets_nothing_pass_and_goes_on(station: Station, plc: S7Plc) -> None:
    deliver_all(station, plc, 0, 4)
    plc.signal(signal.SIGSTOP)
    try:
        wait_for(lambda: "gives no answer" in why_not(station))
        time.sleep(1.0)  # its heartbeat is stale
        station.deliver(outcome(4, left_ms=100))
        time.sleep(0.2)
    finally:
        plc.signal(signal.SIGCONT)
    station.await_reachable()
    deliver_all(station, plc, 8, 4)
    assert 4 not in [booking["seq"] for booking in plc.books if booking["accepted"]]


def test_over_a_slow_wire_everything_arrives_and_over_a_slower_one_nothing_passes(plc: S7Plc) -> None:
    with Wire(plc.port) as wire, Station(PlcOutput(settings(wire.port))) as station:
        wire.delay_s = 0.03
        station.await_reachable()
        deliver_all(station, plc, 0, 8)
        wire.delay_s = 0.7
        wait_for(lambda: "gives no answer" in why_not(station))
        time.sleep(1.0)
        station.deliver(outcome(8, left_ms=100))
        wire.delay_s = 0.0
        station.await_reachable()
        deliver_all(station, plc, 12, 4)
    assert 8 not in [booking["seq"] for booking in plc.books if booking["accepted"]]


def test_a_wire_that_dies_in_silence_is_noticed_and_replaced(plc: S7Plc) -> None:
    with Wire(plc.port) as wire, Station(PlcOutput(settings(wire.port))) as station:
        station.await_reachable()
        deliver_all(station, plc, 0, 4)
        wire.dead = True
        start = time.monotonic()
        wait_for(lambda: "gives no answer" in why_not(station))
        assert time.monotonic() - start < 3
        wire.dead = False
        station.await_reachable()
        deliver_all(station, plc, 4, 4)


def test_a_plc_that_never_answers_is_reported_and_closing_stays_quick() -> None:
    with socket.create_server((HOST, 0)) as mute:
        with Station(PlcOutput(settings(mute.getsockname()[1]))) as station:
            wait_for(lambda: "gives no answer" in why_not(station))
            start = time.monotonic()
        assert time.monotonic() - start < 3


CC = bytes.fromhex("0300001611d00001000100c0010ac1020100c2020301")  # a confirmed connection


@pytest.mark.parametrize(
    "answers",
    [
        [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
        [b"\0" * 100],
        [bytes.fromhex("03000004")],
        [bytes.fromhex("0300000b0680000100010000")],  # a disconnect: no such rack and slot
        [CC, b"\xff" * 50],
        [CC, bytes.fromhex("03000007 02f080")],
        [CC, bytes.fromhex("0300001b 02f080 32030000 00010008 00000000 f0000001 000100f0")],
        [
            CC,
            bytes.fromhex("0300001b 02f080 32030000 00010008 00000000 f0000001 000100f0"),
            b"\x03\0\0\x09\x02\xf0\x802",
        ],
        [CC, bytes.fromhex("0300001b 02f080 32030000 00010008 00000000 f0000001 000100f0")] * 3,
    ],
)
def test_an_answer_that_is_no_s7_is_a_clear_error(answers: list[bytes]) -> None:
    def serve() -> None:
        with suppress(OSError), listener.accept()[0] as peer:
            peer.settimeout(5)
            for answer in answers:
                peer.recv(1000)
                peer.sendall(answer)
            peer.recv(1000)

    with socket.create_server((HOST, 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        client = BlockClient(HOST, listener.getsockname()[1], (0, 1), DB, BASE)
        with pytest.raises(SinkError, match="check its power, network, rack and slot"):
            client.read(FROM_PLC)
        client.close()
        thread.join()


# ---- data blocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("db", "base"), [(DB + 1, BASE), (DB, BASE + 2), (DB, 2000)])
def test_a_block_that_is_not_there_or_too_short_is_refused_by_the_plc(plc: S7Plc, db: int, base: int) -> None:
    with Station(PlcOutput(settings(plc.port, db=db, base=base))) as station:
        wait_for(lambda: "refuses" in why_not(station))
        assert f"DB{db} has {base + 2 * SIZE} bytes and is not optimised" in why_not(station)


def test_the_map_is_just_as_long_as_the_block_and_touches_nothing_before_it(plc: S7Plc) -> None:
    client = BlockClient(HOST, plc.port, (0, 1), DB, 0)
    before = client.read(range(BASE // 2))
    with Station(PlcOutput(settings(plc.port))) as station:
        station.await_reachable()
        deliver_all(station, plc, 0, 4)
    assert client.read(range(BASE // 2)) == before == [0] * (BASE // 2)
    client.close()


# ---- few sessions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def single(tmp_path: Path) -> Iterator[S7Plc]:
    with S7Plc(tmp_path, sessions=1) as running:
        yield running


def gets_in(plc: S7Plc) -> bool:
    client = snap7.Client()
    try:
        client.connect(HOST, 0, 1, plc.port)
    except S7Error:
        return False
    finally:
        client.disconnect()
    return True


def test_closing_frees_the_session_and_leaves_no_thread(single: S7Plc) -> None:
    for first in range(0, 12, 4):
        with Station(PlcOutput(settings(single.port))) as station:
            station.await_reachable()
            deliver_all(station, single, first, 4)
            assert not gets_in(single)
    wait_for(lambda: gets_in(single), 3)
    assert not [thread for thread in threading.enumerate() if thread.name == "plc-client"]


LINE_TOML = """
[line]
name = "line-1"
runtime = "{folder}/run"
data = "{folder}/data"
[[cameras]]
name = "top"
deadline_ms = 2000
source = {{ kind = "synthetic", part = "noise", rate = 20, width = 64, height = 64 }}
canary_every_s = 0
[workers]
bundle = "stub"
[[sinks]]
kind = "s7"
host = "127.0.0.1"
port = {port}
db = {db}
base = {base}
"""


def accepted(plc: S7Plc) -> int:
    return sum(booking["accepted"] for booking in plc.books)


def test_a_lines_only_session_is_free_again_after_a_crash_and_after_sigterm(single: S7Plc, short_path: Path) -> None:
    (short_path / "line.toml").write_text(LINE_TOML.format(folder=short_path, port=single.port, db=DB, base=BASE))
    command = [sys.executable, "-m", "line_worker.cli", "serve", str(short_path / "line.toml")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        wait_for(lambda: accepted(single) > 20, 60)
        os.kill(sink_process(short_path, "s7"), signal.SIGKILL)
        before = accepted(single)
        wait_for(lambda: accepted(single) > before + 20, 60)
        assert not gets_in(single)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=30)
        assert process.returncode == 0, told[-2000:]
        wait_for(lambda: gets_in(single), 3)
    finally:
        process.kill()
        process.communicate()


# ---- our own end -----------------------------------------------------------------------------------------------------


def test_the_simulated_plc_ends_on_sigterm(station: Station, plc: S7Plc) -> None:
    deliver_all(station, plc, 0, 4)
    assert plc.end() == 0


def test_a_port_that_is_taken_is_said_so() -> None:
    with socket.create_server((HOST, 0)) as taken:
        block = ServedBlock(HOST, taken.getsockname()[1], DB, 0)
        with pytest.raises(SinkError, match="no S7 server can listen there"):
            block.open()


def test_without_snap7_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "line_worker.sink.plc.s7", None)
    with pytest.raises(SinkError, match=r"pip install line-worker\[s7\]"):
        PlcOutput(settings(free_port())).open()


def test_a_read_and_a_write_fit_into_the_smallest_pdu() -> None:
    assert max(2 * len(TO_PLC) + 28, 2 * len(FROM_PLC) + 18) <= 240
