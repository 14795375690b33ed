"""Which bundle a line judges with: the one that line.toml names, or the one that was activated on the line since.

An activation is kept in active.json in the line's data folder, so that whatever starts again judges with it. It holds
until line.toml names another bundle than the one that it replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from line_worker.config import STUB, Config
from line_worker.errors import ConfigError

NAME = "active.json"


def bundle_sha(bundle: Path) -> str:
    """Return the sha256 that names the bundle at `bundle`, "" when there is none to read."""
    try:
        return hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return ""


def bundle_input(bundle: Path) -> Any:
    """Return what pictures the bundle at `bundle` is for, None when it does not say."""
    try:
        return json.loads((bundle / "manifest.json").read_bytes()).get("input")
    except (OSError, ValueError, AttributeError):
        return None


def activated(config: Config) -> Config:
    """Return `config` with the bundle that was activated in place of line.toml's.

    Raises:
        ConfigError: active.json cannot be read. Which bundle was approved is not guessed.
    """
    kept = _kept(config.line.data)
    if not kept or kept["replaces"] != str(config.workers.bundle):
        return config
    return _with(config, Path(kept["bundle"]))


def keep(config: Config, bundle: Path) -> Config:
    """Make `bundle` the one that the line starts with, and return its configuration.

    Raises:
        ConfigError: the data folder does not take it.
    """
    kept = _kept(config.line.data)
    same = kept is not None and kept["bundle"] == str(config.workers.bundle)
    replaces = kept["replaces"] if kept is not None and same else str(config.workers.bundle)
    path = config.line.data / NAME
    try:
        new = path.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump({"bundle": str(bundle), "sha": bundle_sha(bundle), "replaces": replaces}, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise ConfigError(str(path), [f"cannot be written: {error}; the line keeps its bundle"]) from error
    return _with(config, bundle)


def absent_bundles(raw: dict[str, Any], base: Path) -> list[str]:
    """Return a problem for each bundle that `raw`, as read from line.toml in `base`, names and that is not there.

    With an activation it is the activated one that must be. What is wrong with `raw` otherwise is not said here.

    Raises:
        ConfigError: active.json cannot be read.
    """
    bundle, data = _path(raw.get("workers"), "bundle", base), _path(raw.get("line"), "data", base)
    kept = _kept(data) if data else None
    if kept and kept["replaces"] == str(bundle):
        bundle = Path(kept["bundle"])
    recipes = raw["recipes"] if isinstance(raw.get("recipes"), (list, tuple)) else ()
    named = {"workers.bundle": bundle}
    named |= {f"recipes[{n}].bundle": _path(one, "bundle", base) for n, one in enumerate(recipes, 1)}
    remedy = "correct the path, or make it with `line-worker train`"
    return [
        f"{key} = {str(path)!r}: is not there; {remedy}" for key, path in named.items() if path and not path.exists()
    ]


def _path(table: object, key: str, base: Path) -> Path | None:
    """Return the path under `key`, None where there is none, or the stub."""
    value = table.get(key) if isinstance(table, dict) else None
    if not isinstance(value, (str, Path)) or value in (str(STUB), STUB):
        return None
    return base / Path(value).expanduser()


def _kept(data: Path) -> dict[str, Any] | None:
    path = data / NAME
    try:
        kept = json.loads(path.read_text("utf-8"))
        if isinstance(kept["bundle"], str) and isinstance(kept["replaces"], str):
            return dict(kept)
        problem = "does not name a bundle"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        problem = f"cannot be read ({type(error).__name__}: {error})"
    raise ConfigError(str(path), [f"{problem}; remove it to go back to line.toml's bundle, or activate one again"])


def _with(config: Config, bundle: Path) -> Config:
    return config.model_copy(update={"workers": config.workers.model_copy(update={"bundle": bundle})})
