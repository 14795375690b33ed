"""The parts that are announced and not released, epoch by epoch. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from line_worker.hub.part import Epoch, Part, State
from line_worker.wire.messages import FrameKey


class Epochs:
    """`epochs`: by camera and number."""

    def __init__(self) -> None:
        self.epochs: dict[tuple[str, int], Epoch] = {}

    def all_parts(self) -> Iterator[Part]:
        """Yield every part that is announced and not released."""
        return (part for epoch in self.epochs.values() for part in epoch.parts.values())

    def find(self, key: FrameKey) -> Part | None:
        """Return the part that is announced and not released."""
        epoch = self.epochs.get((key.camera, key.epoch))
        return epoch.parts.get(key.seq) if epoch is not None else None

    def open_of(self, name: str) -> list[Part]:
        """Return the open parts of this camera or group."""
        return [part for part in self.all_parts() if part.key.camera == name and part.open]

    def is_settled(self, key: FrameKey) -> bool:
        """Whether the key has been released, by this hub or an earlier one (its source may forget it)."""
        known = self.epochs.get((key.camera, key.epoch))
        return known is not None and key.seq < known.next_seq and key.seq not in known.parts

    @property
    def open_parts(self) -> int:
        """Parts that are announced and not released."""
        return sum(len(epoch.parts) for epoch in self.epochs.values())

    @property
    def waiting_parts(self) -> int:
        """Parts that wait for a worker."""
        return sum(part.state is State.WAITING and not part.gathered for part in self.all_parts())
