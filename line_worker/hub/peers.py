"""The peers of one link, as the hub sees them: who is greeted, who is refused, and who is cut for sending rubbish."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import structlog

from line_worker.errors import DecodeError
from line_worker.hub.station import Station
from line_worker.wire.messages import HubHello, Message, Refused
from line_worker.wire.sockets import Channel

log = structlog.get_logger()

STRIKES = 3  # malformed messages before a peer is cut
REMEMBERED = 256  # peers whose strikes are kept; every connection is a new peer


class Peers:
    """The hub's end of one link. `instance` tells this hub from the one before it."""

    def __init__(self, channel: Channel, instance: int, station: Station) -> None:
        self.channel = channel
        self._instance, self._station = instance, station
        self._strikes: Counter[bytes] = Counter()

    def receive(self) -> Iterator[tuple[bytes, Message]]:
        """Yield what has arrived from peers in good standing."""
        for received in self.channel.receive():
            if self._strikes and self._strikes[received.peer] >= STRIKES:
                continue
            if isinstance(received.message, DecodeError):
                self._strike(received.peer, received.message)
            else:
                yield received.peer, received.message

    def greet(self, peer: bytes, *, known: bool = True) -> bool:
        """Tell `peer` who and in what state we are; False when it is gone. A peer not `known` says hello again."""
        return self.channel.send(HubHello(self._instance, int(self._station.state), known), peer)

    def refuse(self, peer: bytes, why: str, old_epoch: int = 0) -> None:
        """Tell `peer` why its messages are not taken; `old_epoch` is the one that a source must end."""
        self.channel.send(Refused(why, old_epoch), peer)

    def _strike(self, peer: bytes, error: DecodeError) -> None:
        self._strikes[peer] += 1
        cut = self._strikes[peer] >= STRIKES
        log.warning("message refused", link=self.channel.link.name, peer=repr(peer), error=str(error), cut=cut)
        if cut:
            self.refuse(peer, f"{STRIKES} malformed messages: this connection is no longer heard")
        while len(self._strikes) > REMEMBERED:
            del self._strikes[next(iter(self._strikes))]
