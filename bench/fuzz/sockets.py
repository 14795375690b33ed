"""Raw connections against every socket of a running line: rubbish, half a greeting, a whole one and then rubbish.

The line has a camera, so that a hub that would rather serve strangers shows; its processes must all be the same ones at
the end, its books must balance, and only its own camera's parts may have passed.
"""

from __future__ import annotations

import contextlib
import socket
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from bench.fuzz.files import Case
from bench.fuzz.making import damaged, hostile_parts
from line_worker.auditing import audit
from line_worker.config import Config, parse
from line_worker.ports import free_port
from line_worker.supervisor import Supervisor
from line_worker.wire.links import LINKS

SECONDS = 1.0  # for one connection
GREETING = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(16) + b"\0" + bytes(31)
READY = b"\x04\x26\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
HTTP = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
MODBUS = b"\0\1\0\0\0\6\1\3\0\0\0\x46"

Address = str | tuple[str, int]


@contextlib.contextmanager
def sockets(folder: Path) -> Iterator[Case]:
    """Run a line, connect to one of its sockets in every case."""
    config = _config(folder)
    supervisor = Supervisor(config, folder / "line.log")
    supervisor.start()
    assert supervisor.wait_ready(120), "the line does not start"
    addresses = _addresses(config)
    names = [*(Path(a).name for a in addresses if isinstance(a, str)), "plc", "metrics"]
    first = {child.name: child.process.pid for child in supervisor.children if child.process}
    turning = threading.Event()
    thread = threading.Thread(target=_turn, args=(supervisor, turning), daemon=True)
    thread.start()

    def case(rng: Random, number: int) -> str:
        which = rng.randrange(len(addresses))
        address = addresses[which]
        answer = _exchange(address, _hostile_stream(rng))
        now = {child.name: child.process.pid for child in supervisor.children if child.process}
        assert now == first, f"a process did not survive what was sent to {address}"
        return f"{names[which]}: {answer}"

    try:
        yield case
    finally:
        turning.set()
        thread.join()
        code = supervisor.stop()
    assert code == 0, "the line did not stop in good order"
    _check_books(config)


def _config(folder: Path) -> Config:
    source: dict[str, Any] = {"kind": "synthetic", "part": "noise", "rate": 5, "width": 64, "height": 64}
    metrics = f"127.0.0.1:{free_port()}"
    plc = {"kind": "plc", "port": free_port(), "simulate": True}
    return parse(
        {
            "line": {"name": "fuzz", "runtime": str(folder / "run"), "data": str(folder / "data"), "metrics": metrics},
            "cameras": [{"name": "camera", "deadline_ms": 2000, "max_frame_mb": 0.1, "source": source}],
            "workers": {"bundle": "stub"},
            "sinks": [plc, {"kind": "store"}],
        }
    )


def _addresses(config: Config) -> list[Address]:
    """Return every socket that the line listens on."""
    files = [path for path in sorted(config.line.runtime.iterdir()) if path.is_socket() and path.name != "notify"]
    assert {link.name for link in LINKS} <= {path.name for path in files}, "a link is not there"
    ports = [sink.port for sink in config.sinks if sink.kind == "plc"] + [int(config.line.metrics.rsplit(":", 1)[1])]
    return [*map(str, files), *(("127.0.0.1", port) for port in ports)]


def _turn(supervisor: Supervisor, stop: threading.Event) -> None:
    while not stop.is_set():
        supervisor.turn(0.05)


def _hostile_stream(rng: Random) -> list[bytes]:
    """Return what is sent, piece by piece."""
    body = b"".join(_zmtp(part, more) for part, more in _with_more(hostile_parts(rng)))
    whole = rng.choice((GREETING + READY + body, GREETING + READY, GREETING, HTTP, MODBUS, b'{"command": "state"}\n'))
    match rng.randrange(4):
        case 0:
            return [rng.randbytes(rng.randrange(1, 2000))]
        case 1:
            return [damaged(whole, rng)]
        case 2:
            return [GREETING, READY, rng.randbytes(rng.randrange(1, 500))]
        case _:
            return [GREETING, READY, body, damaged(body, rng)]


def _with_more(parts: list[bytes]) -> Iterator[tuple[bytes, bool]]:
    for number, part in enumerate(parts):
        yield part, number < len(parts) - 1


def _zmtp(part: bytes, more: bool) -> bytes:
    """Return `part` as a frame of ZMTP 3."""
    long = len(part) > 255
    return bytes((more | 2 * long,)) + len(part).to_bytes(8 if long else 1, "big") + part


def _exchange(address: Address, pieces: list[bytes]) -> str:
    """Send; returns whether the peer answered, and whether it hung up on us."""
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    answered = False
    with socket.socket(family, socket.SOCK_STREAM) as peer:
        peer.settimeout(SECONDS)
        try:
            peer.connect(address)
            for piece in pieces:
                peer.sendall(piece)
            peer.shutdown(socket.SHUT_WR)
            while answer := peer.recv(65536):
                answered = answered or bool(answer)
        except TimeoutError:
            return "kept open"
        except OSError:
            return "hung up on"
    return "answered and closed" if answered else "closed"


def _check_books(config: Config) -> None:
    assert audit(config.journal_path).balanced, "the books do not balance"
    with contextlib.closing(sqlite3.connect(config.journal_path)) as db:
        found = db.execute("SELECT count(*) FROM outcomes WHERE verdict = 'PASS' AND part_id NOT LIKE '%:noise'")
        strangers = found.fetchone()[0]
    assert not strangers, f"{strangers} parts passed that no camera saw"
