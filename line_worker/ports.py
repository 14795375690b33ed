"""A port of this machine for what we start here ourselves: demo, drill, benches, and their peers."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path

_LOWEST = 10_000
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_TRIES = 1000


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of `host` on which nothing listens.

    It is below those that the kernel hands out to outgoing connections: one of them would have the port before the
    server that it was looked for, and a client that calls a server which is away could reach itself.
    """
    try:
        end = int(_OUTGOING.read_text().split()[0])
    except OSError:
        end = 32_768
    for _ in range(_TRIES if end > _LOWEST else 0):
        port = _LOWEST + secrets.randbelow(end - _LOWEST)  # tests side by side seed `random` alike
        if _is_free(host, port):
            return port
    with socket.create_server((host, 0)) as found:
        return int(found.getsockname()[1])


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True
