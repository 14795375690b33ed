"""`line-worker serve` and `record`: a whole line on one host, until SIGTERM or until its sources are finished.

SIGHUP reads the configuration again. One with mistakes is refused whole, and the line goes on as it was. A good one is
applied whole: what is in hand is decided under the old one, in the order of an orderly stop, and the line starts under
the new one; in between the PLC's heartbeat stands still, so parts reject.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from line_worker.activation import absent_bundles
from line_worker.config import Config, LiveSink, RecordSink, Sink, load
from line_worker.errors import LineWorkerError, RecordingError
from line_worker.health import Notifier, ReloadFlag, StopFlag, configure_logging
from line_worker.supervisor import Supervisor
from line_worker.wire.recording import read_recording
from line_worker.wire.recording_writer import check_place

if TYPE_CHECKING:
    from line_worker.wire.rosimage import Compression

log = structlog.get_logger()


def to_serve(path: Path) -> Config:
    """Read a configuration to be served: its bundles must be there, or workers would be started for ever.

    Raises:
        ConfigError: listing every problem.
    """
    return load(path, absent_bundles)


def serve(read: Callable[[], Config]) -> int:
    """Run the line that `read` describes; returns 0 after an orderly end, 3 when its hub cannot start.

    Raises:
        ConfigError: the configuration cannot be used.
        AlreadyRunning: another instance runs this line.
    """
    config: Config | None = read()
    configure_logging("serve")
    stop, reload, notifier = StopFlag(), ReloadFlag(), Notifier()
    code = 0
    while config is not None:
        supervisor = Supervisor(config)
        supervisor.start()
        following = _run(supervisor, stop, reload, read, notifier)
        log.info("line stops", line=config.line.name, sources_finished=supervisor.finished, failed=supervisor.failed)
        code = _stop(supervisor, stop, notifier)
        if supervisor.failed:
            code, following = LineWorkerError.exit_code, None
        config = following
    notifier.close()
    return code


def record(read: Callable[[], Config], out: Path, compression: Compression = "none") -> int:
    """Run the line that `read` describes and record it into `out`; returns what `serve` does.

    Raises:
        RecordingError: `out` cannot be begun, which is said before the line starts, or nothing was recorded.
    """
    check_place(out)
    begun = False

    def read_once() -> Config:
        nonlocal begun
        if begun:  # its recorder would find its own finished file in its way
            raise RecordingError(f"{out}: a line does not change while it is recorded; end it, then record again")
        begun = True
        return with_page(with_recorder(read(), out, compression))

    code = serve(read_once)
    if not out.exists():
        raise RecordingError(f"{out}: was not finished, so nothing or not all is recorded; the line's log says why")
    if not any(True for _ in read_recording(out)):
        raise RecordingError(f"{out}: holds nothing; no part came while the line was recorded")
    return code


def _run(
    supervisor: Supervisor, stop: StopFlag, reload: ReloadFlag, read: Callable[[], Config], notifier: Notifier
) -> Config | None:
    """Turn until the line ends; returns the configuration that follows, None when none does."""
    config, was_ready = supervisor.config, False
    while not (stop or supervisor.finished or supervisor.failed):
        supervisor.turn()
        notifier.alive()
        if supervisor.ready and not was_ready:
            was_ready = True
            notifier.ready(f"line {config.line.name} is up")
            log.info("line is up", line=config.line.name, processes=len(supervisor.children))
        if reload.take() and (following := reread(config, read)) is not None:
            return following
    notifier.stopping()
    return None


def _stop(supervisor: Supervisor, stop: StopFlag, notifier: Notifier) -> int:
    """Stop the line; whoever asks again meanwhile is told, once, that this is under way."""
    told = False

    def on_turn() -> None:
        nonlocal told
        notifier.alive()
        if stop.again and not told:
            told = True
            log.warning("line is still stopping: wait, its books are being closed", at_most_s=supervisor.stops_within_s)

    return supervisor.stop(on_turn)


def reread(config: Config, read: Callable[[], Config]) -> Config | None:
    """Return the configuration that `read` finds now; None, and the reason in the log, when nothing follows from it."""
    try:
        found = read()
    except LineWorkerError as error:
        log.error("configuration refused, the line goes on as it was", error=str(error))  # noqa: TRY400 - for people
        return None
    changed = differences(config, found)
    if not changed:
        log.info("configuration unchanged", sha=_sha(config))
        return None
    if found.line.runtime != config.line.runtime or found.line.name != config.line.name:
        log.error("configuration refused: it is another line's, stop this one first", changed=changed)
        return None
    log.warning("configuration applied: the line restarts", changed=changed, old=_sha(config), new=_sha(found))
    return found


def differences(old: Config, new: Config) -> list[str]:
    """Name the keys that differ, without their values: some are passwords."""
    flat_old, flat_new = (_flat(json.loads(config.model_dump_json())) for config in (old, new))
    return sorted(key for key in flat_old.keys() | flat_new.keys() if flat_old.get(key) != flat_new.get(key))


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(f"{name}.{key}".lstrip("."), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{name}[{number}]", item) for number, item in enumerate(value)]
    else:
        return {name: value}
    return {key: item for inner, part in items for key, item in _flat(part, inner).items()}


def _sha(config: Config) -> str:
    return hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:12]


def with_recorder(config: Config, out: Path, compression: Compression = "none") -> Config:
    """Return `config` with a sink that records frames and outcomes into `out`."""
    name = _free_name(config, "record")
    return _with(config, RecordSink(kind="record", name=name, path=out.resolve(), compression=compression))


def with_page(config: Config) -> Config:
    """Return `config` with the page, unless it has one or wants none (`line.live`)."""
    if not config.line.live or any(isinstance(sink, LiveSink) for sink in config.sinks):
        return config
    return _with(config, LiveSink(kind="live", name=_free_name(config, "live")))


def _free_name(config: Config, wanted: str) -> str:
    names = {sink.name for sink in config.sinks}
    return next(name for name in (f"{wanted}-{n}" if n else wanted for n in itertools.count()) if name not in names)


def _with(config: Config, sink: Sink) -> Config:
    return config.model_copy(update={"sinks": (*config.sinks, sink)})
