"""Published figures for MVTec AD's screw, and GANomaly measured here when anomalib is installed.

Published figures are other people's measurements: on the original PNG images, resized, without a threshold that had to
be set from good parts alone. They say where the field is, not what this machine would measure.
"""

from __future__ import annotations

import tempfile
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

CATEGORY = "screw"
ANOMALIB = "anomalib's benchmark, README of src/anomalib/models/image/"
INSTALL = "pip install anomalib"


class Published(NamedTuple):
    """A method's figures on screw, as (low, high) over the variants in the source; None where it gives none."""

    method: str
    image_auroc: tuple[float, float]
    au_pro: tuple[float, float] | None
    source: str


SCREW = (
    Published("PaDiM", (0.759, 0.845), None, f"Defard et al. 2021, arXiv 2011.08785; {ANOMALIB}padim"),
    Published("PatchCore", (0.943, 0.960), None, f"Roth et al. 2022, arXiv 2106.08265; {ANOMALIB}patchcore"),
    Published("EfficientAD", (0.960, 0.975), None, f"Batzner et al. 2024, arXiv 2303.14535; {ANOMALIB}efficient_ad"),
    Published(
        "reverse distillation",
        (0.985, 0.985),
        None,
        f"Deng, Li 2022, arXiv 2201.10703; {ANOMALIB}reverse_distillation",
    ),
    Published("Dinomaly", (0.986, 0.986), None, f"Guo et al. 2025, arXiv 2405.14325; {ANOMALIB}dinomaly"),
    Published("GANomaly", (0.231, 0.231), None, f"Akcay et al. 2018, arXiv 1805.06725; {ANOMALIB}ganomaly"),
)


def published(category: Path) -> tuple[Published, ...]:
    """Return the figures for `category`: those of screw when it is called so, else none."""
    return SCREW if category.resolve().name == CATEGORY else ()


def anomalib_is_there() -> bool:
    """Return whether anomalib can be imported, without importing it."""
    return find_spec("anomalib") is not None


def ganomaly(category: Path) -> float:
    """Train anomalib's GANomaly on the category's good images, with its defaults; return the test image AUROC."""
    data, engines, models = (import_module(f"anomalib.{name}") for name in ("data", "engine", "models"))
    defects = sorted(path.name for path in (category / "test").iterdir() if path.is_dir() and path.name != "good")
    folders = data.Folder(
        name=category.name,
        root=category,
        normal_dir="train/good",
        normal_test_dir="test/good",
        abnormal_dir=[f"test/{defect}" for defect in defects],
        val_split_mode="same_as_test",  # every test image is tested; nothing is chosen by looking at them
    )
    with tempfile.TemporaryDirectory(prefix="line-worker-ganomaly-") as folder:
        engine, model = engines.Engine(default_root_dir=folder), models.Ganomaly()
        engine.fit(model=model, datamodule=folders)
        return float(engine.test(model=model, datamodule=folders)[0]["image_AUROC"])
