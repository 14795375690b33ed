"""Parts that several cameras look at: which pictures show the same part, and what follows from their outcomes.

A part opens with its trigger or its first picture (a view), and is decided like any other, once:

    PASS          as many views as are needed have passed
    FAIL          so many have not that it cannot pass any more, and one of them failed
    NO_DECISION   likewise, and none failed: for the reason of the first that had none; NO_FRAME for a view that has
                  not come by the deadline

Its deadline counts from the earliest trigger of its views. A view that comes after the decision belongs to it and
changes nothing. A second picture of one camera for an open part is NO_DECISION(ID_CONFLICT); after the decision it is
the part's next visit. A view that carries nothing to be matched by is a part by itself that cannot pass: HEADER.

Pure: time is an argument (seconds of one monotonic clock).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from line_worker.config import Config, Parts
from line_worker.hub.journal import Journal
from line_worker.hub.ledger import Ledger
from line_worker.hub.part import Decision, Part, State
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.messages import Frame, FrameKey, Outcome, View

REMEMBERED = 256  # decided parts of which a late view is still known
MAX_OPEN = 1000  # parts without any picture that triggers may open
STRAGGLING_S = 60.0  # a view that comes later than this after its part's decision is another part


@dataclass(slots=True)
class Gathered:
    """One part: the keys of its views by camera, and what was decided of them."""

    part: Part
    id: str
    keys: dict[str, FrameKey] = field(default_factory=dict)
    decided: dict[str, Decision] = field(default_factory=dict)
    closed_at: float = 0.0


class Group:
    """The parts of one table of the configuration."""

    def __init__(self, config: Parts, ledger: Ledger) -> None:
        self.config, self._ledger = config, ledger
        self._of: dict[FrameKey, Gathered] = {}  # the open parts by the key of each view
        self._open: list[Gathered] = []
        self._closed: deque[Gathered] = deque(maxlen=REMEMBERED)

    def fired(self, id_: str, number: int, t0: float, now: float) -> None:
        """A part was triggered: it is owed an answer, whether or not a camera sees it."""
        if self.config.match == "time" or not _identity(id_, number):
            return
        if self._find(self._open, _identity(id_, number), t0) is None and len(self._open) < MAX_OPEN:
            self._begin(id_, number, t0, now)

    def seen(self, part: Part, now: float) -> None:
        """A view of some part was announced."""
        if part.key in self._of or part.state is State.RECORDED:  # the latter by an earlier hub
            return
        id_, number = (part.frame.part_id, part.frame.trigger) if part.frame else ("", 0)
        identity, camera = _identity(id_, number), part.key.camera
        found = self._find(self._open, identity, part.t0)
        if found is None:
            late = self._find(self._closed, identity, part.t0)
            if late is not None and camera not in late.keys and now - late.closed_at <= STRAGGLING_S:
                late.keys[camera] = part.key
                self._ledger.counts["late_view"] += 1
                return
            found = self._begin(id_, number, part.t0, now)
            if self.config.match == "id" and not identity:
                self._close(found, Decision(Reason.HEADER, now), now)
                return
        if camera in found.keys:
            self._close(found, Decision(Reason.ID_CONFLICT, now), now)
            return
        found.keys[camera] = part.key
        self._of[part.key] = found
        self._ledger.bring_forward(found.part, part.t0)
        if len(found.keys) == len(self.config.cameras):
            found.part.missing = Reason.NONE

    def decided(self, part: Part, now: float) -> None:
        """A view was decided, or the part itself by its deadline."""
        found = self._of.get(part.key)
        if found is not None and part.decision is not None:
            found.decided[part.key.camera] = part.decision
            decision = self._sum(found, now)
            if decision is not None:
                self._close(found, decision, now)
            return
        itself = next((one for one in self._open if one.part is part), None)
        if itself is not None:
            self._forget(itself, now)

    def restore(self, outcomes: Iterable[Outcome], now: float) -> None:
        """Remember what an earlier hub has decided: a view of it that comes now is late."""
        for outcome in outcomes if self.config.match == "id" else ():
            identity = _identity(outcome.part_id, outcome.trigger)
            keys = {view.key.camera: view.key for view in outcome.views}
            self._closed.append(Gathered(Part(outcome.key, now, now), identity, keys, closed_at=now))

    # ---- steps --------------------------------------------------------------------------------------------------

    def _begin(self, id_: str, number: int, t0: float, now: float) -> Gathered:
        part = self._ledger.gather(self.config.name, id_, number, t0, now)
        found = Gathered(part, _identity(id_, number))
        self._open.append(found)
        return found

    def _find(self, among: Iterable[Gathered], identity: str, t0: float) -> Gathered | None:
        if self.config.match == "time":
            within = self.config.within_ms / 1000
            return next((one for one in among if abs(one.part.t0 - t0) <= within), None)
        return next((one for one in among if identity and one.id == identity), None)

    def _sum(self, found: Gathered, now: float) -> Decision | None:
        """Return what follows from the views decided so far, None while it is open."""
        passed = [d for d in found.decided.values() if d.verdict == Verdict.PASS]
        rejects = [d for d in found.decided.values() if d.verdict != Verdict.PASS]
        if len(passed) >= self.config.needed:
            return self._decision(Reason.NONE, max(passed, key=_nearness), found, now)
        if len(rejects) > len(self.config.cameras) - self.config.needed:
            failed = [d for d in rejects if d.verdict == Verdict.FAIL]
            worst = max(failed, key=_nearness) if failed else rejects[0]
            return self._decision(worst.reason, worst, found, now)
        return None

    def _decision(self, reason: Reason, worst: Decision, found: Gathered, now: float) -> Decision:
        """Return the part's decision: its evidence is that of the view that counted most."""
        views = tuple(
            View(found.keys[camera], str(d.verdict), int(d.reason), d.score, d.threshold)
            for camera, d in found.decided.items()
        )
        return Decision(
            reason, now, worst.score, worst.threshold, bundle=worst.bundle, worker=worst.worker, views=views
        )

    def _close(self, found: Gathered, decision: Decision, now: float) -> None:
        self._ledger.decide(found.part, decision)
        self._forget(found, now)

    def _forget(self, found: Gathered, now: float) -> None:
        self._open.remove(found)
        for key in found.keys.values():
            self._of.pop(key, None)
        found.closed_at = now
        self._closed.append(found)


