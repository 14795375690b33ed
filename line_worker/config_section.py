"""What every table of line.toml has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

PORTS = 4  # that follow `line.tcp`: one a link
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")]


def _has_ports(tcp: str) -> str:
    if tcp and not 1 <= int(tcp.rsplit(":", 1)[1]) <= 65536 - PORTS:
        raise ValueError(f"the port should be between 1 and {65536 - PORTS}: {PORTS} ports from there on are used")
    return tcp


def _has_port(address: str) -> str:
    if address and not 1 <= int(address.rsplit(":", 1)[1]) <= 65535:
        raise ValueError("the port should be between 1 and 65535")
    return address


Tcp = Annotated[str, Field(pattern=r"^(|[A-Za-z0-9][A-Za-z0-9.-]*:\d{1,5})$"), AfterValidator(_has_ports)]
Loopback = Annotated[str, Field(pattern=r"^(|(127\.0\.0\.1|localhost):\d{1,5})$"), AfterValidator(_has_port)]


class Section(BaseModel):
    """A table of line.toml: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
