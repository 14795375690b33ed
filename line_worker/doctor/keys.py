"""The keys of a line that spans hosts: there, of the right role, and readable by nobody else."""

from __future__ import annotations

from collections.abc import Iterator

from line_worker.config import Config
from line_worker.doctor import Finding, error, ok, warning
from line_worker.errors import KeysError
from line_worker.joining import credentials, is_away
from line_worker.wire.keys import ROLES, listed


def check_keys(config: Config) -> Iterator[Finding]:
    """Every file of the folder is sound, and each role that may run here can prove itself."""
    keys = config.line.keys
    if keys is None:
        return
    try:
        found, problems = listed(keys.dir)
    except KeysError as failure:
        yield error("keys", str(failure), "no process of this host will start without its key")
        return
    yield from (error("keys", problem, "such a key is not used, and may have been read") for problem in problems)
    for role in ROLES:
        yield _role(config, role)
    yield ok("keys", f"{keys.dir}: {sum(key['state'] == 'valid' for key in found)} keys are on the list")


def _role(config: Config, role: str) -> Finding:
    keys = config.line.keys
    assert keys is not None
    path = keys.dir / f"{getattr(keys, role)}.secret"
    if not path.exists() and (role != "hub" or is_away(config)):
        return warning(
            f"key of {role}", f"{path}: is not here", f"no {role} can run on this host; copy it if one should"
        )
    try:
        credentials(config.line, role)
    except KeysError as failure:
        return error(f"key of {role}", str(failure), f"no {role} will start here with it")
    return ok(f"key of {role}", f"{path}: is used by nobody else")
