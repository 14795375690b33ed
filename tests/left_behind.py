"""What libraries leave to the garbage collector, so that it does not disturb another test."""

from __future__ import annotations

import gc
import warnings
from typing import Any


def let_go_of_connections() -> None:
    """Collect connections that asyncua has not closed: those of a client whose server was closed first.

    Whoever looks for garbage next, perhaps in another test, would be warned of them.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def leave_broker(client: Any) -> None:
    """End a paho client; it closes two sockets of its own when nobody knows it any more, so its callbacks let go."""
    client.disconnect()
    client.loop_stop()
    client.on_connect = client.on_subscribe = client.on_message = None
