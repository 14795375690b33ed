"""The backbone as GPUs run it computes what the backbone computes."""

from __future__ import annotations

import copy

import pytest
import torch

from calib import pretrained
from line_worker.vision.device.blocks import Blocks


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(64, 96), (72, 96), (61, 97)])  # the last two are not whole steps: padded as before
def test_the_maps_are_the_same(channels, size):
    plain = pretrained.load(None)
    images = torch.rand(2, channels, *size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = plain(images)
        got = Blocks(copy.deepcopy(plain), torch.float32, size)(images)
    assert len(got) == len(expected) == len(plain.taps)
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-4 * float(other.abs().max()))


def test_only_whole_steps_go_upside_down():
    plain = pretrained.load(None)
    assert Blocks(copy.deepcopy(plain), torch.float32, (64, 96)).turned
    assert not Blocks(copy.deepcopy(plain), torch.float32, (64, 88)).turned
