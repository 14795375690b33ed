"""Fits the linear autoencoder of features: principal components of whole parts, through the matrix of their products.

There are far fewer parts than numbers in a part, so the components follow from the N x N matrix of inner products
(Turk and Pentland 1991), which is computed once and serves every fold.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from calib.reduction import Reduced
from line_worker.vision.feature import Feature

DIMENSIONS = 64  # of the reduced features: the rest is noise, and costs
COMPONENTS = 24
SHARE = 0.5  # of the images: no more components than this, or little would be left to be unusual
SPAN = 1 << 15  # numbers of each part at a time


class Parts(NamedTuple):
    """Good parts as vectors: values (N, n, D) less their mean, and the products of each two (N, N)."""

    values: Tensor
    mean: Tensor
    products: Tensor
    cells: Tensor


def gather(reduced: Reduced, cells: Tensor) -> Parts:
    """Return all good parts as vectors."""
    values = reduced.values[:, cells][:, :, :DIMENSIONS].float()
    mean = values.mean(0)
    values -= mean
    flat = values.flatten(1)
    products = torch.zeros(len(flat), len(flat))
    for part in torch.split(flat, SPAN, 1):
        products += part @ part.T
    return Parts(values, mean, products, cells)


def build(parts: Parts, images: Tensor) -> Feature:
    """Return the autoencoder of `images` (indices)."""
    count = len(images)
    centring = torch.eye(count) - 1 / count  # around the mean of these images, not of all
    own = centring @ parts.products[images][:, images] @ centring
    variances, vectors = torch.linalg.eigh(own)
    kept = max(1, min(COMPONENTS, int(SHARE * count)))
    kept = min(kept, int((variances > 1e-6 * variances[-1].clamp(min=1e-12)).sum()) or 1)
    weights = centring @ vectors[:, -kept:] / variances[-kept:].clamp(min=1e-12).sqrt()
    chosen = parts.values[images].flatten(1)
    components = (weights.T @ chosen).view(kept, *parts.mean.shape)
    mean = parts.mean + parts.values[images].mean(0)
    return Feature(mean, components, parts.cells).eval()
