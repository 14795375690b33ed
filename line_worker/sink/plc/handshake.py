"""The handshake with a PLC, without a PLC: a state machine whose time and registers are arguments.

    WAITING  the PLC has not copied `sync` to `sync_echo`; nothing is offered, the verdict on show is NO_DECISION
    SYNCED   results are shown one after the other, each until the PLC acknowledges it or its time is over

    WAITING -> SYNCED   sync_echo equals sync: the PLC has dropped what it had; a fault is over
    SYNCED -> WAITING   sync_echo is something else: the PLC has restarted or asks to begin again
    SYNCED -> WAITING   a fault, which also draws a new `sync`:
                        OVERFLOW   a result came while the queue was full; nothing is overwritten
                        WRONG_ACK  `ack_toggle` changed to a result that is not on show, or `ack_seq` is another one's

What is shown only ever gets worse: a PASS is withdrawn (NO_DECISION in its place, same toggle) when its time is over,
when the PLC's heartbeat is stale, when the hub has been silent, and in every fault. It never comes back. A result whose
time is over before it was acknowledged is dropped and never shown again; a reject gets at least `REJECT_GRACE_S`, for
NO_DECISION(DEADLINE) is only decided when the time is over, and a late reject can do no harm.

The heartbeat counts calls of `beat`, which the hub's main loop drives, and nothing else.

What the PLC asks of the line goes to the hub: each count of `triggers` is a part, and `recipe_wanted` a recipe. Counts
that went by between two looks, or while the PLC was not heard, were parts, too: they are told as missed. A count that
jumps otherwise begins anew.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from line_worker.sink import Ask, PartHere, RecipeWanted
from line_worker.sink.plc.registers import (
    Active,
    Code,
    Fault,
    Plc,
    Result,
    Station,
    Stop,
    encode,
    result_of,
    withdrawn,
)
from line_worker.sink.recent import RecentKeys
from line_worker.verdicts import Reason, StationState
from line_worker.wire.messages import FrameKey, HubState, Outcome

DEPTH = 8
REJECT_GRACE_S = 0.1
HUB_SILENT_S = 1.0
MOST_MISSED = 16  # triggers between two looks; a larger step is another counting
REMEMBERED = 32  # results whose acknowledgement may still come after they were dropped


class Note(NamedTuple):
    """Something for the log; `serious` when somebody should look."""

    event: str
    serious: bool
    details: dict[str, Any]


@dataclass(slots=True)
class _Waiting:
    key: FrameKey
    result: Result
    latest: float


class Handshake:
    """See the module's text. `session` (1 to 65535) is the first `sync`, another one at every start.

    `counts` holds acknowledged, expired, undelivered (the PLC was not there), withdrawn, late_acks and faults.
    """

    def __init__(self, session: int, heartbeat_s: float, depth: int = DEPTH) -> None:
        self._sync, self._heartbeat_s, self._depth = session, heartbeat_s, depth
        self.fault, self._fault_text = Fault.NONE, ""
        self.synced = False
        self._plc, self._plc_changed_at = Plc(), float("-inf")
        self._heard = False
        self._heartbeat, self._hub_at = 0, float("-inf")
        self._hub: tuple[int, int] | None = None  # the instance and its last beat
        self._station, self._stop, self._active = Station(), Stop(), Active()
        self._asks: deque[Ask] = deque(maxlen=1000)
        self._queue: deque[_Waiting] = deque()
        self._dropped: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)  # (toggle, seq) of results shown and expired
        self._toggle = 0
        self._seen = RecentKeys()
        self._fresh = self._alive = False
        self._show(Result())
        self.counts: Counter[str] = Counter()
        self._notes: deque[Note] = deque(maxlen=1000)

    # ---- from the hub -------------------------------------------------------------------------------------------

    def offer(self, outcome: Outcome, now: float) -> None:
        """Queue `outcome` for the PLC; one that was offered before changes nothing."""
        if outcome.key in self._seen:
            return
        self._seen.add(outcome.key)
        self.tick(now)
        if self.synced and len(self._queue) >= self._depth:
            self._fail(Fault.OVERFLOW, f"{self._depth} results were not acknowledged when {outcome.key} came")
        if not self.synced:
            self._undelivered(outcome.key)
            return
        left_s = outcome.left_ms / 1000 if outcome.passed else max(outcome.left_ms / 1000, REJECT_GRACE_S)
        self._queue.append(_Waiting(outcome.key, result_of(outcome), now + left_s))
        self.tick(now)

    def beat(self, state: HubState, now: float) -> None:
        """Take the hub's state; the same one twice is no sign of life."""
        if (state.instance, state.beat) == self._hub:
            return
        self._hub, self._hub_at = (state.instance, state.beat), now
        self._heartbeat = (self._heartbeat + 1) & 0xFFFF
        self._station = Station(
            state=state.state, workers=min(state.workers, 0xFFFF), open_parts=min(state.open_parts, 0xFFFF)
        )
        self._stop, self._active = Stop(state.stop_line), Active(state.recipe, state.recipe_state)

    # ---- from the PLC -------------------------------------------------------------------------------------------

    def take(self, plc: Plc, now: float) -> None:
        """Take what the PLC has written."""
        if self._heard:
            self._count(plc, now, seen=now - self._plc_changed_at <= self._heartbeat_s)
            if plc.plc_heartbeat != self._plc.plc_heartbeat:
                self._plc_changed_at = now
        if plc.recipe_wanted and (plc.recipe_wanted != self._plc.recipe_wanted or not self._heard):
            self._asks.append(RecipeWanted(plc.recipe_wanted))
        self._heard = True
        before, self._plc = self._plc, plc
        if not self.synced:
            self._begin(plc.sync_echo)
        elif plc.sync_echo != self._sync:
            self._wait()
            self._note("PLC has left the handshake", serious=True, sync=self._sync, sync_echo=plc.sync_echo)
        elif plc.ack_toggle != before.ack_toggle:
            self._acknowledge(plc.ack_toggle, plc.ack_seq)
        self.tick(now)

    def _count(self, plc: Plc, now: float, *, seen: bool) -> None:
        """Parts have come, if the PLC has counted on; nobody knows when, unless it was `seen` all the while."""
        step = (plc.triggers - self._plc.triggers) & 0xFFFFFFFF
        if 0 < step <= MOST_MISSED:
            for number in range(plc.triggers - step + 1, plc.triggers):
                self._asks.append(PartHere(number & 0xFFFFFFFF, "", now, missed=True))
            self._asks.append(PartHere(plc.triggers, plc.next_part, now, missed=not seen))
        elif step:
            self._note("PLC counts anew", serious=True, triggers=plc.triggers, before=self._plc.triggers)

    def take_asks(self) -> list[Ask]:
        """Return what the PLC has asked of the line since the last call."""
        asks = list(self._asks)
        self._asks.clear()
        return asks

    def _begin(self, sync_echo: int) -> None:
        if sync_echo == self._sync:
            self.synced, self.fault, self._fault_text = True, Fault.NONE, ""
            self._note("PLC has synchronised", sync=self._sync)

    def _acknowledge(self, toggle: int, seq: int) -> None:
        if self._on_show and (toggle, seq) == (self._toggle, self._queue[0].result.seq):
            self._queue.popleft()
            self.counts["acknowledged"] += 1
        elif (toggle, seq) in self._dropped:
            self.counts["late_acks"] += 1
        else:
            expected = f"seq {self._queue[0].result.seq}, toggle {self._toggle}" if self._on_show else "nothing"
            self._fail(Fault.WRONG_ACK, f"expected {expected}; got seq {seq}, toggle {toggle}")

    # ---- time ---------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Drop what is too late, withdraw what may not pass, show what is next."""
        self._fresh = now - self._plc_changed_at <= self._heartbeat_s
        self._alive = now - self._hub_at <= HUB_SILENT_S
        self._expire(now)
        if not (self.synced and self._fresh and self._alive):
            self._withdraw_all()
        if self._queue and not self._on_show:
            self._toggle = self._next_toggle()
            head = self._queue[0]
            head.result = replace(head.result, toggle=self._toggle)
            self._show(head.result)

    def _expire(self, now: float) -> None:
        if all(waiting.latest > now for waiting in self._queue):
            return
        for waiting in self._queue:
            if waiting.latest <= now:
                self.counts["expired"] += 1
                self._note("result expired before the PLC took it", key=str(waiting.key))
        if self._on_show and self._queue[0].latest <= now:
            self._dropped.append((self._toggle, self._queue[0].result.seq))
            self._show(withdrawn(self._shown, Reason.DEADLINE))
        self._queue = deque(waiting for waiting in self._queue if waiting.latest > now)

    def _withdraw_all(self) -> None:
        for waiting in self._queue:
            if waiting.result.verdict == Code.PASS:
                waiting.result = withdrawn(waiting.result, Reason.NOT_RUNNING)
                self.counts["withdrawn"] += 1
                self._note("PASS withdrawn", serious=True, key=str(waiting.key))
        if self._shown.verdict == Code.PASS:
            self._show(withdrawn(self._shown, Reason.NOT_RUNNING))

    # ---- what the PLC reads -------------------------------------------------------------------------------------

    def words(self, now: float) -> list[int]:
        """Return the registers of `Station`, `Result`, `Stop` and `Active` as they are now."""
        self.tick(now)
        broken = self.fault or (self._hub is not None and not self._alive)
        station = replace(
            self._station,
            heartbeat=self._heartbeat,
            alive=int(self._alive),
            state=StationState.FAULT if broken else self._station.state,
            fault=self.fault,
            sync=self._sync,
            queued=len(self._queue),
            expired=self.counts["expired"] & 0xFFFF,
        )
        return encode(station) + self._shown_words + encode(self._stop) + encode(self._active)

    @property
    def pending(self) -> bool:
        """Whether results wait for the PLC."""
        return bool(self._queue)

    def reachable(self) -> tuple[bool, str]:
        """Return whether parts can pass through this PLC, as of the last tick, and why not."""
        how = f"it must copy `sync` ({self._sync}) to `sync_echo`"
        if self.fault:
            return (
                False,
                f"PLC fault {self.fault.name}: {self._fault_text}; nothing passes until it synchronises: {how}",
            )
        if not self.synced:
            return False, f"the PLC has not synchronised: {how}"
        if not self._fresh:
            return (
                False,
                f"the PLC's heartbeat stands still for over {self._heartbeat_s:g} s; is its program running?",
            )
        return True, ""

    def take_notes(self) -> list[Note]:
        """Return what has happened since the last call."""
        notes = list(self._notes)
        self._notes.clear()
        return notes

    # ---- steps --------------------------------------------------------------------------------------------------

    @property
    def _on_show(self) -> bool:
        """Whether the head of the queue is what the PLC sees."""
        return bool(self._queue) and self._queue[0].result.toggle != 0

    def _next_toggle(self) -> int:
        """Return one that neither the PLC's acknowledgement nor what it last saw can be mistaken for."""
        toggle = self._toggle
        while toggle in (0, self._toggle, self._shown.toggle, self._plc.ack_toggle):
            toggle = (toggle + 1) & 0xFFFF
        return toggle

    def _show(self, result: Result) -> None:
        self._shown, self._shown_words = result, encode(result)

    def _fail(self, fault: Fault, text: str) -> None:
        self.fault, self._fault_text = fault, text
        self.counts["faults"] += 1
        self._sync = self._sync % 0xFFFF + 1
        self._wait()
        self._note("PLC fault", serious=True, fault=fault.name, text=text)

    def _wait(self) -> None:
        """Offer nothing until the PLC synchronises."""
        self.synced = False
        for waiting in self._queue:
            self._undelivered(waiting.key)
        self._queue.clear()
        self._show(withdrawn(self._shown, Reason.NOT_RUNNING))

    def _undelivered(self, key: FrameKey) -> None:
        self.counts["undelivered"] += 1
        self._note("result not offered: the PLC is not synchronised", key=str(key))

    def _note(self, event: str, serious: bool = False, **details: Any) -> None:
        self._notes.append(Note(event, serious, details))
