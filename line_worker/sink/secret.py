"""Passwords and signing keys of sinks: from files that nobody else can read, never from line.toml."""

from __future__ import annotations

import stat
from pathlib import Path

from line_worker.errors import SinkError


def read_secret(path: Path, who: str, what: str) -> bytes:
    """Return what the file at `path` holds, without the newline at its end; `who` needs it as `what`.

    Raises:
        SinkError: it is missing, empty, or open to others.
    """
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise SinkError(f"{who}: {path}, its {what}, is open to others, so it is not used; chmod 400 {path}")
        secret = path.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        why = error.strerror or error
        raise SinkError(f"{who}: {path}, its {what}, cannot be read ({why}); nothing is sent until it can") from error
    if not secret:
        raise SinkError(f"{who}: {path}, its {what}, is empty, so nothing is sent; write the {what} into it")
    return secret
