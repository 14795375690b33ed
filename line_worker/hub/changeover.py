"""Changes the line's bundle while it runs: tells workers what `swap` decides, and keeps what has been activated."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import structlog

from line_worker.activation import bundle_sha, keep
from line_worker.bundle import Bundle
from line_worker.config import Config
from line_worker.errors import BundleError, ConfigError, LineWorkerError
from line_worker.hub.dispatch import Seat
from line_worker.hub.peers import Peers
from line_worker.hub.swap import Phase, Swap
from line_worker.wire import messages as m

log = structlog.get_logger()


class Changeover:
    """Which bundle judges: `sha` names it ("stub": none is needed, "": none can be read), `config` has its place."""

    def __init__(self, config: Config, peers: Peers) -> None:
        self.config, self._peers = config, peers
        self.sha = "stub" if config.workers.stub else bundle_sha(config.workers.bundle)
        self.problem = "" if config.workers.stub else _problem(config.workers.bundle)
        self.swap: Swap | None = None
        self._told = Phase.PREPARING  # the last phase that was logged

    def allows(self, bundle: str) -> bool:
        """Return whether a worker with `bundle` may judge: while bundles change there are two."""
        return bundle == self.sha if self.swap is None else self.swap.allows(bundle) or bundle == self.sha

    def begin(self, bundle: Path, now: float) -> str:
        """Begin to change to `bundle`; returns its sha256. How it goes on is in `status`.

        Raises:
            ConfigError: there is no such bundle, it is active already, or another change is under way.
        """
        if self.swap is not None and self.swap.running:
            raise ConfigError("activate", [f"the change to {self.swap.path} is not finished; wait for it"])
        sha = bundle_sha(bundle)
        if self.sha == "stub" or not sha:
            raise ConfigError(str(bundle), ["is no bundle that this line could judge with; it keeps what it has"])
        if sha == self.sha:
            raise ConfigError(str(bundle), ["is the active bundle already"])
        self.swap, self._told = Swap(self.sha, sha, str(bundle), now), Phase.PREPARING
        log.info("bundle is to change", old=self.sha, new=sha, path=str(bundle))
        return sha

    def prepared(self, message: m.Prepared) -> None:
        """A worker has loaded the new bundle, or says why it cannot."""
        if self.swap is not None and message.bundle == self.swap.new:
            self.swap.prepared(message.session, "" if message.ready else message.detail or "it cannot be loaded")

    def turn(self, seats: Collection[Seat], now: float) -> None:
        """Take the next step, if a change is under way, and tell of one that has come to a new phase."""
        swap = self.swap
        if swap is None:
            return
        if swap.running:
            self._step(swap, seats, now)
        if swap.phase is not self._told:
            self._told = swap.phase
            self._tell(swap, seats)

    def _step(self, swap: Swap, seats: Collection[Seat], now: float) -> None:
        loader = swap.to_prepare(seats)
        if loader is not None:
            self._peers.channel.send(m.Prepare(swap.new, swap.path), loader.peer)
        before = swap.phase
        swap.turn(seats, now)
        if before is Phase.PREPARING and swap.phase is Phase.MOVING:
            self._approve(swap)
        mover = swap.mover(seats)
        if mover is not None:
            mover.leaving = True
            if not mover.holds and not mover.told:
                mover.told = self._peers.channel.send(m.Adopt(swap.new), mover.peer)

    def _tell(self, swap: Swap, seats: Collection[Seat]) -> None:
        """Log the phase; after a failure the workers let go of what they have loaded."""
        failed = swap.phase is Phase.FAILED
        (log.error if failed else log.info)(
            "bundle change", phase=swap.phase.value, detail=swap.detail, bundle=swap.new
        )
        for seat in seats if failed else ():
            self._peers.channel.send(m.Prepare("", ""), seat.peer)

    def status(self) -> dict[str, Any] | None:
        """Return how the last change of bundle goes or went, None when there was none."""
        if self.swap is None:
            return None
        return {
            "phase": self.swap.phase.value,
            "bundle": self.swap.new,
            "path": self.swap.path,
            "detail": self.swap.detail,
        }

    def _approve(self, swap: Swap) -> None:
        """Every worker can: from now on this bundle is the line's, also after a restart."""
        try:
            self.config = keep(self.config, Path(swap.path))
        except LineWorkerError as error:
            swap.fail(str(error))
            return
        self.sha, self.problem = swap.new, ""


def _problem(bundle: Path) -> str:
    """Return why no worker can load the bundle, "" when one can; every file is held against the manifest."""
    try:
        Bundle.load(bundle)
    except BundleError as error:
        log.error("no worker can load the bundle: nothing passes", error=str(error))  # noqa: TRY400 - for the user
        return str(error)
    return ""
