"""What `train` is asked for, checked before any work starts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from line_worker.errors import ConfigError
from line_worker.vision.reconstruct import METHODS
from line_worker.vision.score import RULES

CHOICES: dict[str, tuple[str, ...]] = {
    "locate": ("auto", "background", "head", "full"),
    "pose": ("auto", "none", "translate", "rigid"),
    "reconstruct": ("auto", *METHODS),
    "rule": RULES,
}
AUTO = "hybrid"  # what reconstruct auto means


@dataclass(frozen=True)
class TrainOptions:
    """What `train` is asked for; `steps` and `pixels` override what `minutes` would give (for tests and the demo).

    exclude: a text file with names of good images to leave out. bad: a folder of defective parts, to report on only.
    masks: a folder of images that mark the part in each good one, see masks.py; then locate auto means head.
    zones, zone: a label image on the canonical picture and what its labels mean, see zoning.py. backbone: weights of
    the user's own. repeats: painted defects of each kind, size and contrast; 0 paints none.
    """

    good: Path
    out: Path
    locate: str = "auto"
    pose: str = "auto"
    reconstruct: str = "auto"
    rule: str = "zone"
    false_reject: float = 0.03
    minutes: float = 8.0
    seed: int = 0
    threads: int = 2
    steps: int | None = None
    pixels: int | None = None
    backbone: Path | None = None
    attention: bool = True
    exclude: Path | None = None
    bad: Path | None = None
    masks: Path | None = None
    zones: Path | None = None
    zone: tuple[str, ...] = ()
    repeats: int = 5

    @property
    def method(self) -> str:
        """The way to reconstruct."""
        return AUTO if self.reconstruct == "auto" else self.reconstruct

    def check(self) -> None:
        """Raise ConfigError with everything that is wrong."""
        wrong = [
            f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}"
            for name, allowed in CHOICES.items()
            if getattr(self, name) not in allowed
        ]
        if not 0 < self.false_reject < 0.5:
            wrong.append(f"false_reject {self.false_reject} is not a share between 0 and 0.5")
        if not self.minutes > 0:
            wrong.append(f"minutes {self.minutes} is not more than 0")
        wrong += [
            f"{name} {getattr(self, name)} is not at least {least}"
            for name, least in _LEAST
            if self._below(name, least)
        ]
        wrong += [
            f"{name} {path}: there is no such file or folder" for name, path in self._paths() if not path.exists()
        ]
        if self.masks is not None and self.locate not in ("auto", "head"):
            wrong.append(f"masks are for locate head, and locate {self.locate} was asked for; leave one of them out")
        if self.zone and self.zones is None:
            wrong.append("zone says what a label means, and no label image was given with zones")
        if wrong:
            raise ConfigError("train", wrong)

    def _below(self, name: str, least: int) -> bool:
        return int(getattr(self, name)) < least

    def _paths(self) -> list[tuple[str, Path]]:
        given = {name: getattr(self, name) for name in ("backbone", "exclude", "bad", "masks", "zones")}
        return [(name, path) for name, path in given.items() if path is not None]

    def settings(self) -> dict[str, Any]:
        """Return what the manifest keeps of it: no paths, which mean nothing elsewhere."""
        paths = {field.name for field in fields(self) if "Path" in str(field.type)}
        kept = {name: value for name, value in asdict(self).items() if name not in paths}
        return kept | {"zone": list(self.zone), "reconstruct": self.method}


_LEAST = (("threads", 1), ("repeats", 0))
