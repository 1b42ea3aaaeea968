"""Convolutions row by row of pixels against the same kernels over the whole image, which are tested against torch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from sparseflow.engine.layers import products
from sparseflow.engine.layers.functions import to_images, to_storage
from sparseflow.engine.layers.geometry import Window
from sparseflow.engine.layers.pattern import Pattern
from sparseflow.engine.layers.products import Product

OUTPUTS, INPUTS = 8, 4
STRIDES, DILATIONS, PADDINGS = ((1, 1), (2, 1), (3, 3)), ((1, 1), (2, 2)), (0, 1)
#: Strides that leave rows out, windows that reach beyond the image, one row of outputs, rows shorter than a vector.
SIZES = ((7, 5), (2, 9), (6, 1))


def results(product: Product, batch: int) -> list[Tensor]:
    """Output and both gradients for the same random numbers; borders of gradients hold no meaning and are cut."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(product.pattern.num_active, generator=generator)
    x = torch.randn(batch, INPUTS, *product.x.size, generator=generator)
    g = torch.randn(batch, OUTPUTS, *product.y.size, generator=generator)
    source = to_storage(x, product.x)
    gx, gv = product.gradients(values, source, to_storage(g, product.g))
    return [product.forward(values, None, source), to_images(gx, INPUTS, product.gx), gv]


@pytest.mark.parametrize("in_blocks", [True, False], ids=["blocks", "single weights"])
@pytest.mark.parametrize("batch", [1, 5, 16])
def test_rows_give_what_the_whole_image_gives(in_blocks: bool, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over pixels are taken in another order: float32 rounds a few units of 1e-7 of numbers below 50."""
    generator = torch.Generator().manual_seed(0)
    tried = 0
    for stride, dilation, pad, groups, size in itertools.product(STRIDES, DILATIONS, PADDINGS, (1, 2), SIZES):
        if min(size) + 2 * pad < dilation[0] * 2 + 1:
            continue
        rows = OUTPUTS // 4 if in_blocks else OUTPUTS
        mask = torch.rand(rows, INPUTS // groups, 3, 3, generator=generator) < 0.4
        pattern = Pattern.of(mask.repeat_interleave(OUTPUTS // rows, 0), groups=groups)
        window = Window((3, 3), stride, dilation, ((pad, pad), (pad, pad)))
        found = []
        for large in (1 << 40, 0):
            monkeypatch.setattr(products, "_LARGE", large)
            product = Product(pattern, window, size, batch, 4)
            found.append(results(product, batch))
        assert product.by_rows == (product.y.size[0] > 1)
        tried += product.by_rows
        for whole, by_rows in zip(*found, strict=True):
            torch.testing.assert_close(by_rows, whole, rtol=1e-5, atol=2e-5)
    assert tried > 20


def test_only_windows_of_several_rows_over_large_images_go_by_rows() -> None:
    pattern = Pattern.of(torch.ones(4, 64, 3, 3, dtype=torch.bool))
    padded = Window((3, 3), padding=((1, 1), (1, 1)))
    assert Product(pattern, padded, (32, 32), 32, 4).by_rows
    assert not Product(pattern, padded, (32, 32), 2, 4).by_rows
    pointwise = Pattern.of(torch.ones(4, 64, 1, 1, dtype=torch.bool))
    assert not Product(pointwise, Window(), (32, 32), 32, 4).by_rows
