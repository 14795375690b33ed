"""The hub's side of the work link: workers join, get leases, answer, and are expelled when they do not."""

from __future__ import annotations

import structlog

from line_worker.hub.dispatch import Dispatcher, Seat
from line_worker.hub.ledger import Ledger
from line_worker.hub.peers import Peers
from line_worker.hub.quarantine import Quarantine
from line_worker.hub.station import Station
from line_worker.wire import messages as m

log = structlog.get_logger()

PROBE_S = 0.02  # how often a worker that holds parts is probed: a killed one is noticed at the next probe


class Workers:
    """The workers of one line. `bundle` is the only one whose results count."""

    def __init__(self, peers: Peers, ledger: Ledger, station: Station, bundle: str, quarantine: Quarantine) -> None:
        self._peers, self._ledger, self._station, self.bundle = peers, ledger, station, bundle
        self._quarantine = quarantine
        self._dispatcher = Dispatcher()
        self._probe_at = 0.0

    def __len__(self) -> int:
        return len(self._dispatcher.seats)

    @property
    def leases(self) -> int:
        """Parts that workers hold."""
        return sum(len(seat.holds) for seat in self._dispatcher.seats.values())

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
                case m.WorkerBye():
                    self._lose(message.session, "left", now, blame=False)

    def watch(self, now: float) -> None:
        """Expel workers without progress; notice those whose process is gone."""
        for seat in self._dispatcher.stalled(now):
            self._peers.refuse(seat.peer, "no progress: expelled")
            self._lose(seat.session, f"no progress for {seat.stall_s:.1f} s", now)
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
            slack_ms = (part.due - now) * 1000
            if not self._peers.channel.send(m.Lease(lease, part.attempt, slack_ms, part.frame, part.pixels), seat.peer):
                self._ledger.give_back(part, now, blame=False)  # it has never been there
                self._lose(seat.session, "its process is gone", now)

    # ---- messages -----------------------------------------------------------------------------------------------

    def _hello(self, peer: bytes, hello: m.WorkerHello, now: float) -> None:
        if hello.bundle != self.bundle:
            why = f"bundle {hello.bundle[:12]} is not the active one ({self.bundle[:12]})"
            self._peers.refuse(peer, why)
            log.warning("worker refused", worker=hello.worker, why=why)
            return
        for old in [seat for seat in self._dispatcher.seats.values() if seat.peer == peer]:
            self._lose(old.session, "has begun a new session", now, blame=False)
        seat = Seat(peer, hello.worker, hello.session, hello.credits, hello.stall_ms / 1000, hello.device, now)
        self._dispatcher.join(seat)
        self._peers.greet(peer)
        log.info("worker is ready", worker=hello.worker, device=hello.device, credits=hello.credits)

    def _progress(self, peer: bytes, session: int, now: float) -> Seat | None:
        """Note that the worker's loop turns; one that is not known (expelled, or of another hub) says hello again."""
        seat = self._dispatcher.progress(peer, session, now)
        if seat is None:
            self._peers.greet(peer, known=False)
        return seat

    def _result(self, peer: bytes, result: m.Result, now: float) -> None:
        seat = self._progress(peer, result.session, now)
        if seat is not None:
            seat.answered(result.lease)
        worker = seat.worker if seat else ""
        mismatches = self._ledger.counts["mismatch"]
        if self._ledger.result(result, worker, self.bundle, self._station.may_pass, now):
            return
        named = {"key": str(result.key), "worker": worker, "lease": result.lease}
        if self._ledger.counts["mismatch"] > mismatches:
            log.error("a result that was not asked for, or about other pixels or another bundle: refused", **named)
        else:
            log.info("late result refused", **named)

    def _lose(self, session: int, why: str, now: float, *, blame: bool = True) -> None:
        seat = self._dispatcher.leave(session)
        if seat is None:
            return
        held = [str(part.key) for part in seat.holds.values()]
        (log.warning if blame else log.info)("worker lost", worker=seat.worker, why=why, held=held)
        for part in self._ledger.lose(session, now, blame=blame):
            log.error("poisonous part", key=str(part.key), kept_in=str(self._quarantine.folder))
            self._quarantine.keep(part)
