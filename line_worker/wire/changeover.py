"""The messages with which a line changes its bundle or a worker, between hub and worker; `messages` has them all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class Prepare:
    """Load the bundle at `path`, named by the sha256 `bundle`, beside the one that judges; "" drops what was loaded."""

    KIND: ClassVar[int] = 26
    bundle: str
    path: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """The worker is `ready` to judge with `bundle`, having reproduced its golden images, or says why not."""

    KIND: ClassVar[int] = 27
    session: int
    bundle: str
    ready: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Adopt:
    """Judge with the bundle that was prepared from now on; the answer is a new WorkerHello."""

    KIND: ClassVar[int] = 28
    bundle: str


@dataclass(frozen=True, slots=True)
class Grown:
    """The worker holds more memory or descriptors than it may, as `what` says, and asks to be replaced."""

    KIND: ClassVar[int] = 29
    session: int
    what: str


@dataclass(frozen=True, slots=True)
class Leave:
    """Another worker has taken this one's place, and it holds nothing any more: it may end."""

    KIND: ClassVar[int] = 30
    session: int
