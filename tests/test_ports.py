"""Ports that nobody else takes."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from line_worker import ports


@pytest.fixture
def outgoing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return the file that names the kernel's range, so that it is the same on every machine."""
    file = tmp_path / "range"
    file.write_text("20000\t60999\n")
    monkeypatch.setattr(ports, "_OUTGOING", file)
    return file


def test_a_free_port_is_none_that_the_kernel_gives_to_outgoing_connections(outgoing: Path) -> None:
    for _ in range(50):
        port = ports.free_port()
        assert 10_000 <= port < 20_000
        socket.create_server(("127.0.0.1", port)).close()


def test_a_port_that_is_taken_is_passed_over(outgoing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", taken := ports.free_port())):
        turns = iter([taken, taken, free := ports.free_port()])
        monkeypatch.setattr(ports.secrets, "randbelow", lambda _: next(turns) - ports._LOWEST)
        assert ports.free_port() == free


def test_where_outgoing_connections_may_have_every_port_the_kernel_chooses_one(
    outgoing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outgoing.write_text("1024\t65535\n")
    monkeypatch.setattr(ports, "_is_free", lambda *_: pytest.fail("there is none to try"))
    socket.create_server(("127.0.0.1", ports.free_port())).close()


def test_without_a_word_of_the_kernel_its_usual_range_is_kept_clear_of(outgoing: Path) -> None:
    outgoing.unlink()
    assert all(10_000 <= ports.free_port() < 32_768 for _ in range(50))
