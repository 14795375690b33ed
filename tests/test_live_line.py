"""The page beside a real line, without a browser: pictures of both transports, and limits that the hub takes."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from line_worker.ports import free_port

PATIENCE_S = 60.0  # of a busy machine; a line that has ended is not waited for


class Line:
    """`line-worker serve` with a stub, a page and two cameras, one of which sends its pictures in messages."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        source = {"kind": "synthetic", "part": "noise", "rate": 20, "width": 64, "height": 64}
        cameras = [
            {"name": name, "deadline_ms": 5000, "transport": name, "source": source} for name in ("ring", "inline")
        ]
        line = {"name": "l", "runtime": str(folder / "run"), "data": str(folder / "data")}
        sinks = [{"kind": "live", "port": port}]
        config = {"line": line, "cameras": cameras, "workers": {"bundle": "stub"}, "sinks": sinks}
        (folder / "line.json").write_text(json.dumps(config))
        command = [str(Path(sys.executable).parent / "line-worker"), "serve", str(folder / "line.json")]
        self.log = folder / "line.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stderr=log, stdout=log)

    def next(self, camera: str) -> tuple[dict[str, Any], bytes]:
        with urllib.request.urlopen(f"{self.url}/next?seen=&camera={camera}", timeout=10) as answer:
            told, _, jpeg = answer.read().partition(b"\n")
        return json.loads(told), jpeg

    def until(self, camera: str, what: Any) -> tuple[dict[str, Any], bytes]:
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(OSError):
                if what(found := self.next(camera)):
                    return found
            time.sleep(0.05)
        raise AssertionError(self.log.read_text()[-3000:])

    def post(self, **message: Any) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self.url}/threshold", json.dumps(message).encode(), headers)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return dict(json.loads(answer.read()))

    def close(self) -> None:
        self._process.terminate()
        assert self._process.wait(60) == 0, self.log.read_text()[-3000:]


@pytest.fixture(scope="module")
def line() -> Iterator[Line]:
    with tempfile.TemporaryDirectory(prefix="lw") as folder:
        found = Line(Path(folder))
        yield found
        found.close()


@pytest.mark.parametrize("camera", ["ring", "inline"])
def test_the_newest_part_has_a_picture_whatever_carries_it(line: Line, camera: str) -> None:
    told, jpeg = line.until(camera, lambda found: found[1])
    assert told["part"]["camera"] == camera
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_UNCHANGED).shape == (64, 64)


def test_a_limit_that_the_page_sets_is_the_one_that_parts_are_held_against(line: Line) -> None:
    line.until("ring", lambda found: found[0]["board"]["thresholds"].get("ring", {}).get("at") == 1.0)
    assert line.post(camera="ring", at=1.5, who="Ada", less_sensitive=True)["after"] == 1.5
    line.until("ring", lambda found: found[0].get("part", {}).get("threshold") == 1.5)
    told, _ = line.until("ring", lambda found: found[0]["board"]["thresholds"]["ring"]["less_sensitive"])
    assert told["board"]["thresholds"]["inline"]["at"] == 1.0, "the other camera keeps its own"
    assert line.post(camera="ring", at=None, who="Ada")["after"] is None
    line.until("ring", lambda found: found[0].get("part", {}).get("threshold") == 1.0)
