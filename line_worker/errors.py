"""Every error that line-worker raises on purpose.

    LineWorkerError            who failed, what follows, what to do; exit code 3 unless said otherwise
    +-- ConfigError            line.toml or a command's arguments are wrong; lists every problem at once
    +-- DatasetError           the images to learn from are missing, unreadable, mixed or too few
    +-- ImageError             one image cannot be used (carries the NO_DECISION reason that it becomes)
    +-- BundleError            a bundle is damaged, of another version, or does not reproduce its golden images
    +-- WireError
    |   +-- DecodeError        a message is malformed, of an unknown version, or holds an unknown field
    |   +-- FrameError         pixels are not what their header says (carries the NO_DECISION reason)
    |   +-- KeysError          a key is missing, damaged, of another role, or open to others
    +-- DeviceMemoryError      a batch did not fit into the memory of the device
    +-- SourceError            a camera, folder, video or recording cannot be opened or stopped giving frames
    +-- SinkError              a PLC, store or log cannot be reached or written
    +-- JournalError           the hub's journal cannot be opened or written
    |   +-- JournalDamaged     its file is no journal any more
    +-- RecordingError         a recording cannot be opened, read or written
    +-- AlreadyRunning         another instance holds this line's endpoints

Each message names the thing at fault first, then what follows from it, then what the user can do.
"""

from __future__ import annotations

from line_worker.verdicts import Reason


class LineWorkerError(Exception):
    """Base of all errors meant for the user; `exit_code` is what the command ends with."""

    exit_code = 3


class ConfigError(LineWorkerError):
    """The configuration is wrong; `problems` holds one line each."""

    def __init__(self, where: str, problems: list[str]) -> None:
        self.where, self.problems = where, problems
        super().__init__("\n".join([f"{where}: {len(problems)} problem(s)", *(f"  - {p}" for p in problems)]))


class DatasetError(LineWorkerError):
    """The images to learn from cannot be used."""


class ImageError(LineWorkerError):
    """One image cannot be used; `reason` is the NO_DECISION reason it becomes."""

    def __init__(self, message: str, reason: Reason = Reason.DECODE) -> None:
        self.reason = reason
        super().__init__(message)


class BundleError(LineWorkerError):
    """A bundle cannot be trusted and is not loaded."""


class DeviceMemoryError(LineWorkerError):
    """A batch did not fit into the memory of the device that computes it."""


class WireError(LineWorkerError):
    """Something that travels between processes is wrong."""


class DecodeError(WireError):
    """A message is malformed; nothing of it is used."""


class FrameError(WireError):
    """Pixels are not what their header says; `reason` is the NO_DECISION reason."""

    def __init__(self, message: str, reason: Reason) -> None:
        self.reason = reason
        super().__init__(message)


class KeysError(WireError):
    """A key cannot be used, made or revoked."""


class SourceError(LineWorkerError):
    """A source of frames cannot be opened or has stopped."""


class SinkError(LineWorkerError):
    """A sink cannot be reached or written."""


class JournalError(LineWorkerError):
    """The journal cannot be opened or written; `disk_full` when more room would help."""

    disk_full = False


class JournalDamaged(JournalError):
    """The journal's file is damaged, or is no journal at all."""


class RecordingError(LineWorkerError):
    """A recording cannot be opened, read or written."""


class AlreadyRunning(LineWorkerError):
    """Another instance holds this line's endpoints."""
