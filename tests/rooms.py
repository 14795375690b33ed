"""Where a test has a camera's source make its pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from line_worker.source import Captured


class Rooms:
    """Gives room after room, and knows them; `hold` says whether they hold just these pictures, in their order."""

    def __init__(self) -> None:
        self.rooms: list[NDArray[Any]] = []

    def place(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        self.rooms.append(np.zeros(shape, dtype))
        return self.rooms[-1]

    def hold(self, found: list[Captured]) -> bool:
        return all(captured.pixels is room for captured, room in zip(found, self.rooms, strict=True))
