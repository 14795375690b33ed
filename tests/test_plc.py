"""The PLC sink over real Modbus TCP: latency, whole results, and what happens when the other side misbehaves."""

from __future__ import annotations

import gc
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from line_worker.config import PlcSink
from line_worker.errors import SinkError
from line_worker.sink.plc import PlcOutput
from line_worker.sink.plc.client import RegisterClient
from line_worker.sink.plc.registers import (
    FROM_PLC,
    MAP_VERSION,
    RESULT_AT,
    STOP_AT,
    TO_PLC,
    Code,
    Fault,
    Plc,
    Result,
    decode,
    encode,
)
from line_worker.sink.plc.registers import Station as StationBlock
from line_worker.sink.plc.server import RegisterServer
from line_worker.sink.plc.simulated import SimulatedPlc
from plc_station import HOST, QUEUED, Station, outcome, wait_for

CONNECTIONS = 16  # that the server has at a time


def settings(mode: str = "server", port: int = 0, **changes: object) -> PlcSink:
    """Return a sink's configuration; port 0, which line.toml does not allow, takes a free one."""
    checked = PlcSink.model_validate({"kind": "plc", "mode": mode, "port": port or 1, **changes})
    return checked.model_copy(update={"port": port})


class HandPlc:
    """A PLC that does exactly what a test tells it, through real Modbus."""

    def __init__(self, port: int) -> None:
        self.client = RegisterClient(HOST, port, 1, 0)
        self.plc = Plc()

    def read(self) -> tuple[StationBlock, Result]:
        words = self.client.read(TO_PLC)
        return decode(StationBlock, words[:RESULT_AT]), decode(Result, words[RESULT_AT:STOP_AT])

    def tell(self, **changes: int) -> None:
        beat = (self.plc.plc_heartbeat + 1) & 0xFFFF
        self.plc = replace(self.plc, **({"plc_heartbeat": beat} | changes))
        self.client.write(FROM_PLC.start, encode(self.plc))

    def synchronise(self) -> None:
        self.tell()
        self.tell(sync_echo=self.read()[0].sync)

    def acknowledge(self) -> int:
        shown = self.read()[1]
        self.tell(ack_seq=shown.seq, ack_toggle=shown.toggle)
        return shown.seq


@pytest.fixture
def station() -> Iterator[Station]:
    with Station(PlcOutput(settings())) as running:
        yield running


@pytest.fixture
def hand(station: Station) -> Iterator[HandPlc]:
    plc = HandPlc(station.output.port)
    plc.synchronise()
    station.await_reachable()
    yield plc
    plc.client.close()


# ---- both modes with the simulated PLC -------------------------------------------------------------------------------


@pytest.fixture(params=["server", "client"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Station, SimulatedPlc]]:
    if request.param == "server":
        with Station(PlcOutput(settings(queue=64))) as running, SimulatedPlc(HOST, running.output.port) as plc:
            running.await_reachable()
            yield running, plc
    else:
        with (
            SimulatedPlc(HOST, 0, serve=True) as plc,
            Station(PlcOutput(settings("client", plc.port, queue=64))) as running,
        ):
            running.await_reachable()
            yield running, plc


def test_every_verdict_arrives_once_and_in_order(pair: tuple[Station, SimulatedPlc]) -> None:
    running, plc = pair
    for seq in range(150):
        wait_for(lambda: running.output.words()[QUEUED] < 8)
        running.deliver(outcome(seq, reason=(0, 0, 1, 30)[seq % 4]))
    wait_for(lambda: plc.received == 150)
    plc.stop()
    assert [booking.seq for booking in plc.books] == list(range(150))
    assert [booking.accepted for booking in plc.books] == [seq % 4 < 2 for seq in range(150)]
    assert plc.books[5].part_id == "part-5"
    assert plc.books[5].score == 5.0


def test_100_parts_a_second_for_three_seconds(pair: tuple[Station, SimulatedPlc]) -> None:
    running, plc = pair
    start = time.monotonic()
    for seq in range(300):
        time.sleep(max(0.0, start + seq / 100 - time.monotonic()))
        running.deliver(outcome(seq))
    wait_for(lambda: running.output.counts["acknowledged"] == 300)
    assert (plc.accepted, running.output.counts) == (300, {"acknowledged": 300})


