"""CURVE and ZAP on real sockets: keys are made, ends are armed, and the gate decides who comes in.

The gate is turned by the loop of the process that binds, in no thread of its own: what stops it stops the process, and
is noticed. A request that is none is dropped; a gate whose socket fails opens a new one; while there is none nobody
new comes in (ZAP_ENFORCE_DOMAIN), and who is in goes on. Every message is checked again, so a revoked key is heard no
more, and nothing is sent to it. What is denied is counted, and told at most once a second.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import structlog
import zmq
from zmq.utils.monitor import parse_monitor_message

from line_worker.wire import zap
from line_worker.wire.keys import AllowList, Key, Secret, fingerprint, read_secret
from line_worker.wire.links import Link

log = structlog.get_logger()

ZAP = "inproc://zeromq.zap.01"
LOOK_S = 0.25  # how often the allow-list's folder is looked at
TOLD_S = 1.0
AT_ONCE = 64  # requests in one turn
DENIED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL  # before anybody is asked
REFUSED = DENIED | zmq.EVENT_HANDSHAKE_FAILED_AUTH


@dataclass(frozen=True, slots=True)
class Credentials:
    """What one process needs: its own key, the hub's public key, and the folder that says who else may speak."""

    own: Secret
    hub: Key
    folder: Path

    def server(self) -> Secret:
        """Return the hub's secret key: who binds answers with it."""
        return self.own if self.own.key.role == "hub" else read_secret(self.folder / f"{self.hub.name}.secret", "hub")


def pair() -> tuple[str, str]:
    """Return a new public and secret key, in Z85."""
    public, secret = zmq.curve_keypair()
    return public.decode("ascii"), secret.decode("ascii")


def arm_server(socket: zmq.Socket[bytes], link: Link, server: Secret) -> None:
    """Let only CURVE clients in that the gate admits to `link`; without a gate nobody."""
    socket.curve_server = True
    socket.curve_publickey = server.key.public.encode()
    socket.curve_secretkey = server.secret.encode()
    socket.setsockopt(zmq.ZAP_DOMAIN, zap.domain_of(link.name).encode())
    socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def arm_client(socket: zmq.Socket[bytes], credentials: Credentials) -> None:
    """Speak with our own key, and only to who holds the hub's."""
    socket.curve_publickey = credentials.own.key.public.encode()
    socket.curve_secretkey = credentials.own.secret.encode()
    socket.curve_serverkey = credentials.hub.public.encode()


class Monitor:
    """What happens to the connections of one socket; `events` is a mask of zmq.EVENT_*."""

    def __init__(self, socket: zmq.Socket[bytes], events: int) -> None:
        address = f"inproc://line-worker-monitor-{id(self)}-{time.monotonic_ns()}"
        self._watched = socket
        socket.monitor(address, events)
        self.socket: zmq.Socket[bytes] = socket.context.socket(zmq.PAIR)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.RCVHWM, 0)  # a full monitor would stop the I/O thread
        self.socket.connect(address)

    def seen(self) -> list[int]:
        """Return the events since the last call."""
        events = []
        while self.socket.poll(0):
            events.append(int(parse_monitor_message(self.socket.recv_multipart(zmq.NOBLOCK))["event"]))
        return events

    def close(self) -> None:
        """Stop watching; before the watched socket is closed."""
        if not self._watched.closed:
            self._watched.monitor(None, 0)
        self.socket.close(linger=0)


class Denials:
    """Counts what was denied, by cause, and logs it, once a second at most."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._told_at, self._untold = float("-inf"), 0

    def note(self, cause: str, **details: str) -> None:
        """One more."""
        self.counts[cause] += 1
        now = time.monotonic()
        if now - self._told_at < TOLD_S:
            self._untold += 1
            return
        log.warning("denied", cause=cause, **details, untold=self._untold, total=self.counts.total())
        self._told_at, self._untold = now, 0


class Gate:
    """The ZAP handler of one context."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], folder: Path, poller: zmq.Poller) -> None:
        self._context, self._poller = context, poller
        self.allowed = AllowList(folder)
        self.denials = Denials()
        self.restarts = 0
        self._monitors: list[Monitor] = []
        self._look_at = 0.0
        self.socket = self._open()
        self.turn()

    def turn(self) -> None:
        """Look at the folder, answer who asks, note who was turned away before asking."""
        self._look(time.monotonic())
        try:
            for _ in range(AT_ONCE):
                self._answer(self.socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            pass
        except zmq.ZMQError as error:
            log.warning("gate has failed and is opened again", error=str(error))
            self._shut()
            self.socket, self.restarts = self._open(), self.restarts + 1
        for monitor in self._monitors:
            for _ in monitor.seen():
                self.denials.note("handshake", why="not CURVE, or not for this hub's key")

    def may(self, user: str, role: str, link: str) -> bool:
        """Whether a message of `user` (the public key it was admitted with) still counts."""
        if self.allowed.may(user, role):
            return True
        self.denials.note("revoked key", key=fingerprint(user), link=link)
        return False

    def watch(self, socket: zmq.Socket[bytes]) -> None:
        """Note who fails the handshake with a binding socket."""
        self._monitors.append(Monitor(socket, DENIED))

    def close(self) -> None:
        """Admit nobody any more; before the watched sockets are closed."""
        for monitor in self._monitors:
            monitor.close()
        self._monitors.clear()
        self._shut()

    def _open(self) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.bind(ZAP)
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def _shut(self) -> None:
        if self.socket in self._poller:
            self._poller.unregister(self.socket)
        self.socket.close(linger=0)

    def _look(self, now: float, *, at_once: bool = False) -> None:
        if now - self._look_at < LOOK_S and not at_once:
            return
        self._look_at = now
        if self.allowed.look():
            names = sorted(key.name for key in self.allowed.keys.values())
            log.info("allow-list", keys=names, problems=self.allowed.problems)

    def _answer(self, parts: list[bytes]) -> None:
        envelope, request = parts[:2], zap.decode(parts[2:])
        if request is None:
            self.denials.note("malformed request")
            return
        self._look(time.monotonic(), at_once=True)  # whoever has just been added need not be refused first
        admission = zap.admit(request, self.allowed.keys)
        if admission.code != 200:
            self.denials.note(admission.cause, why=admission.why, address=request.address, domain=request.domain)
        self.socket.send_multipart([*envelope, *zap.encode(request, admission)], zmq.NOBLOCK)
