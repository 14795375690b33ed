"""What browsers that look at the page cost the line: its time to decide without any and with some, by turns.

One line runs all the time; only those who look come and go: nobody, so many that are elsewhere (programs that ask as a
browser does, and draw nothing: it would be another machine that draws), so many browsers here. These get what the line
leaves of the processors (SCHED_IDLE), and yet take memory and caches from it. Each counts the parts that it got, or
has drawn.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from bench.browser import Chromium
from bench.line import Load, line_config, quantiles
from bench.viewer import Viewer
from line_worker.config import Config, LiveSink
from line_worker.errors import LineWorkerError
from line_worker.ports import free_port
from line_worker.rehearsal import Rehearsal, Watcher
from line_worker.source.drawing import draw_part

HOST = "127.0.0.1"
FOREVER_S = 24 * 3600.0
DRAWN = 8
SETTLE_S = 1.0  # after a browser has come or gone
READY_S = 60.0
COUNT = """window.drawn = 0; new MutationObserver(() => { window.drawn += 1; })
  .observe(document.getElementById('facts'), {childList: true})"""
SHOWS = "document.getElementById('facts')?.children.length"
Where = Literal["nobody", "elsewhere", "here"]
TURN: tuple[Where, ...] = ("nobody", "elsewhere", "here")


@dataclass(frozen=True, slots=True)
class Phase:
    """One turn: who looked, milliseconds from frame ready to outcome, parts a second that each got or has drawn."""

    where: Where
    parts: int
    elapsed_ms: dict[str, float]
    shown_a_second: tuple[float, ...]


class _Over(Exception):
    """All phases are over."""


def measure(load: Load, browsers: int, rounds: int) -> list[Phase]:
    """Run the line under `load`, `load.seconds` with nobody, `browsers` elsewhere and as many here, `rounds` times.

    Raises:
        BrowserError: there is no browser, or it does not show the page.
        SourceError: the line does not start.
    """
    Chromium.check()
    with tempfile.TemporaryDirectory(prefix="lw-bench-") as name, ExitStack() as stack:
        folder = Path(name)
        config = _with_page(line_config(_endless(load, folder / "parts"), folder))
        rehearsal = Rehearsal(config, folder / "line.log")
        director = _Director(rehearsal.watcher, config, folder, TURN * rounds, browsers, load.seconds)
        stack.callback(director.join)
        director.start()
        try:
            rehearsal.run(director.look)
        except _Over:
            pass
        finally:
            director.stopping = True
        return director.found()


def _endless(load: Load, folder: Path) -> Load:
    """Return `load` with parts that look like parts: noise is what no camera sees, and the worst for a JPEG."""
    if not load.folder:
        import cv2

        folder.mkdir()
        rng = np.random.default_rng(0)
        for number in range(DRAWN):
            part = draw_part(rng, size=(load.height, load.width), colour=load.colour)
            cv2.imwrite(str(folder / f"{number}.bmp"), part.image)
        load = replace(load, folder=str(folder))
    return replace(load, seconds=FOREVER_S)


def _with_page(config: Config) -> Config:
    port = free_port()
    return config.model_copy(update={"sinks": (LiveSink(kind="live", host=HOST, port=port),)})


class Screen(Protocol):
    """Somebody who looks at the page."""

    def begin(self) -> None:
        """Count from now on."""

    def parts(self) -> int:
        """Return how many parts it got since."""


class _Drawing:
    """A browser that counts the parts that it has drawn."""

    def __init__(self, browser: Chromium) -> None:
        self._browser = browser

    def begin(self) -> None:
        self._browser.eval(f"{COUNT}; 0")

    def parts(self) -> int:
        return int(self._browser.eval("window.drawn"))


class _Director(threading.Thread):
    """Has browsers come and go; `look` is called by the loop that watches the line, and ends it."""

    def __init__(
        self, watcher: Watcher, config: Config, folder: Path, plan: Sequence[Where], count: int, seconds: float
    ) -> None:
        super().__init__(name="director")
        self.stopping = False
        [sink] = config.sinks
        assert isinstance(sink, LiveSink)
        self._port, self._folder, self._plan, self._count, self._seconds = sink.port, folder, plan, count, seconds
        self._watcher, self._phases = watcher, list[Phase]()
        self._error: LineWorkerError | None = None

    def look(self) -> None:
        """Raise _Over when all phases are."""
        if not self.is_alive():
            raise _Over

    def found(self) -> list[Phase]:
        """Return the phases; raises what has gone wrong in one of them."""
        if self._error is not None:
            raise self._error
        return self._phases

    def run(self) -> None:
        """Go through the phases."""
        try:
            self._until(lambda: len(self._watcher.elapsed_ms) > 0)
            for number, where in enumerate(self._plan):
                self._phase(number, where)
        except LineWorkerError as error:
            self._error = error

    def _phase(self, number: int, where: Where) -> None:
        with ExitStack() as stack:
            screens = [self._screen(stack, where, f"{number}-{one}") for one in range(self._count)]
            time.sleep(SETTLE_S)
            first, begun = len(self._watcher.elapsed_ms), time.monotonic()
            for screen in filter(None, screens):
                screen.begin()
            self._until(lambda: time.monotonic() - begun >= self._seconds)
            elapsed = self._watcher.elapsed_ms[first:]
            seconds = time.monotonic() - begun
            shown = tuple(screen.parts() / seconds for screen in screens if screen)
        self._phases.append(Phase(where, len(elapsed), quantiles(elapsed), shown))

    def _screen(self, stack: ExitStack, where: Where, name: str) -> Screen | None:
        if where == "nobody":
            return None
        if where == "elsewhere":
            viewer = Viewer(HOST, self._port, self._seconds)
            stack.callback(viewer.close)
            return viewer
        browser = Chromium(self._folder / name, idle=True)
        stack.callback(browser.close)
        browser.open(f"http://{HOST}:{self._port}/")
        browser.until(SHOWS, READY_S)
        return _Drawing(browser)

    def _until(self, true: Callable[[], bool]) -> None:
        while not true():
            if self.stopping:
                raise LineWorkerError("the line has ended; see what it says above")
            time.sleep(0.02)