def test_a_silent_hub_lets_nothing_pass(pair: tuple[Station, SimulatedPlc]) -> None:
    running, plc = pair
    running.beating = False
    time.sleep(1.2)
    running.deliver(outcome(0))
    wait_for(lambda: plc.received == 1)
    plc.stop()
    assert plc.accepted == 0
    assert plc.books[-1].why in ("HEARTBEAT", "NO_DECISION")


def test_a_triggered_part_without_an_outcome_is_rejected(pair: tuple[Station, SimulatedPlc]) -> None:
    running, plc = pair
    plc.trigger()
    plc.trigger()
    running.deliver(replace(outcome(0), trigger=2))
    wait_for(lambda: len(plc.books) == 2)
    assert {booking.trigger: booking.why for booking in plc.books} == {2: "PASS", 1: "WINDOW"}


def test_a_second_station_on_the_same_plc_registers_begins_with_a_new_synchronisation() -> None:
    with SimulatedPlc(HOST, 0, serve=True) as plc:
        for run in range(2):
            with Station(PlcOutput(settings("client", plc.port))) as running:
                running.await_reachable()
                running.deliver(outcome(run))
                wait_for(lambda: running.output.counts["acknowledged"] == 1)
        wait_for(lambda: plc.accepted == 2)


# ---- server mode -----------------------------------------------------------------------------------------------------


def test_an_outcome_is_in_the_registers_within_milliseconds(station: Station, hand: HandPlc) -> None:
    delays = []
    for seq in range(200):
        sent = time.monotonic()
        station.deliver(outcome(seq))
        while hand.read()[1].seq != seq:
            pass
        delays.append(time.monotonic() - sent)
        hand.acknowledge()
    assert sorted(delays)[100] < 0.010  # the median: a busy test machine has outliers of its own


def test_a_result_is_never_seen_half_written(station: Station, hand: HandPlc) -> None:
    torn: list[Result] = []
    seen: set[int] = set()
    stop = threading.Event()

    def watch() -> None:
        eyes = HandPlc(station.output.port)
        while not stop.is_set():
            _, shown = eyes.read()
            seen.add(shown.seq)
            if shown.toggle and (shown.trigger, shown.part_id, shown.score) != (
                *(shown.seq + 1, f"part-{shown.seq}", float(shown.seq)),
            ):
                torn.append(shown)
        eyes.client.close()

    watcher = threading.Thread(target=watch)
    watcher.start()
    for seq in range(300):
        station.deliver(outcome(seq))
        hand.acknowledge()
    stop.set()
    watcher.join()
    assert not torn
    assert len(seen) > 20


def test_a_plc_that_stops_polling_gets_nothing_old_when_it_comes_back(station: Station, hand: HandPlc) -> None:
    station.deliver(outcome(0, left_ms=100), outcome(1, left_ms=100))
    hand.client.close()
    why = station.await_reachable(False)
    assert "heartbeat stands still" in why
    hand.tell()
    station.await_reachable()
    assert hand.read()[1].verdict == Code.NO_DECISION
    assert station.output.counts["expired"] == 2
    station.deliver(outcome(2))
    assert hand.acknowledge() == 2
    assert station.output.counts == {"expired": 2, "acknowledged": 1}


def test_no_pass_for_a_plc_whose_heartbeat_stands_still(station: Station, hand: HandPlc) -> None:
    wait_for(lambda: not station.output.reachable()[0])
    station.deliver(outcome(0))
    block, shown = hand.read()
    assert (shown.seq, shown.verdict, block.fault) == (0, Code.NO_DECISION, Fault.NONE)


