"""The bundle that a worker may change to: loaded, tested and warmed in a thread, while the other goes on judging."""

from __future__ import annotations

import threading
from pathlib import Path

from line_worker.config import Workers
from line_worker.errors import BundleError, LineWorkerError
from line_worker.worker.model import Model, load_model


class Standby:
    """Loads the bundle at `path`, which must be the one that `sha` names, and computes batches up to `largest`."""

    def __init__(self, workers: Workers, path: str, sha: str, largest: int) -> None:
        self._workers = workers.model_copy(update={"bundle": Path(path)})
        self.sha, self._largest = sha, largest
        self._model: Model | None = None
        self._why_not = ""
        self._thread = threading.Thread(target=self._load, name="standby", daemon=True)
        self._thread.start()

    @property
    def finished(self) -> bool:
        """Whether `model` and `why_not` say how it ended."""
        return not self._thread.is_alive()

    @property
    def model(self) -> Model | None:
        """The model, ready to judge; None until then, and for good when it cannot."""
        return self._model if self.finished else None

    @property
    def why_not(self) -> str:
        """Why there is no model; "" when there is one."""
        return self._why_not

    def _load(self) -> None:
        try:
            model = load_model(self._workers)
            if model.bundle != self.sha:
                raise BundleError(
                    f"{self._workers.bundle}: is {model.bundle[:12]}, not {self.sha[:12]} that was asked for"
                )
            for size in model.sizes(self._largest):
                model.inspect([model.example()] * size)
            self._model = model
        except (LineWorkerError, RuntimeError, OSError, MemoryError) as error:  # the old bundle goes on
            self._why_not = f"{type(error).__name__}: {error}"
