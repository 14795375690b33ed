"""The hub's control socket, what both ends know: a unix stream socket that carries one JSON object a line.

A request is {"command": NAME, ...arguments}; the answer is {"ok": true, ...} or {"ok": false, "error": WORDS}. Who may
connect is a matter of the file's mode (0660, in a folder of mode 0750); the kernel says who did.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from line_worker.errors import DecodeError, WireError

NAME = "control.sock"
MAX_REQUEST = 4096  # bytes of a line
MAX_ANSWER = 256 * 1024
PATIENCE_S = 10.0


def decode(line: bytes) -> dict[str, Any]:
    """Return the JSON object in `line`.

    Raises:
        DecodeError: it holds none.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DecodeError(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise DecodeError("one JSON object a line is expected")
    return found


def encode(message: dict[str, Any]) -> bytes:
    """Return `message` as one line."""
    return json.dumps(message).encode() + b"\n"


def ask(runtime: Path, command: str, timeout_s: float = PATIENCE_S, **arguments: Any) -> dict[str, Any]:
    """Have the hub of the line in `runtime` carry out `command`; returns its answer.

    Raises:
        WireError: no hub answers, or it refuses the command.
    """
    path = runtime / NAME
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
            channel.settimeout(timeout_s)
            channel.connect(str(path))
            channel.sendall(encode({"command": command, **arguments}))
            with channel.makefile("rb") as stream:
                line = stream.readline(MAX_ANSWER)
        answer = decode(line)
    except (OSError, DecodeError) as error:
        raise WireError(
            f"{path}: no hub answers there ({error}), so {command} was not carried out; is this line running on this "
            "host, and may this user enter its runtime folder?"
        ) from error
    if answer.get("ok") is not True:
        raise WireError(f"{command}: the hub refuses it: {answer.get('error', 'it does not say why')}")
    return answer
