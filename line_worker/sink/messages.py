"""An outcome as a message: JSON in the words of OPC 40100, pictures by reference."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from line_worker.sink.machine_vision import jsonable, result_of, simulated_cameras

if TYPE_CHECKING:
    from line_worker.config import Config
    from line_worker.wire.messages import Outcome


def encoded(value: Any) -> bytes:
    """Return plain data, times included, as compact JSON."""
    return json.dumps(jsonable(value), ensure_ascii=False, separators=(",", ":")).encode()


class Messages:
    """Makes the messages of one line.

    Where the line has a store, `Pictures` says where those of a part that did not pass are kept, as host, folder and
    pattern of file names; they come there after the outcome, and go when the store's quota is used up.
    """

    def __init__(self, config: Config) -> None:
        self._simulated = simulated_cameras(config)
        stored = any(sink.kind == "store" for sink in config.sinks)
        self._store = {"Host": socket.gethostname(), "Folder": str(config.store_path)} if stored else None

    def of(self, outcome: Outcome) -> bytes:
        """Return `outcome` as JSON."""
        result = result_of(outcome, simulated=outcome.key.camera in self._simulated)
        if self._store is not None and not outcome.passed:
            key = outcome.key
            result["Pictures"] = self._store | {"Files": f"crops/{key.camera}/{key.epoch}/{key.seq}-*.png"}
        return encoded(result)
