"""Parts that several cameras look at: which pictures show the same part, and what follows from their outcomes.

A part opens with its trigger or its first picture (a view), and is decided like any other, once:

    PASS          as many views as are needed have passed, by one bundle, and none of them is known to be bad
    FAIL          so many have not that it cannot pass any more, and one of them failed
    NO_DECISION   likewise, and none failed: for the reason of the first that had none; NO_FRAME for a view that has
                  not come by the deadline

Its deadline counts from the earliest trigger of its views. Two pictures show the same part when they carry the same
part id and, where one sink triggers all cameras, the same number of its trigger; a camera's own counting tells nothing
about another's. Or, with `match = "time"`, when they were triggered within so long of each other.

A view that comes after the decision belongs to it and changes nothing. A second picture of one camera for an open part
is NO_DECISION(ID_CONFLICT); after the decision it is the part's next visit. A view that cannot be matched is a part by
itself that cannot pass: HEADER without an id, ID_CONFLICT where time could mean two parts.
A gap in one camera's sequence is the view that does not come; without a trigger, gaps of all cameras are no part.

Pure: time is an argument (seconds of one monotonic clock).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from line_worker.config import Config, Parts, SinkTrigger
from line_worker.hub.ledger import Ledger
from line_worker.hub.part import Decision, Part, State
from line_worker.verdicts import Reason, Verdict
from line_worker.wire.messages import Frame, FrameKey, Outcome, View

REMEMBERED = 256  # decided parts of which a late view is still known
MAX_OPEN = 1000  # parts at once; those beyond are OVERLOAD
STRAGGLING_S = 60.0  # a view that comes later than this after its part's decision is another part


class Identity(NamedTuple):
    """What tells parts apart: the part's id, and the number of the trigger where that means the same to all cameras."""

    part_id: str
    number: int

    def __bool__(self) -> bool:
        """Whether it tells anything."""
        return bool(self.part_id or self.number)


@dataclass(slots=True, eq=False)
class Gathered:
    """One part: its views by camera, their keys, and every key that was taken for a view of it."""

    part: Part
    id: Identity
    views: dict[str, Part] = field(default_factory=dict)
    cameras: set[str] = field(default_factory=set)
    keys: set[FrameKey] = field(default_factory=set)
    closed_at: float = 0.0


