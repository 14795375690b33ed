"""Which camera is meant, among those that are connected."""

from __future__ import annotations

from typing import NamedTuple

from line_worker.errors import SourceError


class Device(NamedTuple):
    """A camera that is connected; what is not known of it is ""."""

    id: str  # its transport's name for it: GenTL's id, an IP address
    vendor: str
    model: str
    serial: str
    name: str  # that its user gave it
    mac: str = ""

    def __str__(self) -> str:
        named = f", named {self.name}" if self.name else ""
        return f"{self.vendor} {self.model}, serial {self.serial}{named}"


def chosen(there: list[Device], wanted: str) -> int:
    """Return which camera is meant: by serial number, user's name, id, MAC or model; "" where there is only one.

    Raises SourceError unless exactly one is.
    """
    listed = "; ".join(map(str, there)) or "none"
    matches = [k for k, device in enumerate(there) if not wanted or wanted in device._replace(vendor="")]
    if len(matches) == 1:
        return matches[0]
    if not matches:
        raise SourceError(f"no camera {wanted or 'at all'} is connected; parts cannot be seen; connected: {listed}")
    raise SourceError(
        f"{len(matches)} cameras are {wanted!r}; parts cannot be seen; set `device` to what only one is called: "
        f"{listed}"
    )
