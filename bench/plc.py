"""How long an outcome takes from the PLC sink to a PLC that polls: Modbus TCP, OPC UA both ways, S7, EtherNet/IP.

The sink runs here as its runner would drive it. The PLC is a process of its own and polls every 2 ms (its own memory
where the sink writes into it, as a PLC's program does), says what it has seen and when on the clock that both processes
share, and acknowledges; it knows nothing of the sink but its protocol.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from line_worker.config import Config, parse
from line_worker.errors import SinkError
from line_worker.ports import free_port
from line_worker.sink.plc import PlcOutput
from line_worker.wire.messages import FrameKey, HubState, Outcome

WAYS = ("modbus", "opcua", "s7", "opcua-client", "ethernet-ip")
HOST, S7_DB = "127.0.0.1", 1
OPCUA_NODES = "nsu=urn:simulated-plc;s=LineWorker.{name}"
POLL_S, BEAT_S = 0.01, 0.05
READY_S, LAST_S, PATIENCE_S = 30.0, 0.3, 10.0


@dataclass(frozen=True, slots=True)
class Way:
    """From outcome to the PLC's eyes, in ms."""

    via: str
    rate: float
    parts: int
    seen: int
    p50_ms: float
    p99_ms: float
    max_ms: float


def measure(via: str, rate: float, seconds: float) -> Way:
    """Deliver `rate` outcomes a second for `seconds`; returns what the PLC saw.

    Raises:
        SinkError: the sink cannot listen, or its PLC does not come.
    """
    output = _sink(_config(via, free_port()))
    with _priority(output.nice):
        output.open()
        try:
            with _peer(via, output.port) as peer:
                sent = _deliver(output, rate, seconds)
                time.sleep(LAST_S)
                told, _ = peer.communicate(timeout=PATIENCE_S)  # the end of its input ends it
        finally:
            output.close()
    seen = dict(_read(told))
    delays = [(seen[seq] - at) * 1000 for seq, at in sent.items() if seq in seen]
    figures = (float(figure) for figure in np.percentile(delays, (50, 99, 100)))
    return Way(via, rate, len(sent), len(delays), *figures)


@contextmanager
def _priority(nice: int) -> Iterator[None]:
    """Give this thread and those that it starts the priority that a sink asks for, where it may have it."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, before + nice)
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, before)


def _config(via: str, port: int) -> Config:
    sinks: dict[str, dict[str, object]] = {
        "modbus": {"kind": "plc"},
        "opcua": {"kind": "opcua"},
        "s7": {"kind": "s7", "host": HOST, "db": S7_DB},
        "opcua-client": {"kind": "opcua-client", "url": f"opc.tcp://{HOST}:{port}", "nodes": OPCUA_NODES},
        "ethernet-ip": {"kind": "ethernet-ip", "host": HOST},
    }
    camera = {"name": "top", "deadline_ms": 500, "source": {"kind": "synthetic"}}
    line = {"name": "bench", "runtime": "run", "data": "data"}
    sink = sinks[via] if "url" in sinks[via] else sinks[via] | {"port": port}
    return parse({"line": line, "cameras": [camera], "workers": {"bundle": "stub"}, "sinks": [sink]})


def _sink(config: Config) -> PlcOutput:
    from line_worker.sink import make_sink

    output = make_sink(config.sinks[0], config)
    assert isinstance(output, PlcOutput)
    return output


@contextmanager
def _peer(via: str, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "bench.plc_peer", via, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _deliver(output: PlcOutput, rate: float, seconds: float) -> dict[int, float]:
    """Drive the sink as its runner does; returns when each outcome was delivered, by number."""
    sent: dict[int, float] = {}
    beats, until, start = 0, time.monotonic() + READY_S, 0.0
    while len(sent) < rate * seconds:
        now = time.monotonic()
        if now >= beats * BEAT_S:
            beats = int(now / BEAT_S) + 1
            output.beat(HubState(1, beats, 2, "", "", 0, 1, {}), now)
        output.poll(now)
        if not start:
            if now > until:
                raise SinkError(f"bench plc: nothing was measured: {output.reachable()[1]}")
            start = now + 0.5 if output.reachable()[0] else 0.0
        elif now >= start + len(sent) / rate:
            sent[len(sent)] = now
            output.deliver(_outcome(len(sent) - 1), now)
        due = start + len(sent) / rate if start else now + POLL_S
        time.sleep(max(0.0, min(POLL_S, due - time.monotonic())))
    return sent


def _outcome(seq: int) -> Outcome:
    key = FrameKey("bench", "top", 1, seq)
    return Outcome(seq + 1, key, "PASS", 0, 0.5, 1.0, (), "beef" * 16, "w", 1, "", 0, 10.0, 450.0, time.time(), {})


def _read(told: str) -> Iterator[tuple[int, float]]:
    for line in told.splitlines():
        seq, at = line.split()
        yield int(seq), float(at)