class Group:
    """The parts of one table of the configuration. `one_sink`: it triggers all cameras."""

    def __init__(self, config: Parts, ledger: Ledger, *, one_sink: bool) -> None:
        self.config, self._ledger, self._one_sink = config, ledger, one_sink
        self._known: dict[FrameKey, Gathered] = {}  # open and remembered parts by the key of each view
        self._open: dict[FrameKey, Gathered] = {}  # by the part's own key
        self._closed: deque[Gathered] = deque()

    def identity(self, part_id: str, number: int) -> Identity:
        """Return what tells a part with this id and this trigger's number from others."""
        return Identity(part_id, number if self._one_sink else 0)

    def fired(self, part_id: str, number: int, t0: float, now: float, *, missed: bool = False) -> None:
        """A part was triggered: it is owed an answer, whether or not a camera sees it.

        One that was `missed` may be told again by a sink that does not know what an earlier hub has heard.
        """
        identity = self.identity(part_id, number)
        known = [*self._open.values(), *(self._closed if missed and identity.number else ())]
        if self.config.match == "id" and identity and self._named(known, identity) is None:
            self._begin(part_id, number, t0, now)

    def seen(self, part: Part, now: float, unsure_s: float) -> None:
        """A view of some part was announced; its t0 may be wrong by `unsure_s`."""
        if part.key in self._known or part.state is State.RECORDED:  # the latter by an earlier hub
            return
        part_id, number = (part.frame.part_id, part.frame.trigger) if part.frame else ("", 0)
        if self.config.match == "time":
            self._seen_at(part, now, unsure_s)
            return
        identity = self.identity(part_id, number)
        found = self._named(self._open.values(), identity)
        if found is None and self._is_late(part, self._named(reversed(self._closed), identity), now):
            return
        found = found or self._begin(part_id, number, part.t0, now)
        self._join(found, part, now)
        if not identity:
            self._close(found, Reason.HEADER, now)

    def _seen_at(self, part: Part, now: float, unsure_s: float) -> None:
        """Find the part by the time of its triggers; where two could be meant, neither can pass."""
        within = self.config.within_ms / 1000
        near = [one for one in self._open.values() if abs(one.part.t0 - part.t0) <= within]
        late = [one for one in reversed(self._closed) if abs(one.part.t0 - part.t0) <= within]
        unsure = unsure_s > within / 2
        if not near and not unsure and self._is_late(part, late[0] if late else None, now):
            return
        found = near[0] if near else self._begin("", part.frame.trigger if part.frame else 0, part.t0, now)
        self._join(found, part, now)
        for one in near or [found]:
            if unsure or len(near) > 1:
                self._close(one, Reason.ID_CONFLICT, now)

    def _is_late(self, part: Part, closed: Gathered | None, now: float) -> bool:
        """Whether the view belongs to a part that was decided without it."""
        if closed is None or part.key.camera in closed.cameras or now - closed.closed_at > STRAGGLING_S:
            return False
        self._remember(closed, part)
        self._ledger.counts["late_view"] += 1
        return True

    def _join(self, found: Gathered, part: Part, now: float) -> None:
        conflict = part.key.camera in found.cameras
        self._remember(found, part)
        if not found.part.open:
            return
        if conflict:
            self._close(found, Reason.ID_CONFLICT, now)
            return
        found.views[part.key.camera] = part
        self._ledger.bring_forward(found.part, part.t0)
        if len(found.cameras) == len(self.config.cameras):
            found.part.missing = Reason.NONE

    def decided(self, part: Part, now: float) -> None:
        """A view was decided, or the part itself by its deadline."""
        itself = self._open.get(part.key)
        if itself is not None:
            assert part.decision is not None
            part.decision = replace(part.decision, views=self._views(itself))
            self._forget(itself, now)
            return
        found = self._known.get(part.key)
        if found is not None and found.part.key in self._open and part.key.camera in found.views:
            decision = self._sum(found, now)
            if decision is not None:
                self._ledger.decide(found.part, decision)
                self._forget(found, now)

    def restore(self, outcomes: Iterable[Outcome], now: float) -> None:
        """Remember what an earlier hub has decided, and take over the parts that it left open."""
        for outcome in outcomes if self.config.match == "id" else ():
            if not outcome.views:
                continue  # nothing tells whose view would be late
            found = Gathered(Part(outcome.key, now, now), self.identity(outcome.part_id, outcome.trigger))
            found.cameras = {view.key.camera for view in outcome.views}
            found.keys = {view.key for view in outcome.views}
            self._known |= dict.fromkeys(found.keys, found)
            self._retire(found, now)
        for part in self._ledger.open_of(self.config.name) if self.config.match == "id" else ():
            if part.frame is not None:
                identity = self.identity(part.frame.part_id, part.frame.trigger)
                self._open[part.key] = Gathered(part, identity)

    # ---- steps --------------------------------------------------------------------------------------------------

    def _begin(self, part_id: str, number: int, t0: float, now: float) -> Gathered:
        part = self._ledger.gather(self.config.name, part_id, number, t0, now)
        found = Gathered(part, self.identity(part_id, number))
        self._open[part.key] = found
        if len(self._open) > MAX_OPEN:
            self._close(found, Reason.OVERLOAD, now)
        return found

    @staticmethod
    def _named(among: Iterable[Gathered], identity: Identity) -> Gathered | None:
        return next((one for one in among if one.id == identity), None) if identity else None

    def _sum(self, found: Gathered, now: float) -> Decision | None:
        """Return what follows from the views decided so far, None while it is open.

        What a view's row says counts: a PASS that could not be written is none any more.
        """
        decisions = [view.decision for view in found.views.values() if view.decision is not None]
        passed = [d for d in decisions if d.verdict == Verdict.PASS]
        rejects = [d for d in decisions if d.verdict != Verdict.PASS]
        if len(passed) >= self.config.needed:
            return self._decision(self._doubt(found, passed), max(passed, key=_nearness), found, now)
        if len(rejects) > len(self.config.cameras) - self.config.needed:
            failed = [d for d in rejects if d.verdict == Verdict.FAIL]
            worst = max(failed, key=_nearness) if failed else rejects[0]
            return self._decision(worst.reason, worst, found, now)
        return None

    def _doubt(self, found: Gathered, passed: list[Decision]) -> Reason:
        """Return why a part may not pass although its views have, NONE when it may."""
        if self._ledger.distrusted or any(view.challenge for view in found.views.values()):
            return Reason.CANARY
        return Reason.NONE if len({d.bundle for d in passed}) == 1 else Reason.NOT_RUNNING

    def _decision(self, reason: Reason, worst: Decision, found: Gathered, now: float) -> Decision:
        """Return the part's decision: its evidence is that of the view that counted most."""
        evidence = (worst.score, worst.threshold)
        return Decision(reason, now, *evidence, bundle=worst.bundle, worker=worst.worker, views=self._views(found))

    @staticmethod
    def _views(found: Gathered) -> tuple[View, ...]:
        """Return the views that have been decided."""
        decided = ((view.key, view.decision) for view in found.views.values() if view.decision is not None)
        return tuple(View(key, str(d.verdict), int(d.reason), d.score, d.threshold) for key, d in decided)

    def _close(self, found: Gathered, reason: Reason, now: float) -> None:
        self._ledger.decide(found.part, Decision(reason, now, views=self._views(found)))
        self._forget(found, now)

    def _forget(self, found: Gathered, now: float) -> None:
        if self._open.pop(found.part.key, None) is not None:
            found.part.challenge = any(view.challenge for view in found.views.values())
            self._retire(found, now)

    def _retire(self, found: Gathered, now: float) -> None:
        found.closed_at, found.views = now, {}
        self._closed.append(found)
        if len(self._closed) > REMEMBERED:
            for key in self._closed.popleft().keys:
                self._known.pop(key, None)

    def _remember(self, found: Gathered, part: Part) -> None:
        found.cameras.add(part.key.camera)
        found.keys.add(part.key)
        self._known[part.key] = found