def test_one_part_behind_is_a_fault_until_the_plc_synchronises(station: Station, hand: HandPlc) -> None:
    station.deliver(outcome(0), outcome(1))
    hand.acknowledge()
    hand.tell(ack_seq=0, ack_toggle=hand.read()[1].toggle)
    block, shown = hand.read()
    assert (block.fault, block.state, shown.verdict) == (Fault.WRONG_ACK, 4, Code.NO_DECISION)
    assert "expected seq 1" in station.output.reachable()[1]
    station.deliver(outcome(2))
    assert hand.read()[1].verdict == Code.NO_DECISION
    hand.synchronise()
    station.deliver(outcome(3))
    block, shown = hand.read()
    assert (block.fault, shown.seq, shown.verdict) == (Fault.NONE, 3, Code.PASS)


def test_more_than_the_queue_holds_is_a_fault(station: Station, hand: HandPlc) -> None:
    station.deliver(*(outcome(seq) for seq in range(9)))
    block, shown = hand.read()
    assert (block.fault, shown.seq, shown.verdict) == (Fault.OVERFLOW, 0, Code.NO_DECISION)


def test_the_queue_can_be_made_longer() -> None:
    with Station(PlcOutput(settings(queue=20))) as running:
        plc = HandPlc(running.output.port)
        plc.synchronise()
        running.await_reachable()
        running.deliver(*(outcome(seq) for seq in range(20)))
        assert [plc.acknowledge() for _ in range(20)] == list(range(20))
        plc.client.close()


def test_unit_and_base_move_the_map() -> None:
    with Station(PlcOutput(settings(unit=9, base=4000))) as running:
        there = RegisterClient(HOST, running.output.port, 9, 4000)
        assert decode(StationBlock, there.read(TO_PLC)[:RESULT_AT]).map_version == MAP_VERSION
        there.close()
        for unit, base in ((8, 4000), (9, 3999), (9, 4040)):
            elsewhere = RegisterClient(HOST, running.output.port, unit, base)
            with pytest.raises(SinkError, match="refuses"):
                elsewhere.read(TO_PLC)
            elsewhere.close()


@pytest.mark.parametrize("offset", [0, 13, 47, 50, 63])
def test_the_plc_cannot_write_what_is_ours(station: Station, hand: HandPlc, offset: int) -> None:
    before = hand.read()[1]
    with pytest.raises(SinkError, match="refuses"):
        hand.client.write(offset, [0x5AA5])
    with pytest.raises(SinkError, match="refuses"):
        hand.client.write(FROM_PLC.start - 1, [1, 2])
    assert hand.read()[1] == before


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00" * 2000,
        b"\xff" * 2000,
        b"\x00\x01\x00\x00\x00\x06\x01\x2b\x00\x00\x00\x01",  # a function nobody asked for
        b"\x00\x01\x00\x00\x00\x06\x01\x03\x00\x00\xff\xff",  # 65,535 registers
        b"\x00\x01\x00\x00\x00\x04\x01\x10\x00\x40",  # a write without its data
        b"\x00\x01\x00\x00\xff\xff\x01\x03",  # a length that never comes
    ],
)
def test_bytes_that_are_no_modbus_hurt_nobody_else(station: Station, hand: HandPlc, garbage: bytes) -> None:
    with socket.create_connection((HOST, station.output.port), timeout=5) as rude:
        rude.sendall(garbage)
        station.deliver(outcome(0))
        assert hand.read()[1].seq == 0
        assert hand.acknowledge() == 0
    wait_for(lambda: station.output.counts["acknowledged"] == 1)


def test_of_too_many_connections_the_silent_ones_are_dropped_and_never_the_plcs(
    station: Station, hand: HandPlc
) -> None:
    hand.tell()
    with ExitStack() as stack:
        for _ in range(3 * CONNECTIONS):
            stack.enter_context(socket.create_connection((HOST, station.output.port), timeout=5))
        held = hand.client._client.socket
        wait_for(lambda: len(_timers(station.output.port)) == CONNECTIONS)
        hand.tell()
        assert hand.client._client.socket is held, "it is the connection of before"
        late = HandPlc(station.output.port)
        late.tell()
        late.client.close()


