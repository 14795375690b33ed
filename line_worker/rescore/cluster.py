"""Rescore on a Ray cluster: actors hold the model, this process reads the pictures and sends them.

Every node needs line-worker in its Python and nothing else: the bundle travels as bytes, and each actor verifies it and
reproduces its golden images before it judges. Verdicts come in the order of the pictures, those of one machine to the
last bit where processors are alike. What an actor held when it or its node was lost is judged by another; a new one is
asked for in its place. Ray sends Python objects (pickle) between its processes: use a cluster that you trust.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from line_worker.errors import ConfigError, LineWorkerError
from line_worker.rescore.shares import Picture, check, judged, pictures, take_one_thread

log = structlog.get_logger()

HELD = 2  # pictures that an actor has: one it judges, one that waits
AHEAD = 4  # times as many may be decided before the one that is to come next
MAX_LOST = 3  # actors lost with the same picture before it gets the blame
READY_S = 300.0  # for an actor to be placed and to load the model, when no other is left
WAIT_S = 1.0


class Judge:
    """What runs on the cluster: one model on one thread. `files`: the bundle's, by their paths in it."""

    def __init__(self, files: dict[str, bytes]) -> None:
        from line_worker.bundle import Bundle
        from line_worker.selftest import self_tested

        take_one_thread()
        with tempfile.TemporaryDirectory(prefix="lw-bundle-") as folder:
            for name, data in files.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
            bundle = Bundle.load(Path(folder))
            self._inspection, self._sha = self_tested(bundle, "cpu"), bundle.sha

    def ready(self) -> None:
        """Answer once the model is loaded."""

    def judge(self, number: int, picture: Picture) -> dict[str, Any]:
        """Return the verdict on a picture."""
        return judged(self._inspection, self._sha, number, picture)


def rescore(
    sources: Sequence[Path], bundle: Path, address: str, actors: int, done: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield the verdict on each picture from number `done` on, in their order, computed by the cluster at `address`.

    actors: how many; 0: one for each processor of the cluster. Raises ConfigError without Ray or a cluster, or for
    sources that lead nowhere, LineWorkerError when no actor can judge, or none survives a picture.
    """
    check(sources)
    team = _Team(_connected(address), bundle, actors, done)
    try:
        for number, picture in pictures(sources):
            if number < done:
                continue
            while not team.takes(number):
                yield from team.collect()
            team.add(number, picture)
        while team.busy:
            yield from team.collect()
    finally:
        team.close()


def _connected(address: str) -> Any:
    """Return Ray's module, connected to the cluster at `address`."""
    try:
        import ray
    except ImportError:
        raise ConfigError("rescore", ["--cluster needs Ray: pip install line-worker[cluster]"]) from None
    if not ray.is_initialized():
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeError) as error:
            why = (str(error).splitlines() or ["it does not say why"])[0]
            raise ConfigError("rescore", [f"no Ray cluster answers at {address} ({why}); see `ray status`"]) from error
    return ray


@dataclass(eq=False, slots=True)
class _Actor:
    handle: Any
    holds: int = 0


class _Team:
    """The actors of one run, and what they hold; `following` is the number of the verdict that is given next."""

    def __init__(self, ray: Any, bundle: Path, actors: int, following: int) -> None:
        self._ray, self._following = ray, following
        files = {str(path.relative_to(bundle)): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
        self._files = ray.put(files)
        self._judge = ray.remote(num_cpus=1)(Judge)
        self._actors: list[_Actor] = []
        self._starting: dict[Any, _Actor] = {}  # by the reference of their first answer
        self._flying: dict[Any, tuple[_Actor, int]] = {}  # by the reference of the verdict
        self._pictures: dict[int, Picture] = {}  # that have no verdict yet
        self._again: deque[int] = deque()
        self._lost: Counter[int] = Counter()
        self._found: dict[int, dict[str, Any]] = {}
        self._why, self._heard_at = "", time.monotonic()
        for _ in range(actors or int(ray.cluster_resources().get("CPU", 1))):
            self._start()

    @property
    def busy(self) -> bool:
        """Whether verdicts are still to come."""
        return bool(self._pictures or self._found)

    def takes(self, number: int) -> bool:
        """Return whether an actor has room, and few verdicts wait for one that is late."""
        room = not self._again and any(actor.holds < HELD for actor in self._actors)
        return room and number - self._following < AHEAD * HELD * (len(self._actors) + 1)

    def add(self, number: int, picture: Picture) -> None:
        """Have a picture judged."""
        self._pictures[number] = picture
        self._again.append(number)
        self._give()

    def collect(self) -> Iterator[dict[str, Any]]:
        """Wait until something has come; yield the verdicts that can be given in order."""
        refs = [*self._flying, *self._starting]
        come, _ = self._ray.wait(refs, num_returns=1, timeout=WAIT_S) if refs else ([], refs)
        for ref in come:
            self._heard_at = time.monotonic()
            self._take(ref)
        if not self._actors and (not self._starting or time.monotonic() - self._heard_at > READY_S):
            raise LineWorkerError(
                f"no actor of the cluster can judge ({self._why or 'none was placed'}); what came before is in the "
                "output; go on with --resume when nodes are back"
            )
        self._give()
        while self._following in self._found:
            self._following += 1
            yield self._found.pop(self._following - 1)

    def close(self) -> None:
        """Let the actors go."""
        for actor in (*self._actors, *self._starting.values()):
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor.handle)

    # ---- inside -------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        actor = _Actor(self._judge.remote(self._files))
        self._starting[actor.handle.ready.remote()] = actor

    def _give(self) -> None:
        while self._again:
            actor = min(self._actors, key=lambda one: one.holds, default=None)
            if actor is None or actor.holds >= HELD:
                return
            number = self._again.popleft()
            actor.holds += 1
            self._flying[actor.handle.judge.remote(number, self._pictures[number])] = actor, number

    def _take(self, ref: Any) -> None:
        """Take an answer, or learn that there will be none."""
        try:
            answer = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:  # the model itself has raised: it would do so anywhere
            raise LineWorkerError(f"an actor of the cluster cannot judge: {error.cause}") from error
        except self._ray.exceptions.RayError as error:
            self._bury(ref, str(error))
            return
        if ref in self._starting:
            self._actors.append(self._starting.pop(ref))
            log.info("an actor of the cluster is ready", actors=len(self._actors))
            return
        actor, number = self._flying.pop(ref)
        actor.holds -= 1
        del self._pictures[number]
        self._found[number] = answer

    def _bury(self, ref: Any, why: str) -> None:
        """An actor is lost: what it held goes to others, one that had already worked is replaced."""
        self._why = next((line.strip() for line in reversed(why.splitlines()) if line.strip()), "")
        if ref in self._starting:
            del self._starting[ref]
            log.warning("an actor of the cluster has not started", why=self._why)
            return
        actor, number = self._flying.pop(ref)
        if actor in self._actors:
            self._actors.remove(actor)
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor.handle)  # one that only cannot be reached now must not come back
            self._start()
            log.warning("an actor of the cluster is lost", why=self._why, others=len(self._actors))
        self._lost[number] += 1
        if self._lost[number] >= MAX_LOST:
            name = self._pictures[number].name
            raise LineWorkerError(f"{name}: {MAX_LOST} actors were lost while they had it; take it out and --resume")
        self._again.appendleft(number)
