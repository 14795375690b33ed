"""How a role joins its line: by socket files, by ports of this host, or from another host with a key.

Off this host three things cannot be: pictures in shared memory, workers for cameras that put theirs there, and the
store, which takes the workers' pictures at the hub's address. Each is refused before anything starts.
"""

from __future__ import annotations

from collections.abc import Iterable

from line_worker.config import Camera, Config, LineSection, ShadowSink, StoreSink
from line_worker.config import Sink as SinkConfig
from line_worker.errors import ConfigError
from line_worker.wire.curve import Credentials
from line_worker.wire.hosts import host_of, is_here
from line_worker.wire.keys import read_public, read_secret
from line_worker.wire.sockets import Wire


def open_wire(config: Config, role: str, frame_bytes: int | None = None) -> Wire:
    """Return the wire of a process that plays `role`: hub, source, worker or sink.

    Raises:
        KeysError: its key or the hub's cannot be used.
    """
    line, room = config.line, config.frame_bytes if frame_bytes is None else frame_bytes
    return Wire(line.runtime, line.tcp, room, credentials(line, role))


def credentials(line: LineSection, role: str) -> Credentials | None:
    """Return what `role` proves itself with, None where no keys are used.

    Raises:
        KeysError: its key or the hub's cannot be used.
    """
    keys = line.keys
    if keys is None:
        return None
    own = read_secret(keys.dir / f"{getattr(keys, role)}.secret", role)
    return Credentials(own, read_public(keys.dir / f"{keys.hub}.public"), keys.dir)


def is_away(config: Config) -> bool:
    """Whether the hub runs on another host."""
    return bool(config.line.tcp) and not is_here(host_of(config.line.tcp))


def check_cameras(config: Config, who: str, cameras: Iterable[Camera]) -> None:
    """Check that `who`, on this host, and the hub can share the pictures of `cameras`.

    Raises:
        ConfigError: the hub is on another host, and a camera uses shared memory.
    """
    rings = [camera.name for camera in cameras if camera.transport == "ring"]
    if rings and is_away(config):
        what = f'have transport = "ring", shared memory, which does not reach the hub at {config.line.tcp}'
        raise ConfigError(who, [f'cameras {", ".join(rings)} {what}; give them transport = "inline" on every host'])


def check_sink(config: Config, sink: SinkConfig) -> None:
    """Check that `sink` can run on this host.

    Raises:
        ConfigError: the hub is on another host, and it is the store, or needs pictures in shared memory.
    """
    if isinstance(sink, ShadowSink):
        check_cameras(config, f"sink {sink.name}", config.cameras)
    if isinstance(sink, StoreSink) and is_away(config):
        why = f"takes the workers' pictures at the hub's address, {config.line.tcp}, which is not this host's"
        raise ConfigError(f"sink {sink.name}", [f"{why}; run the store on the hub's host"])
