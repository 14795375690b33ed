"""The control socket: who asks gets an answer, and nobody, however hostile, holds up the hub."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from line_worker.errors import ConfigError, WireError
from line_worker.hub.control import MAX_CLIENTS, SILENT_S, ControlSocket
from line_worker.wire import control
from line_worker.wire.control import MAX_REQUEST, NAME, ask

PATIENCE_S = 10.0


def echo(word: str = "") -> dict[str, Any]:
    return {"word": word}


def refuse() -> dict[str, Any]:
    raise ConfigError("refuse", ["is never done"])


def large(size: int = 0) -> dict[str, Any]:
    return {"word": "x" * size}


class Rig:
    """A control socket with a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.control = ControlSocket(folder, {"echo": echo, "refuse": refuse, "large": large})
        self.path, self.now = folder / NAME, 100.0

    def connect(self) -> socket.socket:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(PATIENCE_S)
        client.connect(str(self.path))
        return client

    def poll(self, turns: int = 3) -> None:
        for _ in range(turns):
            self.control.poll(self.now)

    def say(self, client: socket.socket, data: bytes) -> bytes:
        client.sendall(data)
        self.poll()
        return client.recv(1 << 20)


@pytest.fixture
def rig(short_path: Path) -> Iterator[Rig]:
    rig = Rig(short_path)
    yield rig
    rig.control.close()
    assert not rig.path.exists()


def gone(client: socket.socket) -> bool:
    """Whether the hub has cut the connection."""
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_command_is_answered_and_logged_with_who_sent_it(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    with rig.connect() as client:
        assert json.loads(rig.say(client, b'{"command": "echo", "word": "hello"}\n')) == {"ok": True, "word": "hello"}
        assert json.loads(rig.say(client, b'{"command": "echo"}\n')) == {"ok": True, "word": ""}
    logged = capsys.readouterr().out
    assert f"uid={os.getuid()}" in logged
    assert f"pid={os.getpid()}" in logged


def test_only_owner_and_group_may_connect(rig: Rig) -> None:
    assert stat.S_IMODE(rig.path.stat().st_mode) == 0o660


def test_a_request_may_come_in_pieces_and_two_at_once(rig: Rig) -> None:
    with rig.connect() as client:
        client.sendall(b'{"command": ')
        rig.poll()
        client.sendall(b'"echo", "word": "a"}\n{"command": "echo", "word": "b"}\n')
        rig.poll(6)
        answers = client.recv(1 << 16).splitlines()
    assert [json.loads(answer)["word"] for answer in answers] == ["a", "b"]


@pytest.mark.parametrize(
    ("request_line", "error"),
    [
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "one JSON object"),
        (b"[" * 2000, "not JSON"),
        (b"{}", "'?' is no command; there are: echo, refuse, large"),
        (b'{"command": "halt"}', "'halt' is no command"),
        (b'{"command": ["echo"]}', "is no command"),
        (b'{"command": "echo", "colour": 1}', "unexpected keyword argument 'colour'"),
        (b'{"command": "echo", "event": 1}', "unexpected keyword argument 'event'"),
        (b'{"command": "refuse"}', "is never done"),
        (b'{"command": "large", "size": 1000000}', "1000"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words_and_the_client_stays(
    rig: Rig, request_line: bytes, error: str
) -> None:
    with rig.connect() as client:
        answer = json.loads(rig.say(client, request_line + b"\n"))
        assert answer["ok"] is False
        assert error in answer["error"]
        assert json.loads(rig.say(client, b'{"command": "echo"}\n'))["ok"] is True


def test_who_sends_too_much_is_cut(rig: Rig) -> None:
    with rig.connect() as client:
        client.sendall(b"x" * (MAX_REQUEST + 1))
        rig.poll()
        assert gone(client)


def test_who_says_nothing_or_never_ends_is_cut_in_time(rig: Rig) -> None:
    with rig.connect() as quiet, rig.connect() as trickling:
        for _ in range(10):
            trickling.sendall(b"x")
            rig.poll()
            rig.now += SILENT_S / 8
        assert gone(quiet)
        assert gone(trickling)


def test_who_does_not_read_its_answer_is_cut_and_holds_up_nobody(rig: Rig) -> None:
    with rig.connect() as deaf, rig.connect() as other:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(20):
            deaf.sendall(b'{"command": "large", "size": 200000}\n')
        begin = time.monotonic()
        rig.poll(40)
        assert json.loads(rig.say(other, b'{"command": "echo"}\n'))["ok"] is True
        assert time.monotonic() - begin < PATIENCE_S / 2, "nothing has waited for the deaf one"
        rig.now += SILENT_S + 0.1
        rig.poll()
        assert len(rig.control._clients) == 0


def test_a_crowd_waits_and_is_served_once_others_are_cut(rig: Rig) -> None:
    crowd = [rig.connect() for _ in range(MAX_CLIENTS)]
    rig.poll()
    with rig.connect() as operator:
        operator.sendall(b'{"command": "echo"}\n')
        rig.poll()
        assert len(rig.control._clients) == MAX_CLIENTS
        rig.now += SILENT_S + 0.1
        rig.poll()
        assert json.loads(operator.recv(1000))["ok"] is True
    for client in crowd:
        client.close()


def test_a_socket_left_by_a_killed_hub_is_replaced_and_a_folder_in_its_place_is_told(short_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(short_path / NAME))
    left.close()
    ControlSocket(short_path, {}).close()
    (short_path / NAME).mkdir()
    with pytest.raises(WireError, match="no operator could reach this hub"):
        ControlSocket(short_path, {})


def test_the_client_asks_and_tells_what_is_wrong(rig: Rig, short_path: Path) -> None:
    stop = threading.Event()

    def serve() -> None:
        while not stop.wait(0.005):
            rig.control.poll(time.monotonic())

    rig.now = time.monotonic()
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ask(short_path, "echo", word="ü")["word"] == "ü"
        assert len(ask(short_path, "large", size=200_000)["word"]) == 200_000
        with pytest.raises(WireError, match=r"refuse: the hub refuses it: (.|\n)*never done"):
            ask(short_path, "refuse")
    finally:
        stop.set()
        thread.join()


def test_without_a_hub_the_client_says_so(short_path: Path) -> None:
    with pytest.raises(WireError, match=r"no hub answers there.*echo was not carried out"):
        ask(short_path, "echo")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(short_path / NAME))
        deaf.listen()
        with pytest.raises(WireError, match="no hub answers there"):
            ask(short_path, "echo", timeout_s=0.1)


def test_the_path_fits_a_socket_in_the_longest_runtime_folder() -> None:
    from line_worker.config_problems import MAX_RUNTIME

    assert MAX_RUNTIME + 1 + len(control.NAME) <= 107
