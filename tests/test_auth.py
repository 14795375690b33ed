"""The fourteen authentication cases of the contract, each over real sockets with raw or real clients."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from line_worker.errors import KeysError
from line_worker.ports import free_port
from line_worker.wire import messages as m
from line_worker.wire.channels import Channel, Received, TcpChannel
from line_worker.wire.curve import DENIED, REFUSED, Credentials, Gate, Monitor, arm_client, arm_server, pair
from line_worker.wire.keys import create, read_public, read_secret, revoke
from line_worker.wire.links import FRAMES
from line_worker.wire.sockets import Wire

PATIENCE_S = 10.0
ALIVE = m.SourceAlive("cam", 1, 2, True, "")
Arm = Callable[["zmq.Socket[bytes]"], None]


class House:
    """A hub's frames link with keys, and the clients that try it. `elsewhere` holds keys it does not know."""

    def __init__(self, folder: Path) -> None:
        self.keys, self.elsewhere = folder / "keys", folder / "elsewhere"
        for name, role in (("hub", "hub"), ("source", "source"), ("worker", "worker")):
            create(self.keys, name, role, pair)
        create(self.elsewhere, "stranger", "source", pair)
        self.tcp = f"127.0.0.1:{free_port()}"
        self.runtime = folder
        self.context = zmq.Context()
        self.clients: list[zmq.Socket[bytes]] = []
        self.wires: list[Wire] = []
        self.wire = self.new_wire("hub")
        self.channel = self.wire.bind(FRAMES)
        assert self.wire.gate is not None
        self.gate: Gate = self.wire.gate

    def credentials(self, name: str, folder: Path | None = None) -> Credentials:
        own = read_secret((folder or self.keys) / f"{name}.secret")
        return Credentials(own, read_public(self.keys / "hub.public"), self.keys)

    def new_wire(self, name: str, folder: Path | None = None) -> Wire:
        self.wires.append(Wire(self.runtime, self.tcp, 1000, self.credentials(name, folder)))
        return self.wires[-1]

    def client(self, arm: Arm = lambda _: None, identity: bytes = b"", address: str = "") -> zmq.Socket[bytes]:
        """Return a raw socket that has just sent a well-formed message."""
        client: zmq.Socket[bytes] = self.context.socket(zmq.DEALER)
        client.setsockopt(zmq.LINGER, 0)
        if identity:
            client.setsockopt(zmq.IDENTITY, identity)
        arm(client)
        client.connect(address or f"tcp://{self.tcp}")
        client.send_multipart(m.to_parts(ALIVE))
        self.clients.append(client)
        return client

    def armed(self, name: str, folder: Path | None = None) -> Arm:
        return lambda client: arm_client(client, self.credentials(name, folder))

    def hear(self, done: Callable[[list[Received]], bool]) -> list[Received]:
        """Turn the hub's end until `done`; returns what it has received meanwhile."""
        found: list[Received] = []
        until = time.monotonic() + PATIENCE_S
        while not done(found):
            assert time.monotonic() < until, f"this never happens; denied: {dict(self.gate.denials.counts)}"
            self.wire.wait(0.02)
            found += self.channel.receive()
        return found

    def denied(self, cause: str) -> None:
        """Turn until somebody was denied for `cause`; nothing may have been heard."""
        before = self.gate.denials.counts[cause]
        assert self.hear(lambda _: self.gate.denials.counts[cause] > before) == []

    def heard(self, count: int = 1) -> list[Received]:
        return self.hear(lambda found: len(found) >= count)

    def close(self) -> None:
        for client in self.clients:
            client.close(linger=0)
        self.context.term()
        for wire in self.wires:
            wire.close()


@pytest.fixture
def house(short_path: Path) -> Iterator[House]:
    house = House(short_path)
    yield house
    house.close()


def test_the_right_key_comes_in_and_is_answered(house: House) -> None:
    client = house.client(house.armed("source"))
    [received] = house.heard()
    assert (received.message, received.away) == (ALIVE, False)
    assert house.channel.send(m.HubHello(1, 2, True), received.peer)
    assert client.poll(5000)