class Views:
    """All groups of one line."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self._ledger = ledger
        self._groups = [Group(parts, ledger) for parts in config.parts]
        self._of = {camera: group for group in self._groups for camera in group.config.cameras}
        self._by_name = {group.config.name: group for group in self._groups}

    def open_epochs(self, epoch: int) -> None:
        """Begin to number the parts anew."""
        for group in self._groups:
            self._ledger.open_epoch(group.config.name, epoch)

    def restore(self, journal: Journal, now: float) -> None:
        """Take over from an earlier hub."""
        for group in self._groups:
            group.restore(journal.newest(group.config.name, REMEMBERED), now)

    def fired(self, cameras: Iterable[str], part_id: str, number: int, t0: float, now: float) -> None:
        """These cameras were triggered for a part."""
        for group in dict.fromkeys(self._of[camera] for camera in cameras if camera in self._of):
            group.fired(part_id, number, t0, now)

    def seen(self, frame: Frame, now: float) -> None:
        """A picture was announced, perhaps once more."""
        group = self._of.get(frame.key.camera)
        part = self._ledger.find(frame.key) if group is not None else None
        if group is not None and part is not None:
            group.seen(part, now)

    def settle(self, now: float) -> list[Part]:
        """Return what was decided since the last call, with the parts that follow from it."""
        parts = self._ledger.take_decided()
        for part in list(self._all(parts)) if self._groups else ():
            group = self._of.get(part.key.camera) or self._by_name.get(part.key.camera)
            if group is not None:
                group.decided(part, now)
        return [*parts, *self._ledger.take_decided()]

    def _all(self, parts: list[Part]) -> Iterator[Part]:
        """Yield the views first: what they make of their part comes before its own deadline does."""
        yield from sorted(parts, key=lambda part: part.key.camera in self._by_name)


def _identity(part_id: str, number: int) -> str:
    return part_id or (f"#{number}" if number else "")


def _nearness(decision: Decision) -> float:
    """How near its limit, or how far beyond, the view's score is."""
    if decision.score is None or not decision.threshold:
        return 0.0
    return decision.score / decision.threshold
