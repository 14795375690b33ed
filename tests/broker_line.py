"""What the tests of brokers share: a line with one sink, outcomes for it, and a whole line to run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from line_worker.config import Config, parse
from line_worker.sink import Sink, make_sink

HOST = "127.0.0.1"
LINE_TOML = """
[line]
name = "line-1"
runtime = "{folder}/run"
data = "{folder}/data"
[[cameras]]
name = "top"
deadline_ms = 2000
source = {{ kind = "synthetic", part = "noise", parts = {parts}, rate = 50, width = 64, height = 64 }}
canary_every_s = 0
[workers]
bundle = "stub"
[[sinks]]
{sink}
"""


def line(*sinks: dict[str, Any]) -> Config:
    camera = {"name": "top", "deadline_ms": 500, "source": {"kind": "camera", "device": 0}}
    return parse(
        {
            "line": {"name": "line-1", "runtime": "run", "data": "data"},
            "cameras": [camera],
            "workers": {"bundle": "some.bundle"},
            "sinks": list(sinks),
        }
    )


def sink_of(*sinks: dict[str, Any]) -> Any:
    """Return the first of `sinks`, in a line that has all of them; any sink, with what is its own."""
    config = line(*sinks)
    made: Sink = make_sink(config.sinks[0], config)
    return made


def serve(folder: Path, sink: str, parts: int) -> subprocess.Popen[bytes]:
    """Start a whole line of `parts` drawn parts, with `sink` as TOML."""
    (folder / "line.toml").write_text(LINE_TOML.format(folder=folder, sink=sink, parts=parts))
    command = [sys.executable, "-m", "line_worker.cli", "serve", str(folder / "line.toml")]
    return subprocess.Popen(command, stderr=subprocess.PIPE)
