"""Opens the links of one line with the rules of SEMANTICS on every socket.

ROUTER_MANDATORY on, ROUTER_HANDOVER off, IMMEDIATE on connectors, message sizes and queues bounded, LINGER 0 except a
bounded flush on an orderly stop. With keys (see `curve`) every end is a CURVE one, in a named ZAP domain that is
enforced.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import zmq

from line_worker.errors import AlreadyRunning, WireError
from line_worker.wire.channels import Channel as Channel
from line_worker.wire.channels import FileChannel, GuardedChannel, TcpChannel
from line_worker.wire.channels import Received as Received
from line_worker.wire.curve import Credentials, Gate, arm_client, arm_server
from line_worker.wire.links import SLACK_BYTES, Link, endpoint, reachable

HEARTBEAT_MS = (1000, 3000)  # over TCP: how often a peer's I/O thread is asked, and when it counts as gone
HANDSHAKE_MS = 3000


class Wire:
    """Opens the links of one line for one process.

    `runtime` is the folder (mode 0750) that holds the sockets; `tcp` ("host:port") replaces them by ports, with
    `credentials` by encrypted ones. `frame_bytes` bounds the pixels of one message.
    """

    def __init__(
        self, runtime: Path, tcp: str = "", frame_bytes: int = 0, credentials: Credentials | None = None
    ) -> None:
        self._runtime, self._tcp, self._frame_bytes, self._credentials = runtime, tcp, frame_bytes, credentials
        self._context = zmq.Context()
        self._poller = zmq.Poller()
        self._channels: list[Channel] = []
        self.gate: Gate | None = None

    def bind(self, link: Link, high_water: int = 0) -> Channel:
        """Open the binding end of `link`; when that fails every channel is closed.

        `high_water` (default: the link's) is how many messages of one peer may wait here; those beyond it wait there.

        Raises:
            AlreadyRunning: the endpoint is taken.
            KeysError: the hub's secret key cannot be used.
            WireError: it cannot be bound at all.
        """
        server = self._credentials.server() if self._credentials else None
        socket = self._socket(zmq.PULL if link.lossy else zmq.ROUTER, link)
        socket.setsockopt(zmq.RCVHWM, high_water or link.high_water)
        if not link.lossy:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if server is not None:
            arm_server(socket, link, server)
            self._open_gate().watch(socket)
        address = endpoint(link, self._runtime, self._tcp)
        try:
            socket.bind(address)
        except zmq.ZMQError as error:
            socket.close(linger=0)
            self.close()
            raise _not_bound(address, error) from error
        return self._keep(self._bound(link, socket))

    def connect(self, link: Link, name: str) -> Channel:
        """Open a connecting end of `link`; it identifies itself as `name` plus something new at every call."""
        if self._tcp:
            channel: Channel = TcpChannel(link, lambda: self._connected(link, name), self._poller)
            self._channels.append(channel)
            return channel
        return self._keep(Channel(link, self._connected(link, name), routed=False))

    def wait(self, timeout_s: float) -> bool:
        """See to the connections, then sleep until something arrives on any channel, at most `timeout_s`.

        Returns whether something had been waiting already.
        """
        if self.gate is not None:
            self.gate.turn()
        for channel in self._channels:
            channel.turn()
        waiting = bool(self._poller.poll(0))
        if not waiting:
            self._poller.poll(max(0, math.ceil(timeout_s * 1000)))
        return waiting

    def close(self, flush_s: float = 0.0) -> None:
        """Close every channel; messages on their way out get at most `flush_s` seconds."""
        if self.gate is not None:
            self.gate.close()
        for channel in self._channels:
            channel.close(flush_s)
        self._context.term()

    # ---- inside -------------------------------------------------------------------------------------------------

    def _connected(self, link: Link, name: str) -> zmq.Socket[bytes]:
        socket = self._socket(zmq.PUSH if link.lossy else zmq.DEALER, link)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 20)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
        if not link.lossy:
            # a fresh identity: a restarted peer must not be mistaken for the old one, whose queue may still exist
            socket.setsockopt(zmq.IDENTITY, f"{name}-{os.urandom(6).hex()}".encode())
        if self._credentials is not None:
            arm_client(socket, self._credentials)
        socket.connect(endpoint(link, self._runtime, reachable(self._tcp)))
        return socket

    def _socket(self, kind: int, link: Link) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(kind)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, link.high_water)
        socket.setsockopt(zmq.RCVHWM, link.high_water)
        socket.setsockopt(zmq.MAXMSGSIZE, link.frames * self._frame_bytes + SLACK_BYTES)
        if self._tcp:
            socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS[0])
            socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_MS[1])
            socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        return socket

    def _open_gate(self) -> Gate:
        if self.gate is None:
            assert self._credentials is not None
            self.gate = Gate(self._context, self._credentials.folder, self._poller)
        return self.gate

    def _bound(self, link: Link, socket: zmq.Socket[bytes]) -> Channel:
        if self.gate is not None:
            return GuardedChannel(link, socket, not link.lossy, self.gate)
        if self._tcp:
            return Channel(link, socket, routed=not link.lossy)
        return FileChannel(link, socket, not link.lossy, self._runtime / link.name)

    def _keep(self, channel: Channel) -> Channel:
        self._channels.append(channel)
        if channel.socket.type != zmq.PUSH:
            self._poller.register(channel.socket, zmq.POLLIN)
        return channel


def _not_bound(address: str, error: zmq.ZMQError) -> AlreadyRunning | WireError:
    if error.errno == zmq.EADDRINUSE:
        return AlreadyRunning(
            f"{address}: is taken by another process, so this one does not start; stop the other instance of this "
            "line, or give this one its own line.runtime or line.tcp"
        )
    return WireError(
        f"{address}: cannot be bound ({error}), so nothing can reach this process; check the folder and its "
        "permissions, or that line.tcp is an address of this host"
    )
