"""What the hub writes before it shows anything, and what follows when it cannot write.

When the disk is full the ballast makes room, once. A part whose row cannot be written even so is NO_DECISION(JOURNAL),
whatever was decided, and is shown as such at once; its row follows as soon as the journal takes it, so that the books
balance again. Announcements and cursors alone are written once a beat: a hub that is killed in between hears them
again, from sources that announce their window once more and sinks that get a few rows twice.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import replace

import structlog

from line_worker.errors import JournalError
from line_worker.hub.ballast import Ballast
from line_worker.hub.journal import Journal
from line_worker.hub.part import Decision, Part
from line_worker.verdicts import Reason
from line_worker.wire.messages import Outcome

log = structlog.get_logger()

OWED = 10_000  # rows that may wait for the journal; those beyond are written as RESTART by the next hub
OWED_AT_ONCE = 500


class Books:
    """The journal as the hub's loop uses it. `error` is why it cannot be written, "" while it can."""

    def __init__(self, journal: Journal, ballast: Ballast | None = None) -> None:
        self._journal, self._ballast = journal, ballast
        self.error = ""
        self.newest_row = journal.last_row()
        self._owed: deque[Part] = deque(maxlen=OWED)
        self._announced: dict[tuple[str, int], int] = {}
        self._cursors: dict[str, int] = {}
        self._opened: deque[Part] = deque(maxlen=OWED)

    @property
    def owed(self) -> int:
        """Rows that wait for the journal."""
        return len(self._owed)

    def note(self, announced: dict[tuple[str, int], int], cursors: dict[str, int], opened: Iterable[Part] = ()) -> None:
        """Keep counts, cursors and the ids of `opened` parts of several views for the next commit."""
        self._announced |= announced
        self._cursors |= cursors
        self._opened.extend(opened)

    def write(self, parts: list[Part], *, beat: bool) -> list[int]:
        """Commit `parts`, and at a `beat` whatever else waits; returns their rows.

        A part gets row -1, and another decision, when it cannot be written.
        """
        owed = [self._owed[n] for n in range(min(len(self._owed), OWED_AT_ONCE))] if beat else []
        if not (parts or owed or (beat and (self._announced or self._cursors))):
            return []
        try:
            rows = self._write([*owed, *parts])
        except JournalError as error:
            self._failed(error, parts)
            return [-1] * len(parts)
        self._written(len(owed))
        self.newest_row = max(self.newest_row, *rows, 0)
        return rows[len(owed) :]

    def outcome(self, part: Part, now: float) -> Outcome:
        """Return what sinks are shown; where an earlier hub has decided the key, its outcome stands."""
        stored = self._journal.find(part.key) if part.row == 0 else None
        if stored is not None:
            log.info("outcome stands already", key=str(part.key))
            return replace(stored, left_ms=(part.due - now) * 1000)
        decision, frame = part.decision, part.frame
        assert decision is not None
        return Outcome(
            row=max(0, part.row),
            key=part.key,
            verdict=decision.verdict,
            reason=int(decision.reason),
            score=decision.score,
            threshold=decision.threshold,
            regions=decision.regions,
            bundle=decision.bundle,
            worker=decision.worker,
            attempt=part.attempt,
            part_id=frame.part_id if frame else "",
            trigger=frame.trigger if frame else 0,
            latency_ms=(decision.at - part.t0) * 1000,
            left_ms=(part.due - now) * 1000,
            wall=time.time(),
            stages=decision.stages,
            p_value=decision.p_value,
            views=decision.views,
        )

    def _write(self, parts: list[Part]) -> list[int]:
        try:
            return self._journal.write(parts, self._announced, self._cursors, self._opened)
        except JournalError as error:
            if not error.disk_full or self._ballast is None or not self._ballast.release():
                raise
        return self._journal.write(parts, self._announced, self._cursors, self._opened)

    def _failed(self, error: JournalError, parts: list[Part]) -> None:
        if not self.error:
            log.error("journal cannot be written: nothing passes", error=str(error))
        self.error = str(error)
        for part in parts:
            assert part.decision is not None
            part.decision = Decision(Reason.JOURNAL, part.decision.at)
        self._owed.extend(parts)

    def _written(self, owed: int) -> None:
        if self.error:
            log.info("journal can be written again", owed=len(self._owed))
        self.error = ""
        self._announced, self._cursors = {}, {}
        self._opened.clear()
        for _ in range(owed):
            self._owed.popleft()
