"""`line-worker serve` and `record`: a whole line on one host, until SIGTERM or until its sources are finished."""

from __future__ import annotations

import itertools
from pathlib import Path

import structlog

from line_worker.config import Config, RecordSink
from line_worker.errors import LineWorkerError
from line_worker.health import Notifier, StopFlag, configure_logging
from line_worker.supervisor import Supervisor

log = structlog.get_logger()


def serve(config: Config) -> int:
    """Run the line; returns 0 when every process ended in good order, 3 when its hub cannot start.

    Raises:
        AlreadyRunning: another instance runs this line.
    """
    configure_logging("serve")
    stop, notifier = StopFlag(), Notifier()
    supervisor = Supervisor(config)
    supervisor.start()
    was_ready = False
    while not (stop or supervisor.finished or supervisor.failed):
        supervisor.turn()
        notifier.alive()
        if supervisor.ready and not was_ready:
            was_ready = True
            notifier.ready(f"line {config.line.name} is up")
            log.info("line is up", line=config.line.name, processes=len(supervisor.children))
    notifier.stopping()
    log.info("line stops", line=config.line.name, sources_finished=supervisor.finished, failed=supervisor.failed)
    code = supervisor.stop()
    notifier.close()
    return LineWorkerError.exit_code if supervisor.failed else code


def with_recorder(config: Config, out: Path) -> Config:
    """Return `config` with a sink that records frames and outcomes into `out`."""
    names = {sink.name for sink in config.sinks}
    name = next(name for name in (f"record-{n}" if n else "record" for n in itertools.count()) if name not in names)
    recorder = RecordSink(kind="record", name=name, path=out.resolve())
    return config.model_copy(update={"sinks": (*config.sinks, recorder)})
