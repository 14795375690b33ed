"""What of line.toml says when a camera stops the line, and how it is checked that the station still sees."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from line_worker.config_section import Section


class LineRules(Section):
    """When a camera's outcomes stop the line until the operator acknowledges it; 0 turns a rule off.

    A reject is whatever is not PASS. Every rule begins anew when it has been acknowledged.
    """

    rejects_in_row: int = Field(default=0, ge=0, le=100_000)
    undecided_in_row: int = Field(default=0, ge=0, le=100_000)  # NO_DECISION
    reject_rate: float = Field(default=0.0, ge=0, lt=1)  # more than this share of the last `window` parts
    window: int = Field(default=100, ge=2, le=100_000)
    silent_window: int = Field(default=0, ge=0, le=1_000_000)  # so many parts passed without one FAIL


class Checks(Section):
    """A camera's line rules, canaries and challenges."""

    rules: LineRules = LineRules()
    canary_every_s: float = Field(default=0.0, ge=0, le=86_400)  # a defect painted on a live part must fail; 0: never
    challenge_every_s: float = Field(default=0.0, ge=0, le=31_536_000)  # known-bad parts are to be shown; 0: never
    challenge_parts: int = Field(default=3, ge=1, le=1000)
    challenge_overdue: Literal["warn", "stop"] = "warn"
