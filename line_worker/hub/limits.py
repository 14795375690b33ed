"""Limits that people have set in place of the bundle's own: whom, when, from what to what. Pure.

A bundle's limit comes from good parts. Another one is for that bundle alone, whose scores it is about: when another
bundle judges it does not hold, and it comes back with its own. A limit above the bundle's own lets more defects pass:
it has to be asked for as such, and is warned of for as long as it holds. The hub sends the limit with every lease, so
each part has the one that held when it was given to a worker, and takes no answer that was held against another.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from line_worker.errors import ConfigError

KEPT = 50  # changes that are remembered
MAX_WHO = 64
HIGHEST = 3.0  # times the bundle's own: beyond that nothing is inspected any more


@dataclass(frozen=True, slots=True)
class Change:
    """One change, at Unix time `wall`. `own` is the bundle's own limit, to which `after` None has returned."""

    camera: str
    bundle: str
    own: float
    before: float
    after: float | None
    who: str
    wall: float

    @property
    def less_sensitive(self) -> bool:
        """Whether more defects may pass than the bundle's own limit lets through."""
        return self.after is not None and self.after > self.own


class Limits:
    """The limits of one line's cameras, and how they came to be, oldest change first."""

    def __init__(self, changes: Iterable[Change] = ()) -> None:
        self.changes = list(changes)

    def of(self, camera: str, bundle: str) -> float | None:
        """Return the limit that somebody has set for what `bundle` makes of the camera's parts; None: its own."""
        last = self.last(camera, bundle)
        return None if last is None else last.after

    def last(self, camera: str, bundle: str) -> Change | None:
        """Return the newest change of the camera's limit for `bundle`, None where there is none."""
        return next((one for one in reversed(self.changes) if (one.camera, one.bundle) == (camera, bundle)), None)

    def changed(self, change: Change) -> Limits:
        """Return these limits after one more change; what lies far back is forgotten, but no limit that is set."""
        after = Limits([*self.changes, change])
        old = (one for one in after.changes[:-KEPT] if one is after.last(one.camera, one.bundle))
        return Limits([*(one for one in old if one.after is not None), *after.changes[-KEPT:]])

    def warnings(self, bundle: str) -> tuple[str, ...]:
        """Name the cameras that let more defects pass than the bundle would."""
        cameras = dict.fromkeys(change.camera for change in self.changes)
        found = (self.last(camera, bundle) for camera in cameras)
        return tuple(
            f"camera {change.camera}: LESS SENSITIVE, more defects may pass: {change.who} has set its limit to "
            f"{change.after:.4g}, the bundle's own is {change.own:.4g}"
            for change in found
            if change is not None and change.less_sensitive
        )

    def dump(self) -> str:
        """Return the changes as text for the journal."""
        return json.dumps([asdict(change) for change in self.changes])

    @classmethod
    def load(cls, text: str) -> Limits:
        """Return what is in `text`, "" for nothing."""
        return cls(Change(**one) for one in json.loads(text or "[]"))


def checked(change: Change, *, less_sensitive: bool) -> Change:
    """Return `change` when it may be made; `less_sensitive`: who asks for it knows that more defects may pass.

    Raises:
        ConfigError: the limit is no number above 0 or far too high, nobody asks for it, or not knowingly.
    """
    name, after, own = f"threshold of camera {change.camera}", change.after, change.own
    if not isinstance(change.who, str) or not 0 < len(change.who) <= MAX_WHO or not change.who.isprintable():
        raise ConfigError(name, [f"who: a change needs a name of at most {MAX_WHO} letters"])
    if after is None:
        return change
    if not _is_limit(after):
        raise ConfigError(name, [f"{after!r} is no limit: give a number above 0"])
    if after > HIGHEST * own:
        most = f"at most {HIGHEST:g} times the bundle's own ({own:.4g}) can be set"
        raise ConfigError(name, [f"{after:g} would inspect hardly anything: {most}; recalibrate the bundle instead"])
    if change.less_sensitive and less_sensitive is not True:
        what = f"{after:g} is above the bundle's own limit ({own:.4g})"
        raise ConfigError(name, [f"{what}: more defects may pass; ask for that with --less-sensitive"])
    return replace(change, after=float(after))


def _is_limit(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= sys.float_info.max
