"""Self-test: an inspection that has reproduced its bundle's golden images on this machine, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from line_worker.bundle import Bundle, verify_golden
from line_worker.errors import BundleError
from line_worker.exported import Exports

if TYPE_CHECKING:
    from line_worker.vision.inspection import Inspection
    from line_worker.vision.runtime import Export


def _exported(bundle: Bundle) -> Export:
    """Return where the bundle's export is kept; OpenVINO is only there when something is converted."""

    def export(convert: Callable[[], Any]) -> Any:
        return Exports(bundle.sha)(convert)

    return export


def self_tested(bundle: Bundle, device: str = "auto", runtime: str = "auto") -> Inspection:
    """Return an inspection of `bundle` that judges the golden images as its maker did.

    With runtime auto, OpenVINO that does not reproduce them is left for torch, and that is logged. Raises BundleError
    when they are not reproduced, ConfigError for a device or runtime that is not here.
    """
    from line_worker.vision.inspection import Inspection

    inspection = Inspection.from_bundle(bundle, device, runtime, _exported(bundle))
    try:
        verify_golden(bundle, inspection, inspection.tolerance)
    except BundleError as error:
        if runtime != "auto" or inspection.runtime == "torch":
            raise
        structlog.get_logger().warning("openvino does not reproduce the bundle: torch is used", error=str(error))
        inspection = Inspection.from_bundle(bundle, device, "torch")
        verify_golden(bundle, inspection, inspection.tolerance)
    return inspection
