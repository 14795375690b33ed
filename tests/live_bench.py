"""An open page beside a camera's ring, without a browser; what the tests of the page share."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from line_worker.config import Config, parse
from line_worker.live import Live
from line_worker.ports import free_port
from line_worker.verdicts import Reason, StationState, verdict_of
from line_worker.wire.frames import FrameRing, checksum
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

    def announce_inline(self, seq: int, *, sent: bool = True) -> None:
        """Announce a part whose picture travels in the message; of a fast line only some are `sent` to the page."""
        pixels = np.full((48, 64), 40 + seq, np.uint8)
        frame = Frame(outcome(seq).key, 0.0, DEADLINE_MS, (48, 64), "uint8", "gray", checksum(pixels), "inline")
        self.live.tap(frame, pixels.tobytes() if sent else b"")

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


def until(true: Any, timeout_s: float = 10) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def named(seq: int) -> dict[str, Any]:
    return {"camera": "top", "epoch": str(2**62), "seq": seq}


def rejected(bench: Bench, seq: int) -> None:
    bench.part(seq, Reason.ANOMALY)
    until(lambda: any(one["seq"] == seq and "pictured" in one for one in bench.rejects()))
