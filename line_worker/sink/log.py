"""Outcomes as JSON lines, for people, `tail -f` and scripts: one object a line, to a file or to standard output.

At least once: an outcome may stand twice in the file when the sink was restarted between writing and acknowledging;
`line`, `camera`, `epoch` and `seq` tell. Within one run nothing is written twice. A line is with the operating system
before it is acknowledged, so it survives a crash of this process; after a power failure the hub's journal is the
record, not this file.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from line_worker.errors import SinkError
from line_worker.sink import QuietSink
from line_worker.sink.recent import RecentKeys
from line_worker.wire.messages import Outcome

TAIL = 1 << 20  # bytes searched for the end of the last whole line


def to_line(outcome: Outcome) -> bytes:
    """Return `outcome` as one line of JSON; the key's parts stand beside the other fields."""
    fields = asdict(outcome)
    return json.dumps(fields.pop("key") | fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


class Log(QuietSink):
    """Writes to the file at `path`, or to standard output when there is none."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._fd = -1
        self._regular = False
        self._written = RecentKeys()
        self.duplicates = 0

    @property
    def _name(self) -> str:
        return str(self.path or "standard output")

    def open(self) -> None:
        """Open the file and cut off what a crash left of its last line.

        Raises:
            SinkError: it cannot be opened, or its end was not written by this sink.
        """
        try:
            self._fd = self._open()
            self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
            if self.path and self._regular:
                self._repair()
        except OSError as error:
            self.close()
            raise self._failed(error) from error

    def _open(self) -> int:
        if self.path is None:
            return os.dup(1)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    def _repair(self) -> None:
        size = os.fstat(self._fd).st_size
        tail = os.pread(self._fd, TAIL, max(0, size - TAIL))
        torn = tail[tail.rfind(b"\n") + 1 :]
        if torn and not torn.startswith(b"{"):
            self.close()
            raise SinkError(
                f"{self.path}: ends in something that is not an outcome, so it is left alone; nothing is logged until "
                "the log sink is given another path"
            )
        os.ftruncate(self._fd, size - len(torn))

    def deliver(self, outcome: Outcome, now: float) -> bool:
        """Append `outcome`, unless this run has written it already.

        Raises:
            SinkError: the file cannot take it now; what was written of it is taken back.
        """
        if outcome.key in self._written:
            self.duplicates += 1
            return True
        try:
            self._append(to_line(outcome))
        except OSError as error:
            raise self._failed(error) from error
        self._written.add(outcome.key)
        return True

    def _append(self, line: bytes) -> None:
        """Write all of `line` or, in a file, nothing of it."""
        before = os.fstat(self._fd).st_size
        rest = memoryview(line)
        try:
            while rest:
                rest = rest[os.write(self._fd, rest) :]
        except OSError:
            if self._regular:
                with suppress(OSError):  # then the next start repairs it
                    os.ftruncate(self._fd, before)
            raise

    def _failed(self, error: OSError) -> SinkError:
        return SinkError(
            f"{self._name}: outcomes cannot be logged ({error.strerror}); the hub keeps them until they can; "
            "free space or correct the log sink's path"
        )

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
