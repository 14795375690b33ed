"""The page: what the line does, for people with a browser on this host.

A sink like the others, in a process of its own that runs when the line leaves the processor to it (`nice`). It holds
headers of announced parts only; pixels are read from the ring for what is shown. The hub owes it nothing, and the line
never waits for it. Browsers ask for the next part when they have drawn the one before, so a slow tablet sees fewer
parts, and nobody else notices; one that does not read its answer is dropped by the server.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from line_worker.errors import SinkError, WireError
from line_worker.joining import is_away
from line_worker.live.board import Board, part_of
from line_worker.live.door import Door
from line_worker.live.explorer import Explorer
from line_worker.live.pages import Site
from line_worker.live.painter import Job, Painter
from line_worker.live.records import Records
from line_worker.live.scores import Scores
from line_worker.live.searching import Searcher
from line_worker.sink import QuietSink
from line_worker.sink.crops import CropFolder
from line_worker.sink.recent import RecentKeys
from line_worker.sink.served import encryption
from line_worker.verdicts import Verdict
from line_worker.wire.control import ask
from line_worker.wire.http import HttpServer
from line_worker.wire.limits import LIVE_INLINE

if TYPE_CHECKING:
    from pathlib import Path

    from line_worker.config import Config, LiveSink
    from line_worker.wire.messages import Frame, FrameKey, HubState, Outcome

log = structlog.get_logger()

HEADERS = 1024  # of parts that are not decided yet
PUBLISH_S = 0.1
UNDECIDED_S = 10.0  # a part whose outcome has not come by then has none to come: its hub has gone
ASK_S, LOOK_S = 2.0, 0.2


class Live(QuietSink):
    """See the module's text."""

    durable = False
    wants_frames = True
    nice = 10

    def __init__(self, sink: LiveSink, config: Config) -> None:
        self._sink, self._config = sink, config
        self._deadlines = {camera.name: camera.deadline_ms for camera in config.cameras}
        self._pictures = CropFolder(config.live_path(sink), int(sink.quota_mb * 1e6))
        self._headers: dict[FrameKey, Frame] = {}
        self._inline: dict[FrameKey, tuple[bytes, float]] = {}  # pictures out of messages, and when they came
        self._seen = RecentKeys()
        self._parts = {parts.name: config.deadline_ms(parts.name) for parts in config.parts}
        self._views = config.views()
        self._seen_by: dict[FrameKey, Job] = {}  # views whose part is not decided
        self._board = Board(config.line.name, self._deadlines | self._parts, sink.name, self._views)
        self._scores = Scores(self._deadlines)
        self._publish_at = float("-inf")
        self._painter: Painter | None = None
        self._searcher: Searcher | None = None
        self._server: HttpServer | None = None
        self._asker: Asker | None = None
        self._site: Site | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where the page is."""
        return self._sink.host, self._sink.port

    def open(self) -> None:
        """Begin to serve.

        Raises:
            SinkError: the port is taken, or the folder for pictures, the token or the certificate cannot be used.
        """
        self.close()
        try:
            self._pictures.open()
            self._painter = Painter(self._pictures)
            records = Records(self._painter, self._config, self._sink)
            self._scores = Scores(self._deadlines)
            runtime = None if is_away(self._config) else self._config.line.runtime
            explorer = Explorer(self._scores, records, runtime, self._ask_soon)
            self._searcher = Searcher()
            self._site = Site(self._painter, records, explorer, self._searcher, Door(self._sink))
            self._server = HttpServer(
                self.address, self._site.pages, self._site.posts, encryption(self._sink, "the page")
            )
        except SinkError:
            self.close()
            raise
        except (OSError, WireError) as error:
            self.close()
            raise SinkError(f"the page: {error}") from error
        with suppress(SinkError):  # a store that cannot be read says so where it is searched
            self._painter.remember(records.rejects())
        explorer.remember(self._deadlines)
        self._painter.start()
        self._searcher.start()
        self._server.start()
        scheme = "https" if self._sink.certificate else "http"
        log.info("the page is served", url=f"{scheme}://{self._sink.host}:{self._sink.port}/")
        if runtime is not None:
            self._asker = Asker(runtime, self._painter)
            self._asker.start()

    def _ask_soon(self) -> None:
        if self._asker is not None:
            self._asker.ask_soon()

    def tap(self, frame: Frame, inline: bytes) -> None:
        """Remember where a part's picture is."""
        self._headers[frame.key] = frame
        if len(self._headers) > HEADERS:
            del self._headers[next(iter(self._headers))]
        if inline and len(self._inline) < LIVE_INLINE:
            self._inline[frame.key] = inline, time.monotonic()

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Count a part, and have it drawn."""
        frame = self._headers.pop(outcome.key, None)
        inline, _ = self._inline.pop(outcome.key, (b"", 0.0))
        if self._painter is not None and outcome.key not in self._seen:
            self._seen.add(outcome.key)
            self._board.take(outcome, now)
            camera = outcome.key.camera
            part = part_of(outcome, (self._deadlines | self._parts).get(camera))
            job = Job(outcome.key, part, frame, inline)
            if camera in self._deadlines:
                self._scores.take(outcome)
            if camera not in self._views:
                self._painter.take(self._whole(outcome, job) if camera in self._parts else job)
            else:
                self._seen_by[outcome.key] = job  # it is shown as its part's
                if len(self._seen_by) > HEADERS:
                    del self._seen_by[next(iter(self._seen_by))]
        return True

    def _whole(self, outcome: Outcome, job: Job) -> Job:
        """Return a part of several cameras with the picture that counted most: of a view that did not pass, or any."""
        views = [self._seen_by.pop(view.key, None) for view in outcome.views]
        seen = [view for view in views if view is not None]
        worst = min(seen, key=lambda view: view.part["verdict"] == Verdict.PASS, default=None)
        if worst is None:
            return job
        part = job.part | {"regions": worst.part["regions"], "view": worst.part["camera"]}
        return Job(job.key, part, worst.frame, worst.inline)

    def beat(self, state: HubState, now: float) -> None:
        """Take the hub's state."""
        self._board.beat(state, now)

    def poll(self, now: float) -> None:
        """Show browsers how the station is, ten times a second.

        Raises:
            SinkError: a thread has ended, and nobody but a new process can make another.
        """
        threads = (self._server, self._painter, self._searcher)
        dead = [thread.name for thread in threads if thread is not None and not thread.is_alive()]
        if dead:
            raise SinkError(f"the page: its thread {dead[0]} has ended; its process is started again, the line goes on")
        for key in [key for key, (_, came) in self._inline.items() if now - came > UNDECIDED_S]:
            del self._inline[key]
        if self._site is not None and now - self._publish_at >= PUBLISH_S:
            self._publish_at = now
            if self._asker is not None:
                self._board.told(self._asker.told)
            self._site.board = self._board.view(now)

    def reachable(self) -> tuple[bool, str]:
        """Whether the page is served."""
        return (True, "") if self._server is not None and self._server.is_alive() else (False, "the page has stopped")

    def close(self) -> None:
        """Stop serving; what browsers still ask for is not answered."""
        for thread in (self._server, self._searcher, self._painter, self._asker):
            if thread is not None:
                thread.close()
        self._server = self._searcher = self._painter = self._asker = self._site = None


class Asker(threading.Thread):
    """Asks the hub's control socket how its sinks and cameras are, while somebody looks at what `painter` shows.

    `told` is empty while none answers.
    """

    def __init__(self, runtime: Path, painter: Painter) -> None:
        super().__init__(name="asker", daemon=True)
        self.told: dict[str, object] = {}
        self._runtime, self._painter, self._halt = runtime, painter, threading.Event()
        self._ask_at = float("-inf")

    def run(self) -> None:
        """Ask until `close`."""
        while not self._halt.wait(LOOK_S):
            now = time.monotonic()
            if now < self._ask_at or not self._painter.watched(now):
                continue
            self._ask_at = now + ASK_S
            try:
                self.told = ask(self._runtime, "status", timeout_s=1.0)
            except WireError:
                self.told = {}

    def ask_soon(self) -> None:
        """Ask at the next look: something has changed."""
        self._ask_at = float("-inf")

    def close(self) -> None:
        """Stop asking."""
        self._halt.set()
        if self.is_alive():
            self.join()
