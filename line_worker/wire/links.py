"""The one table of links: which messages travel where, who binds, and how much may wait.

Sockets, the README's table and the memory bound are derived from it. All links are DEALER/ROUTER pairs with
application-level acknowledgement, except `crops`, which may lose: PUB/SUB and PUSH/PULL lose frames without an error
when a peer is slow or dies.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SLACK_BYTES = 64 * 1024  # a message's body beside its pixels


@dataclass(frozen=True, slots=True)
class Link:
    """One row: `many` is the side that connects, `one` the side that binds."""

    name: str
    many: str
    one: str
    lossy: bool
    high_water: int  # messages that may wait for one peer
    frames: int  # the largest message, in frames of the largest camera (a crop of a gray picture is a colour PNG)
    port_offset: int
    carries: str


FRAMES = Link(
    "frames",
    "source",
    "hub",
    False,
    512,
    1,
    0,
    "SourceHello Frame SourceAlive SourceBye / FrameDone Fire HubHello Refused",
)
WORK = Link(
    "work",
    "worker",
    "hub",
    False,
    512,
    1,
    1,
    "WorkerHello Result Progress Prepared Grown WorkerBye / Lease Prepare Adopt Leave HubHello Refused",
)
OUTCOMES = Link(
    "outcomes",
    "sink",
    "hub",
    False,
    1024,
    1,
    2,
    "SinkHello SinkAck SinkState Trigger Select / HubHello HubState Outcome Tap Refused",
)
CROPS = Link("crops", "worker", "store", True, 16, 4, 3, "Crop")

LINKS = (FRAMES, WORK, OUTCOMES, CROPS)


def endpoint(link: Link, runtime: Path, tcp: str = "") -> str:
    """Return the ZeroMQ endpoint of `link`: a socket file under `runtime`, or `tcp` ("host:port") plus the offset."""
    if not tcp:
        return f"ipc://{runtime / link.name}"
    host, port = tcp.rsplit(":", 1)
    return f"tcp://{host}:{int(port) + link.port_offset}"


def reachable(tcp: str) -> str:
    """Return where to connect to what binds `tcp`: an address that stands for all of a host is reached on it."""
    return tcp.replace("0.0.0.0:", "127.0.0.1:", 1) if tcp.startswith("0.0.0.0:") else tcp
