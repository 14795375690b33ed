"""Ports that nobody else takes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from line_worker import ports


def test_a_free_port_is_none_that_the_kernel_gives_to_outgoing_connections() -> None:
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(50):
        port = ports.free_port()
        assert 10_000 <= port < first_outgoing
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_is_taken_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", taken := ports.free_port())):
        turns = iter([taken, taken, free := ports.free_port()])
        monkeypatch.setattr(ports.secrets, "randbelow", lambda _: next(turns) - ports._LOWEST)
        assert ports.free_port() == free


@pytest.mark.parametrize("text", ["1024\t60999\n", None])
def test_where_outgoing_connections_may_have_any_port_the_kernel_chooses(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "range").write_text(text)
    monkeypatch.setattr(ports, "_OUTGOING", tmp_path / "range")
    with socket.create_server(("127.0.0.1", ports.free_port())) as server:
        assert server.getsockname()[1] >= 1024
