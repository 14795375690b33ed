"""What the hub needs to know of the configuration."""

from __future__ import annotations

import json

from line_worker.config import STUB_LIMIT, Config
from line_worker.hub.part import CameraRules


def camera_rules(config: Config) -> dict[str, CameraRules]:
    """Return what the ledger needs to know of each camera."""
    views = config.views()
    cameras = {
        c.name: CameraRules(
            *(c.deadline_ms / 1000, c.window, int(c.max_frame_mb * 1e6), c.frozen == "allow"), view=c.name in views
        )
        for c in config.cameras
    }
    windows = sum(c.window for c in config.cameras)
    parts = {
        p.name: CameraRules(config.deadline_ms(p.name) / 1000, windows, 0, repeats=True, gathered=True)
        for p in config.parts
    }
    return cameras | parts


def calibration(config: Config) -> tuple[int, float]:
    """Return how many scores the configured bundle's limit was made from, and that limit; 0 where nothing says so."""
    if config.workers.stub:
        return 0, STUB_LIMIT
    try:
        manifest = json.loads((config.workers.bundle / "manifest.json").read_bytes())
        return len(manifest["calibration"]["scores"]), float(manifest["threshold"])
    except (OSError, ValueError, KeyError, TypeError):  # what is wrong with a bundle is said where it is loaded
        return 0, 0.0
