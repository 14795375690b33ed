"""The hub's side of the work link: workers join, get leases, answer, and are expelled when they do not."""

from __future__ import annotations

import structlog

from line_worker.hub.canary import PATIENCE_S, Canaries
from line_worker.hub.changeover import Changeover
from line_worker.hub.dispatch import Dispatcher, Seat
from line_worker.hub.ledger import Ledger
from line_worker.hub.limit_book import LimitBook
from line_worker.hub.part import Part
from line_worker.hub.peers import Peers
from line_worker.hub.quarantine import Quarantine
from line_worker.hub.recycling import Recycling
from line_worker.hub.station import Station
from line_worker.verdicts import Reason, Verdict
from line_worker.wire import messages as m

log = structlog.get_logger()

PROBE_S = 0.02  # how often a worker that holds parts is probed: a killed one is noticed at the next probe


class Workers:
    """The workers of one line; `changeover` says with which bundles they may judge, `limits` against which limits."""

    def __init__(
        self,
        peers: Peers,
        ledger: Ledger,
        station: Station,
        changeover: Changeover,
        quarantine: Quarantine,
        canaries: Canaries,
        limits: LimitBook,
    ) -> None:
        self._peers, self._ledger, self._station, self.changeover = peers, ledger, station, changeover
        self._quarantine, self._canaries, self.limits = quarantine, canaries, limits
        self._dispatcher = Dispatcher()
        self._recycling = Recycling(changeover.config.workers.count)
        self._probe_at = 0.0

    def __len__(self) -> int:
        return len(self._dispatcher.seats)

    @property
    def bundle(self) -> str:
        """The sha256 of the line's bundle."""
        return self.changeover.sha

    @property
    def leases(self) -> int:
        """Parts that workers hold."""
        return sum(len(seat.holds) for seat in self._dispatcher.seats.values())

    @property
    def recycled(self) -> int:
        """Workers that had grown and were let go."""
        return self._recycling.recycled

    @property
    def warnings(self) -> tuple[str, ...]:
        """What somebody should know of the workers."""
        return self._recycling.warnings(self._dispatcher.seats.values())

    def take(self, now: float) -> None:
        """Take what workers have sent."""
        for peer, message in self._peers.receive():
            match message:
                case m.WorkerHello():
                    self._hello(peer, message, now)
                case m.Result():
                    self._result(peer, message, now)
                case m.Progress():
                    self._progress(peer, message.session, now)
                case m.Prepared():
                    self.changeover.prepared(message)
                case m.Grown():
                    self._grown(peer, message, now)
                case m.WorkerBye():
                    self._lose(message.session, "left", now, blame=False)

    def watch(self, now: float) -> None:
        """Expel workers without progress, notice those that are gone, have them change their bundle or leave."""
        for seat in self._dispatcher.stalled(now):
            self._peers.refuse(seat.peer, "no progress: expelled")
            self._lose(seat.session, f"no progress for {seat.patience_s:.1f} s", now)
        self.changeover.turn(self._dispatcher.seats.values(), now)
        self._recycle(now)
        if now - self._probe_at < PROBE_S:
            return
        self._probe_at = now
        for seat in list(self._dispatcher.seats.values()):
            if seat.holds and not self._peers.greet(seat.peer):
                self._lose(seat.session, "its process is gone", now)

    def lease(self, now: float) -> None:
        """Give waiting parts to workers with credits."""
        for seat, part, lease in self._dispatcher.assign(self._ledger):
            assert part.frame is not None
            slack_ms, part.limit = (part.due - now) * 1000, self.limits.of(part.key.camera, seat.bundle)
            told = m.Lease(lease, part.attempt, slack_ms, part.frame, part.pixels, limit=part.limit)
            if not self._peers.channel.send(told, seat.peer):
                self._ledger.give_back(part, now, blame=False)  # it has never been there
                self._lose(seat.session, "its process is gone", now)
        if self._canaries.cameras and self._ledger.waiting() is None:
            self._lease_canary(now)

    def _lease_canary(self, now: float) -> None:
        seats = self._dispatcher.seats
        found = self._canaries.next(
            (session for session, seat in seats.items() if not seat.holds and not seat.leaving), now
        )
        if found is not None:
            lease, session, bait = found
            limit = self.limits.of(bait.frame.key.camera, seats[session].bundle)
            canary = m.Lease(lease, 1, PATIENCE_S * 1000, bait.frame, bait.pixels, canary=True, limit=limit)
            if not self._peers.channel.send(canary, seats[session].peer):
                self._lose(session, "its process is gone", now)

    def _recycle(self, now: float) -> None:
        """Let a worker go that has grown, once another one has taken its place."""
        seat = self._recycling.turn(self._dispatcher.seats.values(), now)
        if seat is not None:
            seat.told = self._peers.channel.send(m.Leave(seat.session), seat.peer)
            log.info("worker is let go", worker=seat.worker, why=seat.grown, others=len(self) - 1)

    # ---- messages -----------------------------------------------------------------------------------------------

    def _hello(self, peer: bytes, hello: m.WorkerHello, now: float) -> None:
        if not self.changeover.allows(hello.bundle):
            why = f"bundle {hello.bundle[:12]} is not the active one ({self.bundle[:12]})"
            self._peers.refuse(peer, why)
            log.warning("worker refused", worker=hello.worker, why=why)
            return
        for old in [seat for seat in self._dispatcher.seats.values() if seat.peer == peer]:
            self._lose(old.session, "has begun a new session", now, blame=False)
        stall_s = hello.stall_ms / 1000
        seat = Seat(peer, hello.worker, hello.session, hello.credits, stall_s, hello.device, now, bundle=hello.bundle)
        self._dispatcher.join(seat)
        self._peers.greet(peer)
        log.info("worker is ready", worker=hello.worker, device=hello.device, credits=hello.credits)

    def _progress(self, peer: bytes, session: int, now: float) -> Seat | None:
        """Note that the worker's loop turns; one that is not known (expelled, or of another hub) says hello again."""
        seat = self._dispatcher.progress(peer, session, now)
        if seat is None:
            self._peers.greet(peer, known=False)
        return seat

    def _grown(self, peer: bytes, grown: m.Grown, now: float) -> None:
        seat = self._progress(peer, grown.session, now)
        if seat is not None and self._recycling.ask(seat, grown.what, now):
            log.warning("worker has grown", worker=seat.worker, what=grown.what)

    def _result(self, peer: bytes, result: m.Result, now: float) -> None:
        seat = self._progress(peer, result.session, now)
        if result.lease < 0:
            self._canary_answered(result, seat, now)
            return
        part = seat.holds.get(result.lease) if seat is not None else None
        pixels = part.pixels if part is not None else b""
        if seat is not None:
            seat.answered(result.lease)
        worker, bundle = (seat.worker, seat.bundle) if seat else ("", self.bundle)
        mismatches = self._ledger.counts["mismatch"]
        if self._ledger.result(result, worker, bundle, self._station.may_pass, now):
            if part is not None:
                self._may_be_bait(part, pixels, result, now)
            return
        named = {"key": str(result.key), "worker": worker, "lease": result.lease}
        if self._ledger.counts["mismatch"] > mismatches:
            log.error(
                "a result that was not asked for, or about other pixels, another bundle or limit: refused", **named
            )
        else:
            log.info("late result refused", **named)

    def _may_be_bait(self, part: Part, pixels: bytes, result: m.Result, now: float) -> None:
        if part.frame is not None and part.decision is not None and part.decision.verdict is Verdict.PASS:
            computed = sum(ms for stage, ms in result.stages.items() if stage != "queue") / 1000
            self._canaries.passed(part.frame, pixels, now - part.t0, computed, now)

    def _canary_answered(self, result: m.Result, seat: Seat | None, now: float) -> None:
        reason = self._canaries.result(result, seat.bundle if seat else self.bundle, now)
        worker = seat.worker if seat else ""
        if reason is None:
            log.warning("answer to no canary of ours refused", key=str(result.key), worker=worker)
            return
        missed = reason is Reason.NONE
        self._ledger.distrusted |= missed
        (log.error if missed else log.info)(
            "canary missed" if missed else "canary",
            key=str(result.key),
            worker=worker,
            reason=reason.name,
            score=result.score,
            threshold=result.threshold,
        )

    def _lose(self, session: int, why: str, now: float, *, blame: bool = True) -> None:
        seat = self._dispatcher.leave(session)
        if seat is None:
            return
        self._canaries.lost(session)
        self._recycling.left(session)
        held = [str(part.key) for part in seat.holds.values()]
        (log.warning if blame else log.info)("worker lost", worker=seat.worker, why=why, held=held)
        for part in self._ledger.lose(session, now, blame=blame):
            log.error("poisonous part", key=str(part.key), kept_in=str(self._quarantine.folder))
            self._quarantine.keep(part)