def test_no_key(house: House) -> None:
    def only_the_server_key(client: zmq.Socket[bytes]) -> None:
        arm_client(client, house.credentials("source"))
        client.curve_publickey = client.curve_secretkey = bytes(32)  # type: ignore[assignment]

    house.client(only_the_server_key)
    until = time.monotonic() + PATIENCE_S
    while not house.gate.denials.counts and time.monotonic() < until:
        house.wire.wait(0.02)
        assert not list(house.channel.receive())
    assert house.gate.denials.counts


def test_unknown_key(house: House) -> None:
    house.client(house.armed("stranger", house.elsewhere))
    house.denied("unknown key")


def test_revoked_key_on_a_new_connection(house: House) -> None:
    arm = house.armed("source")
    revoke(house.keys, "source")
    house.client(arm)
    house.denied("unknown key")


def test_revoked_key_on_an_open_connection(house: House) -> None:
    client = house.client(house.armed("source"))
    [received] = house.heard()
    revoke(house.keys, "source")
    house.hear(
        lambda _: (
            not house.gate.allowed.keys.keys()
            - {read_public(house.keys / n).public for n in ("hub.public", "worker.public")}
        )
    )
    client.send_multipart(m.to_parts(ALIVE))
    house.denied("revoked key")
    assert not house.channel.send(m.HubHello(1, 2, True), received.peer), "it is told nothing any more"


def test_key_of_the_wrong_role(house: House) -> None:
    house.client(house.armed("worker"))
    house.denied("role")


def test_wrong_server_key(house: House) -> None:
    stranger = read_public(house.elsewhere / "stranger.public")

    def arm(client: zmq.Socket[bytes]) -> None:
        arm_client(client, Credentials(house.credentials("source").own, stranger, house.keys))

    house.client(arm)
    house.denied("handshake")


def test_null_mechanism(house: House) -> None:
    house.client()
    house.denied("handshake")


def test_plain_mechanism(house: House) -> None:
    def arm(client: zmq.Socket[bytes]) -> None:
        client.plain_username, client.plain_password = b"admin", b"admin"

    house.client(arm)
    house.denied("handshake")


def test_no_handler_running(house: House) -> None:
    """Without ZAP_ENFORCE_DOMAIN libzmq would let everybody in here."""
    context: Any = zmq.Context()
    with context, context.socket(zmq.ROUTER) as server:
        server.setsockopt(zmq.LINGER, 0)
        arm_server(server, FRAMES, read_secret(house.keys / "hub.secret"))
        port = server.bind_to_random_port("tcp://127.0.0.1")
        monitor = Monitor(server, DENIED)
        house.client(house.armed("source"), address=f"tcp://127.0.0.1:{port}")
        _until(lambda: monitor.seen())
        assert not server.poll(50)
        monitor.close()


def test_handler_for_another_domain(house: House) -> None:
    with house.wire._context.socket(zmq.ROUTER) as server:
        server.setsockopt(zmq.LINGER, 0)
        arm_server(server, FRAMES, read_secret(house.keys / "hub.secret"))
        server.setsockopt(zmq.ZAP_DOMAIN, b"another")
        port = server.bind_to_random_port("tcp://127.0.0.1")
        house.client(house.armed("source"), address=f"tcp://127.0.0.1:{port}")
        house.denied("domain")
        assert not server.poll(50)


def test_a_handler_that_dies_is_restarted_and_meanwhile_nobody_new_comes_in(house: House) -> None:
    old = house.client(house.armed("source"))
    house.heard()
    house.gate.socket.close(linger=0)
    new = house.client(house.armed("source"))
    refused = Monitor(new, REFUSED | zmq.EVENT_DISCONNECTED)
    _until(lambda: refused.seen())
    old.send_multipart(m.to_parts(m.SourceBye("cam", 1, 2)))
    _until(lambda: house.channel.socket.poll(20))
    assert [r.message for r in house.channel.receive()] == [m.SourceBye("cam", 1, 2)], "who is in goes on"
    refused.close()
    assert [r.message for r in house.heard()] == [ALIVE], "the gate has come back, and lets the new one in"
    assert house.gate.restarts == 1


