"""One role as a process: `python -m line_worker.role CONFIG hub|source|worker|sink [NAME] [--parent PID]`.

The one place with a broad `except`: whatever ends a role unexpectedly is logged once, and the process exits, so that
the supervisor or systemd starts it again.
"""

from __future__ import annotations

import argparse
import faulthandler
import signal
import sys
from pathlib import Path
from typing import TypeVar

import structlog

from line_worker.activation import activated
from line_worker.config import Config, load
from line_worker.errors import ConfigError, LineWorkerError
from line_worker.health import configure_logging, die_with_parent
from line_worker.memory import keep_large_buffers
from line_worker.priority import SOON, URGENT, take_priority

T = TypeVar("T")

ROLES = ("source", "hub", "worker", "sink")
PRIORITIES = {"source": URGENT, "hub": URGENT, "worker": SOON}  # a sink has its own


def run_role(config: Config, role: str, name: str = "") -> int:
    """Run `role` until it ends; returns the exit code.

    `name` is the camera of a source, the sink's name, or the number of a worker; it may be left out where there is
    only one.

    Raises:
        ConfigError: `name` is not in the configuration.
    """
    config = activated(config)
    take_priority(PRIORITIES.get(role, 0))
    if role == "hub":
        from line_worker.hub.run import run as run_hub

        return run_hub(config)
    if role == "source":
        from line_worker.source.run import run as run_source

        return run_source(config, _pick("camera", name, {c.name: c for c in config.cameras}))
    if role == "sink":
        from line_worker.sink.run import run as run_sink

        return run_sink(config, _pick("sink", name, {s.name: s for s in config.sinks}))
    from line_worker.worker.run import run as run_worker

    return run_worker(config, int(name or 0))


def _pick(what: str, name: str, choices: dict[str, T]) -> T:
    if not name and len(choices) == 1:
        return next(iter(choices.values()))
    if name not in choices:
        raise ConfigError(f"{what} {name!r}", [f"is not in the configuration; choose one of: {', '.join(choices)}"])
    return choices[name]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="line_worker.role", description="Run one role of a line.")
    parser.add_argument("config", type=Path)
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("name", nargs="?", default="", help="camera, sink or number of the worker")
    parser.add_argument("--parent", type=int, default=0, help="end with this process")
    return parser


def main(arguments: list[str]) -> int:
    """Run the role named on the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    role, name = options.role, options.name
    if options.parent:
        die_with_parent(options.parent)
    keep_large_buffers()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # the supervisor asks a hung process for its stacks before it kills it
    configure_logging(f"{role}-{name}" if name else role)
    log = structlog.get_logger()
    try:
        return run_role(load(options.config), role, name)
    except LineWorkerError as error:
        log.error("cannot go on", error=str(error))  # noqa: TRY400 - meant for the user, who needs no traceback
        return error.exit_code
    except Exception:
        log.exception("unexpected end")
        return 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
