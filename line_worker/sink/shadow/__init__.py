"""The shadow: a second bundle judges the line's own pictures, decides nothing, and its disagreements are kept.

The hub tells of a frame when the line has decided it, or has taken long; then it is copied out of the ring, and it is
judged once its outcome is there, so that the two do not compete for the same moment. Lossy by design: it is no durable
sink (the hub owes it nothing), holds at most `SHADOW_FRAMES` pictures, and what it has no room or no picture for is
counted by why. It waits for nothing, and nothing waits for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from line_worker.errors import FrameError, SinkError
from line_worker.sink import QuietSink
from line_worker.sink.crops import CropFolder
from line_worker.sink.recent import RecentKeys
from line_worker.sink.shadow.book import Book, Run
from line_worker.sink.shadow.comparison import JUDGED, Comparison, Judgement, Kind
from line_worker.sink.shadow.judge import Bundle, Judge, Judged
from line_worker.verdicts import Reason
from line_worker.wire.frames import FrameReader
from line_worker.wire.limits import SHADOW_FRAMES
from line_worker.wire.messages import Crop

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.config import Config, ShadowSink
    from line_worker.wire.messages import Frame, FrameKey, HubState, Outcome

log = structlog.get_logger()

COMMIT_S = 1.0
PATIENCE_S = 1.0  # beyond its deadline, before a part's outcome counts as lost
FINISH_S = 4.0  # a bundle that is being loaded, too

_NAMES = {  # of the pictures; those that agree have none
    Kind.ONLY_SHADOW_FAILS: "shadow-fails",
    Kind.ONLY_SHADOW_PASSES: "shadow-passes",
    Kind.UNDECIDED: "undecided",
}

# why a part was not compared
BUSY = "the shadow was busy"
GONE = "its picture was gone before it was copied"
NO_PICTURE = "it had no picture"
NOT_HERE = "its picture did not come to the shadow"
NO_OUTCOME = "its outcome did not come to the shadow"
NOT_JUDGED = "the line did not judge its picture"
OTHER_BUNDLE = "the line was changing bundles"
STOPPED = "the shadow was stopped"


def second_bundle(sink: ShadowSink) -> Bundle:
    """Load the bundle; only now, and only in this process, come the libraries that compute."""
    from line_worker.sink.shadow.second import SecondBundle

    return SecondBundle(sink)


class Shadow(QuietSink):
    """See the module's text. `load` returns the bundle, in a thread of its own."""

    durable = False
    wants_frames = True

    def __init__(self, sink: ShadowSink, config: Config, load: Callable[[], Bundle] | None = None) -> None:
        self._load = load or (lambda: second_bundle(sink))
        self._cameras = frozenset(camera.name for camera in config.cameras)
        self._folder = config.shadow_path(sink)
        self._pictures = CropFolder(self._folder, int(sink.quota_mb * 1e6))
        self._patience_s = max(camera.deadline_ms for camera in config.cameras) / 1000 + PATIENCE_S
        self._reader = FrameReader()
        self._held: dict[FrameKey, tuple[NDArray[Any], float]] = {}  # copied, and when; the line has not decided
        self._tapped, self._told = RecentKeys(), RecentKeys()
        self._judge: Judge | None = None
        self._book: Book | None = None
        self._run: Run | None = None
        self._state: HubState | None = None
        self._now = self._commit_at = 0.0
        self._trouble = ""

    # ---- what the runner calls ----------------------------------------------------------------------------------

    def open(self) -> None:
        """Open the book and have the bundle loaded; SinkError when the book or the folder cannot be used."""
        self.close()
        try:
            self._pictures.open()
        except OSError as error:
            raise SinkError(
                f"{self._folder}: cannot be used for pictures ({error}); correct its permissions"
            ) from error
        self._book = Book(self._folder.with_suffix(".sqlite"))
        self._judge = Judge(self._load)
        self._judge.start()

    def beat(self, state: HubState, now: float) -> None:
        """Begin a new run with a new hub, and whenever the line changes its bundle."""
        before = self._state
        self._state = state
        if before is None or (before.instance, before.bundle) != (state.instance, state.bundle):
            self._end_run()

    def tap(self, frame: Frame, inline: bytes) -> None:
        """Copy a frame's pixels, if there is room."""
        if self._running() is None or frame.key in self._tapped:
            return
        self._tapped.add(frame.key)
        assert self._judge is not None
        if frame.place == "none":
            self._skip(NO_PICTURE)
        elif len(self._held) + self._judge.waiting >= SHADOW_FRAMES:
            self._skip(BUSY)
        else:
            self._copy(frame, inline)

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Have the part judged whose picture is here."""
        run = self._running()
        pixels, _ = self._held.pop(outcome.key, (None, 0.0))
        if run is None or outcome.key in self._told or outcome.key.camera not in self._cameras:
            return True  # parts of several cameras have no picture of their own
        self._told.add(outcome.key)
        run.saw(outcome.row)
        if pixels is None:
            if outcome.key not in self._tapped:
                self._skip(NOT_HERE)
        elif Reason(outcome.reason) not in JUDGED or not outcome.bundle:
            self._skip(NOT_JUDGED)
        elif outcome.bundle != run.bundle:
            self._skip(OTHER_BUNDLE)
        else:
            assert self._judge is not None
            self._judge.put(outcome, pixels)
        return True

    def poll(self, now: float) -> None:
        """Book what was judged, forget what nobody decides, write once a second."""
        self._now = now
        if self._judge is not None and not self._judge.is_alive():
            raise SinkError("the shadow's thread has ended; its process is started again, the line goes on")
        self._book_judged()
        for key in [key for key, (_, at) in self._held.items() if now - at > self._patience_s]:
            del self._held[key]
            self._skip(NO_OUTCOME)
        if now >= self._commit_at:
            self._commit_at = now + COMMIT_S
            self._commit()

    def reachable(self) -> tuple[bool, str]:
        """Whether it compares, and why not."""
        trouble = self._trouble or (self._judge.failure if self._judge else "not open")
        if not trouble and self._judge is not None and not self._judge.sha:
            trouble = "its bundle is being loaded"
        return not trouble, trouble

    def close(self) -> None:
        """Judge what waits, in bounded time, and write it."""
        if self._judge is not None:
            self._judge.finish(FINISH_S)
            self._book_judged()
            self._skip(STOPPED, self._judge.waiting)
        self._end_run()
        if self._book is not None:
            self._book.close()
        self._judge = self._book = None
        self._held.clear()
        self._reader.close()

    # ---- inside -------------------------------------------------------------------------------------------------

    def _running(self) -> Run | None:
        """Return the current run; None while the bundle is being loaded or no hub has been heard."""
        if self._run is None and self._book and self._judge and self._judge.sha and self._state and self._state.bundle:
            self._run = self._book.begin(self._state.bundle, self._judge.sha, time.time())
        return self._run

    def _end_run(self) -> None:
        self._commit()
        self._run = None

    def _skip(self, why: str, parts: int = 1) -> None:
        if self._run is not None and parts:
            self._run.skipped[why] += parts

    def _copy(self, frame: Frame, inline: bytes) -> None:
        try:
            self._held[frame.key] = self._reader.read(frame, inline), self._now
        except FrameError:
            self._skip(GONE)

    def _book_judged(self) -> None:
        for judged in self._judge.take() if self._judge else ():
            if self._run is not None and self._book is not None and judged.outcome.bundle == self._run.bundle:
                self._book.add(self._run, self._compared(judged))

    def _compared(self, judged: Judged) -> Comparison:
        outcome = judged.outcome
        line = Judgement(Reason(outcome.reason), outcome.score, outcome.threshold, outcome.p_value)
        found = Comparison(outcome.key, outcome.row, outcome.wall, line, judged.judgement)
        return replace(found, picture=self._keep(found, judged.picture)) if judged.picture else found

    def _keep(self, found: Comparison, picture: bytes) -> str:
        """Keep the picture of a disagreement; return its file, "" when there is no room for it."""
        try:
            path = self._pictures.add(Crop(found.key, _NAMES[found.kind], picture))
        except (OSError, ValueError) as error:
            log.warning("a picture is not kept", key=str(found.key), why=str(error))
            return ""
        return str(path.relative_to(self._folder))

    def _commit(self) -> None:
        if self._book is None or self._run is None:
            return
        try:
            self._book.commit(self._run)
        except SinkError as error:
            if str(error) != self._trouble:
                log.warning("shadow's book", error=str(error))
            self._trouble = str(error)
        else:
            self._trouble = ""
