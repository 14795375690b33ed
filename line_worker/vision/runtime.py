"""Runtime: what runs the networks on a CPU. OpenVINO where it is installed, which takes half of torch's time.

The reconstructor is traced and converted as it is loaded, in a few seconds and from the bundle's own weights; whoever
loads it may keep what the converter made (exported.py). Both run in single precision; their scores agree to
GOLDEN_TOLERANCE of the bundle, which every worker proves on the golden images before it judges a part.

`device` is the batched pipeline of device/, which other devices run anyway; on a CPU it is slow and there to be tested.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from line_worker.errors import ConfigError

RUNTIMES = ("auto", "torch", "openvino", "device")

Maps = Callable[[Tensor], Tensor]
Export = Callable[[Callable[[], Any]], Any]  # what converts -> the openvino.Model, perhaps kept from an earlier time


def choose(name: str, device: torch.device) -> str:
    """Return which of the others `name` stands for here.

    Raises ConfigError when what is asked for is not installed or not for this device.
    """
    if name not in RUNTIMES:
        raise ConfigError("runtime", [f"{name!r} is not one of {', '.join(RUNTIMES)}"])
    installed = importlib.util.find_spec("openvino") is not None
    if name == "openvino" and not installed:
        raise ConfigError("runtime", ["openvino is not installed: pip install line-worker[openvino], or use torch"])
    if name == "openvino" and device.type != "cpu":
        raise ConfigError("runtime", [f"openvino runs on the CPU, not on {device}; use torch or auto"])
    if name == "auto":
        return "openvino" if installed and device.type == "cpu" else "torch"
    return name


def compile_openvino(
    reconstructor: nn.Module, channels: int, size: tuple[int, int], export: Export = lambda convert: convert()
) -> Maps:
    """Return what `reconstructor` computes of one canonical image (1, C, H, W), run by OpenVINO on torch's threads."""
    import openvino as ov

    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # it would pin the threads of every worker of a host to the same cores
        "INFERENCE_PRECISION_HINT": "f32",  # half precision would move scores by more than the tolerance
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    model = export(lambda: _converted(reconstructor, [1, channels, *size]))
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

    def maps(canonical: Tensor) -> Tensor:
        found = request.infer([canonical.contiguous().numpy()], share_inputs=True)
        return torch.from_numpy(next(iter(found.values())).copy())

    return maps


def _converted(reconstructor: nn.Module, shape: list[int]) -> Any:
    """Return the openvino.Model of `reconstructor` for images of `shape`."""
    import openvino as ov

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its converter traces, which torch would rather not do
        traced = torch.jit.TracerWarning  # type: ignore[attr-defined]
        warnings.simplefilter("ignore", traced)  # shapes become constants, which they are here
        return ov.convert_model(reconstructor, example_input=torch.ones(shape), input=[ov.PartialShape(shape)])
