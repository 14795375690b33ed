"""The line's ways in and out: cameras that give frames, a PLC that answers, ports that are free."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import NamedTuple

from line_worker.config import PORTS, Camera, Config, PlcSink, WrittenPlc
from line_worker.doctor import Finding, error, ok, warning
from line_worker.errors import SinkError, SourceError
from line_worker.joining import is_away
from line_worker.sink.plc.link import link_to
from line_worker.sink.plc.registers import FROM_PLC
from line_worker.source import LIVE, Captured, Source, make_source
from line_worker.verdicts import Reason

FRAME_S = 5.0  # how long a source may take for its first frame once it is open
REACH_S = 3.0

Check = Callable[[], Iterator[Finding]]


def camera_checks(config: Config, *, running: bool) -> Iterator[tuple[str, Check]]:
    """Yield a name and a check for each camera."""
    for camera in config.cameras:
        yield f"camera {camera.name}", partial(check_camera, camera, judged(config), running=running)


class Pictures(NamedTuple):
    """What a bundle judges: (H, W) or (H, W, 3), and the type of its values."""

    shape: tuple[int, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.shape[1]}x{self.shape[0]} {_kind(self.shape)} {self.dtype}"


def judged(config: Config) -> Pictures | None:
    """Return what pictures the bundle judges, None where nothing readable says so."""
    try:
        manifest = json.loads((config.workers.bundle / "manifest.json").read_bytes())
        return Pictures(tuple(manifest["input"]["shape"]), manifest["input"]["dtype"])
    except (OSError, ValueError, KeyError, TypeError):  # `check_bundle` says what is wrong with it
        return None


def check_camera(camera: Camera, wanted: Pictures | None, *, running: bool) -> Iterator[Finding]:
    """Open it, wait for a frame, close it. `wanted` is what the bundle judges."""
    what = f"camera {camera.name}"
    if running and camera.source.kind in LIVE:
        yield ok(what, "not tried: the running line has it")
        return
    source = make_source(camera)
    start = time.monotonic()
    try:
        source.open()
        yield _judged(what, camera, wanted, _first(source), time.monotonic() - start)
    except SourceError as failure:
        yield error(what, str(failure), "no part of this camera will be seen until it is put right")
    finally:
        source.close()


def _first(source: Source) -> Captured | None:
    until = time.monotonic() + FRAME_S
    while time.monotonic() < until and not source.finished:
        if (captured := source.read(0.2)) is not None:
            return captured
    return None


def _judged(what: str, camera: Camera, wanted: Pictures | None, captured: Captured | None, seconds: float) -> Finding:
    if captured is None:
        advice = "let a part pass, or look whether the camera is triggered; a watched folder may simply be empty"
        return warning(what, f"opens, but gave no frame within {FRAME_S:.0f} s", advice)
    if captured.pixels is None:
        advice = "look at the picture or the camera: such parts are rejected"
        return error(what, f"its first frame is NO_DECISION({Reason(captured.problem).name})", advice)
    seen = Pictures(captured.pixels.shape, str(captured.pixels.dtype))
    text = f"{seen}, the first frame after {seconds * 1e3:.0f} ms"
    if captured.pixels.nbytes > camera.max_frame_mb * 1e6:
        advice = f"set max_frame_mb to {captured.pixels.nbytes / 1e6 + 0.1:.1f}: larger frames are rejected"
        return error(what, f"{text}: larger than max_frame_mb = {camera.max_frame_mb:g}", advice)
    if wanted not in (None, seen):
        advice = "correct the camera's size or colour, or train on its pictures: such parts are NO_DECISION(SHAPE)"
        return error(what, f"{text}: the bundle judges {wanted}", advice)
    return ok(what, text)


def _kind(shape: tuple[int, ...]) -> str:
    return "gray" if len(shape) == 2 else "colour"


def plc_checks(config: Config, *, running: bool) -> Iterator[tuple[str, Check]]:
    """Yield a name and a check for each PLC."""
    for sink in config.sinks:
        if isinstance(sink, PlcSink | WrittenPlc):
            yield f"sink {sink.name}", partial(check_plc, sink, running=running)


def check_plc(sink: PlcSink | WrittenPlc, *, running: bool) -> Iterator[Finding]:
    """A PLC that we write to answers; a port on which one polls us is free."""
    what, place = f"sink {sink.name}", f"{sink.host}:{sink.port}"
    if running:
        yield ok(what, f"not tried: the running line has {place}")
    elif sink.kind != "plc" or (sink.mode == "client" and not sink.simulate):
        yield _answers(what, sink)
    else:
        yield free(what, sink.host, sink.port, f"{'the simulated PLC' if sink.simulate else 'the PLC'} needs it")


def _answers(what: str, sink: PlcSink | WrittenPlc) -> Finding:
    try:
        with closing(link_to(sink, timeout_s=2.0)) as link:
            link.read(FROM_PLC)  # the end of the map: what comes before it is there, too
    except SinkError as failure:
        return error(what, str(failure), "until the PLC answers, the station does not run and nothing passes")
    return ok(what, f"the PLC at {sink.host}:{sink.port} answers")


def check_ports(config: Config, *, running: bool) -> Iterator[Finding]:
    """The ports that the configuration names are free."""
    hub = "" if is_away(config) else config.line.tcp  # the hub's host looks after its own
    named = [("line.tcp", hub, PORTS), ("line.metrics", config.line.metrics, 1)]
    for what, address, count in named:
        if not address or running or (what == "line.tcp" and is_away(config)):
            continue
        host, port = address.rsplit(":", 1)
        taken = [f for n in range(count) if (f := free(what, host, int(port) + n, "the line needs it")).advice]
        yield from taken or [ok(what, f"{address} is free" if count == 1 else f"{address} and the next ones are free")]


def check_hub(config: Config) -> Iterator[Finding]:
    """A hub on another host can be reached."""
    if not is_away(config):
        return
    host, port = config.line.tcp.rsplit(":", 1)
    try:
        socket.create_connection((host, int(port)), timeout=REACH_S).close()
    except OSError as failure:
        advice = "start the hub there, or look for a firewall in between"
        yield error("hub", f"{config.line.tcp} cannot be reached ({failure}), so this host cannot take part", advice)
    else:
        yield ok("hub", f"{config.line.tcp} can be reached")


def free(what: str, host: str, port: int, why: str) -> Finding:
    """Whether a server of ours can listen there; `why` it must."""
    try:
        socket.create_server((host, port)).close()
    except OSError as failure:
        advice = f"stop what uses it, or give another address: {why}"
        return error(what, f"{host}:{port} cannot be used ({failure.strerror})", advice)
    return ok(what, f"{host}:{port} is free")
