"""A reconstructor comes back from what a bundle holds of it, or is refused with the reason."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from line_worker.vision import reconstruct
from line_worker.vision.classic import Autoencoder, Classic, Preparation, fold


@pytest.fixture
def stage() -> Classic:
    torch.manual_seed(5)
    template = np.ones((128, 160), bool)
    preparation = Preparation((128, 160), 0.1, 1.2, torch.from_numpy(template))
    return Classic(preparation, fold(Autoencoder(1, (128, 160))), template).eval()


def test_the_method_that_was_written_comes_back(stage):
    again = reconstruct.load(stage.meta(), stage.state())
    assert isinstance(again, Classic)
    assert again.meta() == stage.meta()
    picture = torch.rand(1, 1, 128, 160)
    with torch.inference_mode():
        assert torch.equal(again(picture), stage(picture))
    assert torch.equal(again.mask, stage.mask)


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match=f"'magic' is not one of {', '.join(reconstruct.METHODS)}"):
        reconstruct.load({"method": "magic"}, {})


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["net.mean", "weights"])
def test_arrays_that_are_not_finite_are_refused_by_name(stage, name, value):
    arrays = stage.state()
    arrays[name] = arrays[name].copy()
    arrays[name].flat[0] = value
    with pytest.raises(ValueError, match=f"{name} is not finite"):
        reconstruct.load(stage.meta(), arrays)


@pytest.mark.parametrize("name", ["template", "net.mean"])
def test_arrays_that_are_missing_are_refused(stage, name):
    arrays = {key: array for key, array in stage.state().items() if key != name}
    with pytest.raises((KeyError, RuntimeError), match=name.removeprefix("net.")):
        reconstruct.load(stage.meta(), arrays)
