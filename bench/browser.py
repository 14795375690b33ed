"""A page in headless Chromium, driven over the pipe of its DevTools protocol: nothing to install beside the browser."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from line_worker.errors import LineWorkerError

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
    *("--js-flags=--expose-gc", "--window-size=1600,1000"),
]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MISSING = "Chromium is missing: apt-get install chromium"
LISTENS, SPEAKS = 3, 4  # descriptors of the browser's end of the pipe
POLL_S = 0.02


class BrowserError(LineWorkerError):
    """There is no browser, it has ended, or what was asked for went wrong in it."""


class Chromium:
    """One page of a headless browser, whose files lie in the folder `profile`; its log beside that.

    `call` is a method of the DevTools protocol, `eval` an expression in the page; `errors` is what the page has logged
    as such. `idle`: it takes only what all others leave of the processors. Every method raises BrowserError.
    """

    def __init__(self, profile: Path, *, idle: bool = False) -> None:
        self.check()
        (reads, self._out), (self._in, writes) = os.pipe(), os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, SPEAKS + 1) for end in (reads, writes)]
        moved = f"os.dup2({theirs[0]}, {LISTENS}); os.dup2({theirs[1]}, {SPEAKS})"
        gives_way = "os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); " if idle else ""
        launch = f"import os, sys; {moved}; {gives_way}os.execv(sys.argv[1], sys.argv[1:])"
        argv = [sys.executable, "-c", launch, str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        with profile.with_suffix(".log").open("wb") as log:
            self._process = subprocess.Popen(argv, pass_fds=theirs, stderr=log, stdout=log, process_group=0)
        for end in (reads, writes, *theirs):
            os.close(end)
        self._got, self._number, self._session = b"", 0, ""
        self.errors: list[str] = []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")

    @staticmethod
    def check() -> None:
        """Make sure that there is a browser."""
        if CHROMIUM is None:
            raise BrowserError(MISSING)

    def call(self, method: str, timeout_s: float = 60, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            answer = self._read()
            if answer.get("id") != self._number:
                self._hear(answer)
            elif "error" in answer:
                raise BrowserError(f"{method}: {answer['error']}")
            else:
                result: dict[str, Any] = answer["result"]
                return result
        raise BrowserError(f"{method}: no answer in {timeout_s:.0f} s")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._got:
            data = os.read(self._in, 1 << 20)
            if not data:
                raise BrowserError("the browser has ended")
            self._got += data
        text, _, self._got = self._got.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def _hear(self, event: dict[str, Any]) -> None:
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(event["params"]["exceptionDetails"])[:1000])
        if event.get("method") == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
            self.errors.append(event["params"]["entry"]["text"])

    def eval(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, of a promise what it comes to."""
        found = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise BrowserError(f"{expression}: {json.dumps(found['exceptionDetails'])[:1000]}")
        return found["result"].get("value")

    def open(self, url: str) -> None:
        """Go to `url`."""
        self.call("Page.navigate", url=url)

    def until(self, expression: str, timeout_s: float = 20) -> float:
        """Wait until the expression is true in the page; returns how many seconds that took."""
        start = time.monotonic()
        while not self.eval(f"Boolean({expression})"):
            if time.monotonic() - start > timeout_s:
                raise BrowserError(f"never came true: {expression}")
            time.sleep(POLL_S)
        return time.monotonic() - start

    def screenshot(self, path: Path) -> None:
        """Write what is to be seen as PNG."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser, with all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for end in (self._in, self._out):
            os.close(end)