def test_the_kernel_asks_a_silent_plc_whether_it_is_still_there(station: Station, hand: HandPlc) -> None:
    hand.read()
    keepalive = "02"
    wait_for(lambda: _timers(station.output.port) == [keepalive])


def _timers(port: int) -> list[str]:
    """Return which timer the kernel runs for each connection that was made to `port`."""
    rows = (line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return [row[5][:2] for row in rows if row[1] == f"0100007F:{port:04X}" and row[3] == "01"]


def test_a_port_that_is_taken_is_said_so() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        output = PlcOutput(settings(port=port))
        with pytest.raises(SinkError, match=rf"{HOST}:{port}: no Modbus server.*in use.*another host or port"):
            output.open()
        output.close()
    output.open()  # free again: the runner's next attempt succeeds
    output.close()


def test_closing_leaves_no_thread_and_no_listener() -> None:
    with Station(PlcOutput(settings())) as running, SimulatedPlc(HOST, running.output.port):
        running.await_reachable()
        port = running.output.port
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("modbus")]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), timeout=1).close()


class Nothing:
    """A bank of one register that nobody writes."""

    size, writable = 1, range(0)

    def read(self) -> list[int]:
        return [0]

    def write(self, words: list[int]) -> None:
        pass


def test_who_comes_while_the_server_closes_is_let_go() -> None:
    server = RegisterServer(HOST, 0, 1, 0, Nothing())
    server.open()
    comers: list[socket.socket] = []

    def come_and_close() -> None:  # accepted in the turn of the loop in which the server begins to close
        comers.append(socket.create_connection((HOST, server.port), timeout=5))
        loop.call_soon(server._stop.set)

    loop = server._loop
    assert loop is not None
    loop.call_soon_threadsafe(come_and_close)
    wait_for(lambda: not server.is_alive())
    server.close()
    with suppress(ConnectionResetError):
        assert comers[0].recv(1) == b""
    comers[0].close()
    gc.collect()  # a connection that was forgotten would be warned of here


# ---- client mode -----------------------------------------------------------------------------------------------------


def test_a_plc_that_goes_away_is_reported_and_found_again() -> None:
    with SimulatedPlc(HOST, 0, serve=True) as plc:
        port = plc.port
        with Station(PlcOutput(settings("client", port))) as running:
            running.await_reachable()
            plc.stop()
            why = running.await_reachable(False)
            assert f"{HOST}:{port}" in why
            wait_for(lambda: "cannot be reached (Connection refused)" in running.output.reachable()[1])
            running.deliver(outcome(0, left_ms=50))
            with SimulatedPlc(HOST, port, serve=True) as again:
                running.await_reachable()
                running.deliver(outcome(1))
                wait_for(lambda: again.received == 1)
                again.stop()
                assert [booking.seq for booking in again.books] == [1]


def test_a_plc_that_never_answers_is_reported_and_closing_stays_quick() -> None:
    with socket.create_server((HOST, 0)) as mute:
        with Station(PlcOutput(settings("client", mute.getsockname()[1]))) as running:
            wait_for(lambda: "gives no answer" in running.output.reachable()[1])
            start = time.monotonic()
        assert time.monotonic() - start < 3.0


# ---- as a process ----------------------------------------------------------------------------------------------------


def test_the_simulated_plc_is_a_process_that_ends_on_sigterm(station: Station, tmp_path: Path) -> None:
    log = tmp_path / "plc.jsonl"
    command = [
        sys.executable,
        "-m",
        "line_worker.sink.plc.simulated",
        HOST,
        str(station.output.port),
        "--log",
        str(log),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    station.await_reachable()
    station.deliver(outcome(0), outcome(1, reason=1))
    wait_for(lambda: station.output.counts["acknowledged"] == 2)
    process.send_signal(signal.SIGTERM)
    _, complaints = process.communicate(timeout=20)
    assert (process.returncode, complaints) == (0, b"")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["seq"], line["accepted"], line["why"]) for line in lines] == [(0, True, "PASS"), (1, False, "FAIL")]


def test_reading_the_table_needs_no_modbus() -> None:
    code = "import sys, line_worker.sink.plc.registers; print('pymodbus' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]
