"""The NATS sink against Debian's nats-server: ids, outages, TLS, passwords; and a line whose server is down."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from broker_line import HOST, serve, sink_of
from line_worker.errors import ConfigError, SinkError
from line_worker.ports import free_port
from mqtt_broker import certificate
from plc_station import outcome, wait_for
from stopping import send_signal

nats = pytest.importorskip("nats", reason="nats-py is missing: pip install 'line-worker[nats]'")
SERVER = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = pytest.mark.skipif(SERVER is None, reason="nats-server is missing: apt-get install nats-server")


@dataclass
class Server:
    """A server that keeps what it has stored, also when it is killed."""

    folder: Path
    more: str = ""
    jetstream: bool = True
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        self.port = self.port or free_port()
        self.folder.mkdir(exist_ok=True)
        kept = f'jetstream {{ store_dir: "{self.folder}/kept" }}' if self.jetstream else ""
        (self.folder / "nats.conf").write_text(f"host: {HOST}\nport: {self.port}\n{kept}\n{self.more}\n")
        command = [str(SERVER), "-c", str(self.folder / "nats.conf")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self._listens)
        return self

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection((HOST, self.port), timeout=1):
            return True
        return False

    def send(self, what: signal.Signals) -> None:
        assert self.process is not None
        send_signal(self.process.pid, what)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def messages(self, stream: str = "line-worker") -> list[tuple[str, str, dict[str, Any]]]:
        """Return what the stream has stored: subject, id, message."""
        return asyncio.run(self._messages(stream))

    async def _messages(self, stream: str) -> list[tuple[str, str, dict[str, Any]]]:
        client = await nats.connect(f"nats://{HOST}:{self.port}", allow_reconnect=False)
        js, found = client.jetstream(), []
        try:
            state = (await js.stream_info(stream)).state
            for number in range(max(1, state.first_seq), state.last_seq + 1):
                raw = await js.get_msg(stream, number)
                found.append((raw.subject, raw.headers["Nats-Msg-Id"], json.loads(raw.data)))
        except nats.js.errors.NotFoundError:
            return []  # there is no such stream yet
        finally:
            await client.close()
        return found

    def seqs(self) -> list[int]:
        return [int(message["MeasId"]["Id"]) for _, _, message in self.messages()]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "nats").start()
    yield running
    running.kill()


def settings(server: Server, **more: Any) -> dict[str, Any]:
    return {"kind": "nats", "servers": [f"{HOST}:{server.port}"]} | more


@pytest.fixture
def sink(server: Server) -> Iterator[Any]:
    found = sink_of(settings(server), {"kind": "store", "path": "/var/store"})
    found.open()
    yield found
    found.close()


def test_an_outcome_is_stored_with_its_id_and_pictures_by_reference(server: Server, sink: Any) -> None:
    sink.deliver(outcome(3, reason=1), 0.0)
    sink.deliver(outcome(4), 0.0)
    sink.settle()
    (subject, identity, failed), (_, _, passed) = server.messages()
    assert (subject, identity) == ("line-worker.line-1.top", "line-1/top/7/3")
    assert (failed["ResultId"], failed["PartId"]) == ({"Id": identity}, {"Id": "part-3"})
    pictures = {"Host": socket.gethostname(), "Folder": "/var/store", "Files": "crops/top/7/3-*.png"}
    assert failed["Pictures"] == pictures
    assert "Pictures" not in passed


def test_what_is_sent_again_is_stored_once_also_by_another_process(server: Server, sink: Any) -> None:
    for found in (sink, sink_of(settings(server))):
        found.open()
        for seq in (0, 1, 2, 1):
            found.deliver(outcome(seq), 0.0)
        found.settle()
        found.close()
    assert server.seqs() == [0, 1, 2]


def test_it_keeps_up_with_200_outcomes_a_second(server: Server, sink: Any) -> None:
    start = time.monotonic()
    for seq in range(400):
        sink.deliver(outcome(seq), 0.0)
    sink.settle()
    assert time.monotonic() - start < 2
    assert len(server.seqs()) == 400


def test_a_server_that_was_killed_and_restarted_has_everything(server: Server, sink: Any) -> None:
    sink.deliver(outcome(0), 0.0)
    sink.settle()
    server.kill()
    wait_for(lambda: not sink.reachable()[0])
    assert "the connection was lost" in sink.reachable()[1]
    with pytest.raises(SinkError, match=rf"NATS server {HOST}:{server.port}: cannot be used .*stay with the hub"):
        sink.deliver(outcome(1), 0.0)
    sink.poll(time.monotonic())
    server.start()
    wait_for(lambda: sink.poll(time.monotonic() + 60) is None and sink.reachable() == (True, ""))
    sink.deliver(outcome(1), 0.0)
    sink.settle()
    assert server.seqs() == [0, 1]


def test_a_server_that_stands_still_stores_nothing_and_nothing_counts(
    server: Server, sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CONFIRM_S", "CONNECT_S"):
        monkeypatch.setattr(f"line_worker.sink.nats.stream.{name}", 0.5)
    server.send(signal.SIGSTOP)
    sink.deliver(outcome(0), 0.0)
    with pytest.raises(SinkError, match="has not stored everything within"):
        sink.settle()
    with pytest.raises(SinkError, match=r"does not answer within|cannot be used"):
        sink.deliver(outcome(0), 0.0)
    server.send(signal.SIGCONT)
    monkeypatch.setattr("line_worker.sink.nats.stream.CONNECT_S", 3.0)
    sink.deliver(outcome(0), 0.0)
    sink.settle()
    assert server.seqs() == [0]


@pytest.mark.long
def test_a_line_whose_server_is_down_for_a_while_loses_nothing(server: Server, short_path: Path) -> None:
    process = serve(short_path, f'kind = "nats"\nservers = ["{HOST}:{server.port}"]', 100)
    try:
        wait_for(lambda: len(server.messages()) > 20, 60)
        server.send(signal.SIGTERM)  # killed, a single server may lose what it has said to have stored a moment ago
        time.sleep(1.0)
        assert process.poll() is None
        server.kill()
        server.start()
        _, told = process.communicate(timeout=60)
        assert process.returncode == 0, told[-2000:]
        assert sorted(server.seqs()) == list(range(100))
    finally:
        process.kill()
        process.communicate()


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_server_without_jetstream_is_said_so(tmp_path: Path) -> None:
    server = Server(tmp_path / "nats", jetstream=False).start()
    found = sink_of(settings(server))
    try:
        with pytest.raises(SinkError, match=r"cannot be used .*check .* that JetStream is on"):
            found.open()
    finally:
        found.close()
        server.kill()


def test_attempts_to_open_leave_nothing_behind() -> None:
    found = sink_of({"kind": "nats", "servers": [f"{HOST}:{free_port()}"]})
    for _ in range(3):
        with pytest.raises(SinkError, match="cannot be used"):
            found.open()
    assert [thread.name for thread in threading.enumerate()].count("nats") == 1
    found.close()
    assert "nats" not in [thread.name for thread in threading.enumerate()]


def test_a_stream_that_is_there_for_others_is_left_alone(server: Server) -> None:
    async def make() -> None:
        client = await nats.connect(f"nats://{HOST}:{server.port}")
        await client.jetstream().add_stream(name="taken", subjects=["others.>"])
        await client.close()

    asyncio.run(make())
    found = sink_of(settings(server, stream="taken"))
    found.open()
    found.deliver(outcome(0), 0.0)
    with pytest.raises(SinkError, match=r"has not stored everything .*check that stream taken takes line-worker\.>"):
        found.settle()
    found.close()
    assert not server.messages("taken")


def test_a_wrong_password_is_said_so(tmp_path: Path) -> None:
    server = Server(tmp_path / "nats", "authorization { user: station, password: right }").start()
    secret = tmp_path / "secret"
    try:
        for word, says in (("wrong", "cannot be used .*check its .*username"), ("right", "")):
            secret.unlink(missing_ok=True)
            secret.write_text(word)
            secret.chmod(0o400)
            found = sink_of(settings(server, username="station", password_file=str(secret)))
            if says:
                with pytest.raises(SinkError, match=says):
                    found.open()
            else:
                found.open()
                assert found.reachable() == (True, "")
            found.close()
    finally:
        server.kill()


def test_over_tls_only_to_the_name_in_the_certificate(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, ["localhost"])
    server = Server(tmp_path / "nats", f'tls {{ cert_file: "{cert}", key_file: "{key}" }}').start()
    try:
        for host, says in (("localhost", ""), (HOST, "certificate")):
            found = sink_of(settings(server, servers=[f"{host}:{server.port}"], tls=True, ca=str(cert)))
            if says:
                with pytest.raises(SinkError, match=says):
                    found.open()
            else:
                found.open()
                found.deliver(outcome(0), 0.0)
                found.settle()
            found.close()
    finally:
        server.kill()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"servers": []}, "at least one must be given"),
        ({"servers": ["broker"]}, "should match"),
        ({"stream": "a.b"}, "stream = 'a.b'"),
        ({"prefix": "a.>"}, "prefix = 'a.>'"),
        ({"ca": "ca.pem"}, "ca and certificate are of no use without tls = true"),
        (
            {"servers": ["nats.plant:4222"], "username": "u", "password_file": "p"},
            "the password would cross the network in the clear",
        ),
    ],
)
def test_what_it_may_not_be(more: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as problem:
        sink_of({"kind": "nats"} | more)
    assert says in str(problem.value)


def test_without_nats_py_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "line_worker.sink.nats.stream", None)
    with pytest.raises(SinkError, match=r"pip install line-worker\[nats\]"):
        sink_of({"kind": "nats"}).open()
