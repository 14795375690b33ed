"""What a bundle goes through before a running line changes to it, and how the change is followed to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from line_worker.activation import activated
from line_worker.bundle import Bundle
from line_worker.config import Config
from line_worker.errors import BundleError
from line_worker.selftest import self_tested
from line_worker.wire.control import ask

EVERY_S = 0.2


def check(config: Config, bundle: Path) -> Bundle:
    """Return the bundle at `bundle` after it has reproduced its golden images here, as the line's workers will.

    Raises:
        BundleError: it is damaged, does not reproduce, or is for pictures of another kind than the line's.
    """
    new = Bundle.load(bundle)
    old = Bundle.load(activated(config).workers.bundle)
    if new.manifest["input"] != old.manifest["input"]:
        raise BundleError(
            f"{bundle}: is for pictures of {_words(new)}, the line's are {_words(old)}; the line keeps its bundle"
        )
    self_tested(new, config.workers.device, config.workers.runtime)
    return new


def activate(config: Config, bundle: Path, pause: Callable[[float], None] = time.sleep) -> Iterator[dict[str, Any]]:
    """Have the running line change to `bundle`; yields how it goes whenever that changes, last how it ended.

    Raises:
        BundleError: the bundle is not fit for this line. ConfigError, WireError: the hub refuses, or is not there.
    """
    check(config, bundle)
    ask(config.line.runtime, "activate", bundle=str(bundle.resolve()))
    seen: dict[str, Any] = {}
    while seen.get("phase") not in ("done", "failed"):
        found = ask(config.line.runtime, "status")["bundle_change"]
        if found != seen:
            seen = found
            yield found
        pause(EVERY_S)


def _words(bundle: Bundle) -> str:
    return f"{' x '.join(map(str, bundle.manifest['input']['shape']))} {bundle.manifest['input']['dtype']}"
