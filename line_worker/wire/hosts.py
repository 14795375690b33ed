"""Is an address one of this host's? Shared memory ends where the host ends."""

from __future__ import annotations

import socket
from functools import lru_cache


def host_of(tcp: str) -> str:
    """Return the host of "host:port"."""
    return tcp.rsplit(":", 1)[0]


def is_loopback(host: str) -> bool:
    """Whether nobody but this host can reach `host`."""
    return host == "localhost" or host.startswith("127.")


@lru_cache(maxsize=256)
def is_here(host: str) -> bool:
    """Whether `host` (a name or an IPv4 address, "0.0.0.0" included) is this host; False when it has no address."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))  # allowed for our own addresses only
    except OSError:
        return False
    return True
