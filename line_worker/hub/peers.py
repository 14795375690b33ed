"""The peers of one link, as the hub sees them: who is greeted, who is refused, and who is cut.

Cut is who sends `STRIKES` malformed messages or floods: what it sends from then on is dropped unread, until it connects
anew. An announcement that is malformed, but says which part it is about, decides that part: NO_DECISION(HEADER). The
same befalls a picture in shared memory that another host announces.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator

import structlog

from line_worker.errors import DecodeError
from line_worker.hub.flood import Allowance
from line_worker.hub.station import Station
from line_worker.wire.messages import Frame, HubHello, Message, Refused, without_picture
from line_worker.wire.sockets import Channel, Received

log = structlog.get_logger()

STRIKES = 3  # malformed messages before a peer is cut
REMEMBERED = 256  # peers whose strikes and messages are counted; every connection is a new peer
RING_AWAY = 'shared memory does not reach this host; give the camera transport = "inline" on every host'


class Peers:
    """The hub's end of one link. `instance` tells this hub from the one before it."""

    def __init__(self, channel: Channel, instance: int, station: Station) -> None:
        self.channel = channel
        self._instance, self._station = instance, station
        self._strikes: Counter[bytes] = Counter()
        self._allowances: dict[bytes, Allowance] = {}
        self.counts: Counter[str] = Counter()  # what was refused, by cause

    def receive(self) -> Iterator[tuple[bytes, Message]]:
        """Yield what has arrived from peers in good standing."""
        now = time.monotonic()
        for received in self.channel.receive():
            if not self._allowance(received.peer, now).take(now):
                self._flooded(received.peer)
                continue
            message = self._usable(received)
            if message is not None:
                yield received.peer, message

    def greet(self, peer: bytes, *, known: bool = True) -> bool:
        """Tell `peer` who and in what state we are; False when it is gone. A peer not `known` says hello again."""
        return self.channel.send(HubHello(self._instance, int(self._station.state), known), peer)

    def refuse(self, peer: bytes, why: str, old_epoch: int = 0) -> None:
        """Tell `peer` why its messages are not taken; `old_epoch` is the one that a source must end."""
        self.channel.send(Refused(why, old_epoch), peer)

    def charge(self, peer: bytes, cost: float) -> None:
        """A message has come that a correct peer would not have sent."""
        self._allowance(peer, time.monotonic()).charge(cost)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _usable(self, received: Received) -> Message | None:
        """Return the message, or what is left of it."""
        message = received.message
        if isinstance(message, DecodeError):
            self._strike(received.peer, message)
            return received.damaged
        if received.away and isinstance(message, Frame) and message.place == "ring":
            if not self.counts["ring away"]:
                log.error("frames refused", camera=message.key.camera, why=RING_AWAY)
            self.counts["ring away"] += 1
            self.refuse(received.peer, f"camera {message.key.camera}: {RING_AWAY}")
            return without_picture(message.key)
        return message

    def _allowance(self, peer: bytes, now: float) -> Allowance:
        found = self._allowances.get(peer)
        if found is None:
            found = self._allowances[peer] = Allowance(now)
            while len(self._allowances) > REMEMBERED:
                del self._allowances[next(iter(self._allowances))]
        return found

    def _flooded(self, peer: bytes) -> None:
        self.counts["flood"] += 1
        if self._allowances[peer].used_up:
            self._cut(peer, "it floods")

    def _strike(self, peer: bytes, error: DecodeError) -> None:
        self.counts["malformed"] += 1
        self._strikes[peer] += 1
        log.warning("message refused", link=self.channel.link.name, peer=repr(peer), error=str(error))
        if self._strikes[peer] >= STRIKES:
            self._cut(peer, f"{STRIKES} malformed messages")
        while len(self._strikes) > REMEMBERED:
            del self._strikes[next(iter(self._strikes))]

    def _cut(self, peer: bytes, why: str) -> None:
        self.counts["cut"] += 1
        log.error("peer is cut", link=self.channel.link.name, peer=repr(peer), why=why)
        self.channel.mute(peer)
        self.refuse(peer, f"{why}: this connection is no longer heard")
