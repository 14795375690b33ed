"""The article's autoencoder: shapes, folding, preparation and the two errors, against slow or independent versions."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from pytorch_msssim import ssim

from line_worker.vision import classic, reconstruct
from line_worker.vision.cells import batch, blur
from line_worker.vision.classic import Autoencoder, Classic, Preparation, working_size


@pytest.fixture(scope="module")
def trained() -> Autoencoder:
    """Return a network whose weights and BatchNorm statistics are no longer the initial ones."""
    torch.manual_seed(3)
    net = Autoencoder(1, (128, 128)).train()
    optimiser = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(3):
        x = torch.rand(4, 1, 128, 128)
        loss = (net(x) - x).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return net.eval()


def stage_of(net: Autoencoder, template: np.ndarray | None = None) -> Classic:
    mask = np.ones((192, 160), bool) if template is None else template
    folded = classic.fold(net)
    return Classic(Preparation((128, 128), 0.2, 1.1, torch.from_numpy(mask)), folded, mask).eval()


def test_folding_does_not_change_the_function(trained):
    x = torch.rand(2, 1, 128, 128)
    with torch.inference_mode():
        assert torch.allclose(trained(x), classic.fold(trained)(x), atol=1e-5)
    assert not any("norm" in name for name in classic.fold(trained).state_dict())


@pytest.mark.parametrize(
    ("canonical", "expected"),
    [((320, 960), (128, 384)), ((960, 320), (384, 128)), ((1024, 1024), (224, 224)), ((64, 1024), (128, 416))],
)
def test_working_size(canonical, expected):
    assert working_size(*canonical) == expected


def test_small_budgets_keep_msssim_possible():
    assert min(working_size(320, 960, 1 << 14)) == classic.SHORTEST


def test_preparation_stretches_and_hides_what_is_not_the_part():
    template = np.zeros((192, 160), bool)
    template[48:144, 40:120] = True
    preparation = Preparation((128, 128), 0.5, 1.0, torch.from_numpy(template))
    canonical = torch.full((1, 1, 192, 160), 0.5)
    out = preparation(canonical)[0, 0]
    assert out[64, 64] == pytest.approx(0.1, abs=1e-6)
    assert out[0, 0] == pytest.approx(0.9, abs=1e-6)  # background is 1.0, wherever the picture says otherwise
    canonical[:] = 40.0
    assert preparation(canonical).max() == 1.0


def test_ssim_error_agrees_with_the_published_implementation():
    torch.manual_seed(0)
    a = torch.rand(2, 3, 64, 48)
    b = (a + 0.2 * torch.rand_like(a)).clamp(0, 1)
    ours = classic.ssim_error(a, b)[:, 5:-5, 5:-5].mean((1, 2))  # theirs leaves the border out
    theirs = ssim(a, b, data_range=1.0, size_average=False)
    assert torch.allclose(1 - 2 * ours, theirs, atol=1e-4)


def test_blur_is_opencvs():
    plane = np.random.default_rng(0).random((40, 50), np.float32)
    ours = blur(torch.from_numpy(plane)[None, None], 2.0, 6)[0, 0].numpy()
    theirs = cv2.GaussianBlur(plane, (13, 13), 2.0, borderType=cv2.BORDER_REPLICATE)
    assert np.allclose(ours, theirs, atol=1e-5)


def test_error_rises_where_the_picture_is_changed(trained):
    stage = stage_of(trained)
    canonical = torch.full((2, 1, 192, 160), 0.6)
    canonical[1, 0, 60:84, 100:120] = 1.1
    with torch.inference_mode():
        errors = stage(canonical)
    assert errors.shape == (2, 1, *stage.mask.shape)
    plain, changed = errors[:, 0]
    rows, cols = plain.shape
    row, col = divmod(int((changed - plain).argmax()), cols)
    assert 60 <= row / rows * 192 <= 84
    assert 100 <= col / cols * 160 <= 120


def test_error_is_counted_on_the_object_only(trained):
    template = np.zeros((192, 160), bool)
    template[48:144, 40:120] = True
    stage = stage_of(trained, template)
    clean = torch.full((1, 1, 192, 160), 0.6)
    dirty = clean.clone()
    dirty[..., :30, :] = 0.0
    with torch.inference_mode():
        assert torch.equal(stage(clean), stage(dirty))
    assert 0.15 < stage.mask.float().mean() < 0.25  # a quarter, less the border


def test_texture_keeps_its_border_cells(trained):
    assert stage_of(trained).mask.all()


def test_state_round_trip_is_bit_identical(trained):
    stage = stage_of(trained)
    stage.weights.copy_(torch.tensor([3.0, 0.5]))
    again = reconstruct.load(stage.meta(), stage.state())
    canonical = torch.rand(3, 1, 192, 160)
    with torch.inference_mode():
        one_by_one = [stage(image[None]) for image in canonical]
        assert torch.equal(torch.cat(one_by_one), torch.cat([again(image[None]) for image in canonical]))


def test_batches_agree_with_single_images(trained):
    stage = stage_of(trained)
    canonical = torch.rand(5, 1, 192, 160)
    with torch.inference_mode():
        single = torch.cat([stage(image[None]) for image in canonical])
        assert torch.allclose(stage(canonical), single, rtol=1e-4, atol=1e-6)


def test_colour_goes_through_whole():
    torch.manual_seed(0)
    stage = Classic(
        Preparation((128, 128), 0.0, 1.0, torch.ones(128, 128).bool()),
        classic.fold(Autoencoder(3, (128, 128))),
        np.ones((128, 128), bool),
    )
    gray = np.full((128, 128, 3), 0.5, np.float32)
    stained = gray.copy()
    stained[40:60, 40:60] = (0.2, 0.5, 0.8)  # same brightness, another hue
    with torch.inference_mode():
        plain, changed = stage(batch([gray, stained]))[:, 0]
    assert (changed - plain)[20:30, 20:30].mean() > 0.05