class Views:
    """All groups of one line."""

    def __init__(self, config: Config, ledger: Ledger) -> None:
        self._ledger = ledger
        self._groups = [Group(parts, ledger, one_sink=_one_sink(config, parts)) for parts in config.parts]
        self._of = {camera: group for group in self._groups for camera in group.config.cameras}
        self._by_name = {group.config.name: group for group in self._groups}

    @property
    def names(self) -> tuple[str, ...]:
        """The names that parts go by."""
        return tuple(self._by_name)

    def open_epochs(self, epoch: int) -> None:
        """Begin to number the parts anew."""
        for name in self._by_name:
            self._ledger.open_epoch(name, epoch)

    def restore(self, name: str, outcomes: Iterable[Outcome], now: float) -> None:
        """Take over from an earlier hub: the last `outcomes` of the parts called `name`."""
        self._by_name[name].restore(outcomes, now)

    def fired(
        self, cameras: Iterable[str], part_id: str, number: int, t0: float, now: float, *, missed: bool = False
    ) -> None:
        """These cameras were triggered for a part; for one that was `missed` perhaps once more."""
        for group in dict.fromkeys(self._of[camera] for camera in cameras if camera in self._of):
            group.fired(part_id, number, t0, now, missed=missed)

    def seen(self, frame: Frame, now: float, unsure_s: float = 0.0) -> None:
        """A picture was announced, perhaps once more; its t0 may be wrong by `unsure_s`."""
        group = self._of.get(frame.key.camera)
        part = self._ledger.find(frame.key) if group is not None else None
        if group is not None and part is not None:
            group.seen(part, now, unsure_s)

    def settle(self, now: float) -> list[Part]:
        """Return what was decided since the last call, with the parts that follow from it."""
        parts = self._ledger.take_decided()
        if not self._groups:
            return parts
        for part in sorted(parts, key=lambda part: part.gathered):  # what views make of a part is before its deadline
            group = self._of.get(part.key.camera) or self._by_name.get(part.key.camera)
            if group is not None:
                group.decided(part, now)
        return [*parts, *self._ledger.take_decided()]


def _one_sink(config: Config, parts: Parts) -> bool:
    """Whether the same sink triggers all cameras, so that its numbers mean the same to all."""
    triggers = [camera.trigger for camera in config.cameras if camera.name in parts.cameras]
    sinks = {trigger.sink if isinstance(trigger, SinkTrigger) else None for trigger in triggers}
    return len(sinks) == 1 and None not in sinks


def _nearness(decision: Decision) -> float:
    """How near its limit, or how far beyond, the view's score is."""
    if decision.score is None or not decision.threshold:
        return 0.0
    return decision.score / decision.threshold
