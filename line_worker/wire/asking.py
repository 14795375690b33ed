"""What the other side of a sink asks of the line: to look at a part that has come, to inspect with another bundle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from line_worker.wire.header import counted


@dataclass(frozen=True, slots=True)
class Fire:
    """A part has come, `age_ms` ago: the camera is to take its picture. One that was `missed` has gone by."""

    KIND: ClassVar[int] = 8
    number: int
    part_id: str
    age_ms: float
    missed: bool

    def __post_init__(self) -> None:
        counted(self.number)


@dataclass(frozen=True, slots=True)
class Trigger:
    """The sink's other side says that a part has come: see `Fire`, which its cameras get."""

    KIND: ClassVar[int] = 38
    sink: str
    number: int
    part_id: str
    age_ms: float
    missed: bool

    def __post_init__(self) -> None:
        counted(self.number)


@dataclass(frozen=True, slots=True)
class Select:
    """The sink's other side wants the recipe of this number to inspect."""

    KIND: ClassVar[int] = 39
    sink: str
    recipe: int

    def __post_init__(self) -> None:
        counted(self.recipe)
