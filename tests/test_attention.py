"""The comparison of two networks: the one that sees painted defects has the larger area, whichever place it has."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from calib import attention
from calib.attention import Compared, compare
from calib.schedule import single_threaded

SIZE = (64, 96)
TEMPLATE = np.ones(SIZE, np.bool_)
USUAL = np.tile(np.linspace(0.2, 0.8, SIZE[1], dtype=np.float32), (SIZE[0], 1))


@pytest.fixture(scope="module", autouse=True)
def _quick_on_a_busy_machine():
    with single_threaded():
        yield


class Plain(nn.Module):
    """Features that are the picture itself, a value a cell."""

    cells = torch.ones(8, 12, dtype=torch.bool)

    def forward(self, canonical: torch.Tensor) -> torch.Tensor:
        return canonical


class Seeing(nn.Module):
    """Has learned what good parts are: its error is how far the worst pixel of a cell is from that."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return nn.functional.max_pool2d((picture - torch.from_numpy(USUAL)).abs(), 8)


class Blind(nn.Module):
    """Has learned nothing that depends on the picture's defects: its error is that of the upper left pixel."""

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return nn.functional.avg_pool2d(picture[:, :, :8, :8], 8).expand(-1, -1, 8, 12)


def good(count: int) -> list[np.ndarray]:
    dice = np.random.default_rng(3)
    return [(USUAL + 0.002 * dice.standard_normal(SIZE)).astype(np.float32) for _ in range(count)]


def test_the_network_that_sees_defects_has_the_larger_area():
    found = compare(Seeing(), Blind(), Plain(), good(12), TEMPLATE, 0, 1)
    assert found.chosen > 0.9 > 0.7 > found.rival
    assert found.good == 12
    assert found.painted > 24
    turned = compare(Blind(), Seeing(), Plain(), good(12), TEMPLATE, 0, 1)
    assert (turned.chosen, turned.rival) == (found.rival, found.chosen)


def test_no_more_pictures_than_needed_are_judged(monkeypatch):
    monkeypatch.setattr(attention, "PICTURES", 5)
    assert compare(Seeing(), Blind(), Plain(), good(12), TEMPLATE, 0, 1).good == 5


@pytest.mark.parametrize(("chosen_has_it", "order"), [(True, "with attention.*without"), (False, "without.*with 0.8")])
def test_the_sentence_says_which_is_which(chosen_has_it, order):
    import re

    assert re.search(order, Compared(0.9, 0.8, 90, 24).words(chosen_has_it))
