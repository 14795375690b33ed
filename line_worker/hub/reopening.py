"""Opens the journal at boot; one that is damaged is set aside under its name plus the date, and a new one begun.

What an earlier hub has set aside and nobody has acknowledged is found by its file, so that a hub killed in between
hides nothing. How long a check may take is bounded: a hub that restarts has parts waiting.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

import structlog

from line_worker.errors import JournalDamaged
from line_worker.hub.journal import Journal

log = structlog.get_logger()

CHECK_S = 0.25
_BESIDE = ("-wal", "-shm")  # SQLite's own files, where it has left any


def open_journal(path: Path, line: str, views: Collection[str] = ()) -> tuple[Journal, bool]:
    """Return the journal at `path`, and whether it is a new one in place of one that was damaged. `views`: see there.

    Raises:
        JournalError: it cannot be opened, and not because it is damaged.
    """
    try:
        return _checked(path, line, views), False
    except JournalDamaged as error:
        aside = _set_aside(path)
        log.error(  # noqa: TRY400 - said to the user, in words
            "journal is damaged: set aside, a new one begins", error=str(error), aside=str(aside)
        )
    return Journal(path, line, views), True


def set_aside(path: Path) -> list[str]:
    """Return the names of the damaged journals beside `path`, oldest first."""
    return sorted(found.name for found in path.parent.glob(f"{path.name}.damaged-*") if found.name[-4:] not in _BESIDE)


def _checked(path: Path, line: str, views: Collection[str]) -> Journal:
    journal = Journal(path, line, views)
    try:
        journal.check(CHECK_S)
    except JournalDamaged:
        journal.close()
        raise
    return journal


def _set_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.damaged-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}")
    for beside in _BESIDE:
        if (log_file := Path(f"{path}{beside}")).exists():
            log_file.rename(f"{aside}{beside}")
    path.rename(aside)
    return aside
