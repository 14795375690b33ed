"""The OpenCV camera against GStreamer's RTSP server, which is killed under the stream and started again."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import scripted_hub
from line_worker.config import CameraSource
from line_worker.ports import free_port
from line_worker.source.announce import Announcer
from line_worker.source.camera import CameraFrames
from line_worker.source.run import Runner
from line_worker.verdicts import Reason, StationState
from line_worker.wire import messages as m
from line_worker.wire.sockets import Wire
from scripted_hub import Rig, rig_with

PYTHON = "/usr/bin/python3"  # Debian's, which sees Debian's packages
PACKAGES = "gir1.2-gst-rtsp-server-1.0 python3-gi gstreamer1.0-plugins-good gstreamer1.0-plugins-ugly"
HOW = f"apt-get install {PACKAGES}, then: pytest tests/test_source_rtsp.py"
ELEMENTS = "('videotestsrc', 'x264enc', 'rtph264pay')"
PROBE = f"""
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gst, GstRtspServer
Gst.init(None)
assert all(Gst.ElementFactory.find(name) for name in {ELEMENTS})
"""


def _installed() -> bool:
    return bool(shutil.which(PYTHON)) and not subprocess.run([PYTHON, "-c", PROBE], capture_output=True).returncode


@pytest.fixture(scope="module", autouse=True)
def _server_is_installed() -> None:
    if not _installed():
        pytest.skip(HOW)


class Server:
    """The RTSP server as a process; it has the same port again when it is started again."""

    def __init__(self) -> None:
        self._port = free_port()
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self._port}/camera"

    def start(self) -> None:
        command = [PYTHON, str(Path(__file__).with_name("rtsp_server.py")), str(self._port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={"PATH": "/usr/bin"})
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.kill()


class SourceThread(threading.Thread):
    """The source's own loop, against the hub of a rig."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(daemon=True)
        self._rig, self._ending = rig, threading.Event()

    def run(self) -> None:
        camera = self._rig.config.cameras[0]
        assert isinstance(camera.source, CameraSource)
        wire = Wire(self._rig.config.line.runtime, frame_bytes=self._rig.config.frame_bytes)
        source, announcer = CameraFrames(camera.source), Announcer("t", camera, wire)
        runner = Runner(source, announcer, live=True)
        while not self._ending.is_set():
            runner.turn()
            announcer.turn()
        source.close()
        announcer.close()
        wire.close()

    def end(self) -> None:
        self._ending.set()
        self.join()


def test_a_camera_that_is_killed_and_comes_back_is_told_and_seen_again(
    server: Server, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted_hub, "PATIENCE_S", 60.0)  # to open a stream takes its time on a busy machine
    source = {"kind": "camera", "device": server.url, "timeout_ms": 8000}
    with rig_with(short_path, source=source, max_frame_mb=1.0, deadline_ms=200.0, window=64) as rig:
        rig.worker(stall_ms=600_000.0)
        thread = SourceThread(rig)
        thread.start()
        try:
            rig.until_state(StationState.RUNNING)
            rig.sink.hears(m.Outcome, 3)
            server.kill()
            rig.until(lambda: rig.hub.station.state is not StationState.RUNNING)
            rig.until(lambda: any(server.url in state.cause for state in rig.sink.got(m.HubState)))
            server.start()
            rig.until_state(StationState.RUNNING)
            before = len(rig.sink.got(m.Outcome))
            outcomes = rig.sink.hears(m.Outcome, before + 3)
        finally:
            thread.end()
    assert [outcome.key.seq for outcome in outcomes] == list(range(len(outcomes))), "none is left out"
    assert len({outcome.key.epoch for outcome in outcomes}) == 1
    assert {Reason(outcome.reason) for outcome in outcomes} == {Reason.DEADLINE}, "what the stream had kept is no part"
