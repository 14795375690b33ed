"""Drawn parts, good and bad, at a rate; their part ids tell the truth ("0012:good", "0013:scratch").

Part i depends on the seed and on i only, so that two runs see the same parts. `part = "noise"` gives pictures of noise
made once and numbered in their first bytes, which costs next to nothing: with them the line is measured, not the
drawing; `part = "grain"` likewise a ramp with a sensor's noise, which compresses as a photograph does. No two are the
same, or a line that drops all between two that are would take its camera for frozen.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np

from line_worker.errors import SourceError
from line_worker.source.pacing import PacedSource, Shot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from line_worker.config import SyntheticSource

NOISE, GRAIN = "noise", "grain"
NOISE_PICTURES = 8
GRAIN_LEVELS = 2.0  # standard deviation of a sensor's noise, in levels of 255


class SyntheticFrames(PacedSource):
    """See the module's text."""

    ahead = 8

    def __init__(self, config: SyntheticSource) -> None:
        super().__init__()
        self._config = config

    def open(self) -> None:
        """Start drawing; SourceError for a part that cannot be drawn."""
        from line_worker.source.drawing import KINDS

        known = (*KINDS, NOISE, GRAIN)
        if self._config.part not in known:
            raise SourceError(
                f"part {self._config.part!r} cannot be drawn; no frames come; use one of {', '.join(known)}"
            )
        super().open()

    def shots(self) -> Generator[Shot]:
        """Yield drawn parts."""
        parts = self._noise() if self._config.part in (NOISE, GRAIN) else self._drawn()
        for number, shot in enumerate(itertools.islice(parts, self._config.parts)):
            yield shot._replace(offset=number / self._config.rate, trigger=number)

    def _drawn(self) -> Generator[Shot]:
        from line_worker.source.drawing import DEFECTS, draw_part

        config = self._config
        for number in itertools.count():
            rng = np.random.default_rng([config.seed, number])
            defect = str(rng.choice(DEFECTS)) if rng.random() < config.defects else ""
            size = (config.height, config.width)
            drawn = draw_part(rng, config.part, defect, size, config.colour, bits=config.bits)
            yield Shot(drawn.image, part_id=f"{number:04d}:{defect or 'good'}")

    def _noise(self) -> Generator[Shot]:
        pictures = [self._noise_picture(number) for number in range(NOISE_PICTURES)]
        for number, picture in enumerate(itertools.cycle(pictures)):
            numbered = picture.copy()
            numbered.reshape(-1).view(np.uint8)[:8] = np.frombuffer(number.to_bytes(8, "little"), np.uint8)
            yield Shot(numbered, part_id=f"{number:04d}:{self._config.part}")

    def _noise_picture(self, number: int) -> NDArray[Any]:
        config = self._config
        rng = np.random.default_rng([config.seed, number])
        shape = (config.height, config.width, 3)[: 3 if config.colour else 2]
        kind, full = np.uint8 if config.bits == 8 else np.uint16, 2**config.bits
        if config.part == NOISE:
            return rng.integers(0, full, shape, kind)
        ramp = np.linspace(0.2, 0.8, config.width, dtype=np.float32).reshape(1, -1, *([1] * config.colour))
        levels = (ramp + rng.normal(0, GRAIN_LEVELS / 255, shape)) * full
        return np.asarray(np.clip(levels, 0, full - 1), kind)