@pytest.mark.parametrize(
    "parts", [[], [b""], [b"", b"1.0"], [b"", *[b"\xff" * 300] * 9], [b"x", b"1.0", b"1", *[b""] * 5]]
)
def test_a_malformed_request_does_not_kill_the_handler(house: House, parts: list[bytes]) -> None:
    with house.wire._context.socket(zmq.DEALER) as odd:
        odd.setsockopt(zmq.LINGER, 0)
        odd.connect("inproc://zeromq.zap.01")
        odd.send_multipart(parts or [b""])
        house.hear(lambda _: bool(house.gate.denials.counts))
    house.client(house.armed("source"))
    house.heard()
    assert house.gate.restarts == 0


def test_a_client_refused_once_and_then_authorised(house: House) -> None:
    channel = house.new_wire("stranger", house.elsewhere).connect(FRAMES, "s")
    first = channel.socket
    house.hear(lambda _: bool(channel.send(ALIVE) or house.gate.denials.counts["unknown key"]))
    shutil.copy2(house.elsewhere / "stranger.public", house.keys)
    found = house.hear(lambda found: bool(found) or (channel.send(ALIVE) and False))
    assert found[0].message == ALIVE
    assert channel.socket is not first, "ZeroMQ never connects again after a refusal: the socket is a new one"


def test_a_duplicate_routing_id_takes_nothing_over(house: House) -> None:
    first = house.client(house.armed("source"), b"same")
    house.heard()
    second = house.client(house.armed("source"), b"same")
    second.send_multipart(m.to_parts(m.SourceBye("cam", 9, 9)))
    for seq in range(20):
        first.send_multipart(m.to_parts(m.SourceBye("cam", 1, seq)))
        [received] = house.heard()
        assert received.message == m.SourceBye("cam", 1, seq)
        assert house.channel.send(m.FrameDone("cam", 1, (seq,)), received.peer)
    _until(lambda: first.poll(20))
    assert not second.poll(50), "what is meant for the first never reaches the second"


def test_rotation_with_both_keys_valid(house: House) -> None:
    old = house.client(house.armed("source"), b"old")
    house.heard()
    create(house.keys, "source-2", "source", pair)
    new = house.client(house.armed("source-2"), b"new")
    house.heard()
    for client in (old, new):
        client.send_multipart(m.to_parts(ALIVE))
    assert {received.peer for received in house.heard(2)} == {b"old", b"new"}
    revoke(house.keys, "source")
    house.hear(lambda _: len(house.gate.allowed.keys) == 3)
    for client in (old, new):
        client.send_multipart(m.to_parts(ALIVE))
    found = house.hear(lambda found: bool(found) and house.gate.denials.counts["revoked key"] > 0)
    assert [received.peer for received in found] == [b"new"]


# ---- around them -----------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_made_anew_under_another_identity(house: House) -> None:
    channel: Channel = house.new_wire("source").connect(FRAMES, "source")
    assert isinstance(channel, TcpChannel)
    first = house.hear(lambda found: bool(found) or (channel.send(ALIVE) and False))[0].peer
    house.wire.close()
    house.wire = house.new_wire("hub")
    house.channel = house.wire.bind(FRAMES)
    assert house.wire.gate is not None
    house.gate = house.wire.gate
    again = house.hear(lambda found: bool(found) or (channel.send(ALIVE) and False))[0].peer
    assert again.startswith(b"source-")
    assert again != first


def test_denials_are_counted_each_and_told_once_a_second(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(50):
        house.gate.denials.note("unknown key", why="w", address="a")
    assert house.gate.denials.counts["unknown key"] == 50
    assert capsys.readouterr().out.count("denied") <= 3


def test_who_binds_needs_the_hubs_secret(house: House) -> None:
    (house.keys / "hub.secret").unlink()
    with pytest.raises(KeysError, match=r"hub\.secret: is missing"):
        house.new_wire("source").bind(FRAMES)


def _until(ready: Callable[[], Any]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not ready():
        assert time.monotonic() < end, "this never happens"
        time.sleep(0.005)
