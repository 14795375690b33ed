"""Pictures of anomalies for the store: drawn, encoded and sent beside the decisions, in a thread of their own.

A slow store or a large picture delays no result: the queue is short, and what does not fit is dropped and counted.
"""

from __future__ import annotations

import queue
import threading
from typing import Any

import structlog

from line_worker.config import Config
from line_worker.joining import open_wire
from line_worker.wire.limits import CROPS_WAITING
from line_worker.wire.links import CROPS
from line_worker.wire.messages import Crop, FrameKey
from line_worker.worker.model import Finding, Model

log = structlog.get_logger()


class CropSender:
    """Draws and sends pictures in the background; `offer` never waits."""

    def __init__(self, config: Config, model: Model, name: str) -> None:
        self._model, self._name = model, name
        self._wire = open_wire(config, "worker")
        self._channel = self._wire.connect(CROPS, name)
        self._queue: queue.Queue[tuple[FrameKey, Any, Finding] | None] = queue.Queue(CROPS_WAITING)
        self.dropped = 0
        self._thread = threading.Thread(target=self._work, name="crops", daemon=True)
        self._thread.start()

    def offer(self, key: FrameKey, image: Any, finding: Finding) -> None:
        """Have pictures of this anomaly drawn and sent, if there is room."""
        try:
            self._queue.put_nowait((key, image, finding))
        except queue.Full:
            self.dropped += 1

    def use(self, model: Model) -> None:
        """Draw with another model from now on; what waits was found by the old one, and looks the same."""
        self._model = model

    def close(self) -> None:
        """Finish what waits, within two seconds."""
        try:
            self._queue.put(None, timeout=1)
            self._thread.join(timeout=2)
        except queue.Full:
            log.warning("crops are stuck; not waiting for them", waiting=CROPS_WAITING)
        if not self._thread.is_alive():
            self._wire.close(flush_s=0.5)

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            key, image, finding = job
            for name, picture in self._model.pictures(image, finding):
                if not self._channel.send(Crop(key, name, picture)):
                    self.dropped += 1
